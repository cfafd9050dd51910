"""What the token layer promises to the layers above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gym_adapters.items import FinishReason, FunctionTool, Item

__all__ = ["ChatRenderer", "OutputParser"]


class ChatRenderer(Protocol):
    """Items to token ids, by one chat template."""

    @property
    def template_hash(self) -> str:
        """Identifies template and tokenizer in a rollout's provenance."""
        ...

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant turn in this template."""
        ...

    def prompt_ids(self, items: Sequence[Item], tools: Sequence[FunctionTool]) -> list[int]:
        """The whole conversation and the opening of the assistant's turn, tokenised once."""
        ...

    def delta_ids(
        self,
        history: Sequence[Item],
        new_items: Sequence[Item],
        *,
        last_sampled_id: int | None,
        tools: Sequence[FunctionTool],
    ) -> list[int]:
        """What stands between the assistant's sampled turn and its next one.

        That is the end of the sampled turn where the policy did not sample it itself, `new_items`,
        and the opening of the next assistant turn. Control tokens come from the template alone:
        text inside `new_items` is encoded as text.

        Args:
            history: All items before `new_items`; the last one(s) are the assistant's turn.
            new_items: Tool results or messages that follow it.
            last_sampled_id: The turn's last sampled id, ``None`` where nothing was sampled.
            tools: Tools the conversation was opened with.

        Cost: linear in `new_items`, whatever the length of `history`.
        """
        ...


class OutputParser(Protocol):
    """Sampled ids to items."""

    def parse(
        self, token_ids: Sequence[int], *, finish_reason: FinishReason, call_id_prefix: str
    ) -> list[Item]:
        """Reasoning, text and tool calls that the ids spell; never raises.

        What can't be parsed stays text, and its message says so: its ``status`` is ``incomplete``.
        A tool call with broken JSON is still a function_call item with its arguments verbatim, so
        that the episode can tell the model what was wrong.

        Args:
            token_ids: One sampled turn, stop id included where sampled.
            finish_reason: ``length`` where the turn was cut: an unfinished call stays text.
            call_id_prefix: Call ids are ``f"{call_id_prefix}{n}"``, n from 0.
        """
        ...
