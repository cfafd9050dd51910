"""Turns as NeMo RL's native path shows them: text without special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gym_adapters.adapters.nemo_rl.settings import StepSettings
from gym_adapters.errors import EnvironmentFailure, Unsupported
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.items import FinishReason, FunctionTool, Item, assistant_message
from gym_adapters.tokens.output_parser import FormatParser, output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer
from gym_adapters.tokens.template_report import probe

__all__ = ["StepTexts"]


class StepTexts:
    """Reads decoded turns, and writes what follows them with its turn delimiters.

    Args:
        tokenizer: The policy's.
        settings: Of the native path.

    Raises:
        UsageError: If there is no chat template, or the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: Any, settings: StepSettings) -> None:
        options: dict[str, Any] = {
            "chat_template": settings.chat_template,
            "template_kwargs": settings.template_kwargs or None,
        }
        self._tokenizer, self._settings = tokenizer, settings
        self._renderer = TemplateRenderer(tokenizer, **options)
        self._parser = output_parser(tokenizer, settings.chat_format, **options)
        self._report = probe(tokenizer, **options)
        self._added = frozenset(tokenizer.added_tokens_decoder)

    def refuse_unreadable(self, *, tools: bool) -> None:
        """Raise unless turns survive NeMo RL's decoding, which drops special tokens.

        Args:
            tools: Whether the environment has tools.

        Raises:
            Unsupported: Naming what is lost, or what the template rewrites.
        """
        special = {
            token.content
            for token in self._tokenizer.added_tokens_decoder.values()
            if token.special
        }
        lost = sorted(special & set(self._parser.format.markers))
        if lost and (tools or "<|channel|>" in lost):
            raise Unsupported(
                f"NeMo RL decodes turns without special tokens, and {', '.join(lost)} are special "
                "here, and mark tool calls or turns. Use the exact path: see docs/nemo_rl.md."
            )
        if tools and not self._parser.reads_calls:
            raise Unsupported(
                "the environment has tools, and the chat template tells no format of tool calls. "
                "Fix: name one, env.gym.chat_format."
            )
        for subject in ("user turns", *(("tool results",) if tools else ())):
            if self._report.verdict(subject) != "kept":
                raise Unsupported(
                    f"the chat template does not keep history over {subject}, and a sample of NeMo "
                    "RL's only grows. Use another template."
                )

    def count(self, text: str) -> int:
        """How many tokens `text` is, special ones read as such."""
        return len(self._ids(text))

    def read(self, text: str, turn: int, tools: Sequence[FunctionTool]) -> ModelTurn:
        """A decoded turn; one as long as ``max_new_tokens`` counts as cut."""
        ids = self._ids(text)
        cut = len(ids) >= self._settings.max_new_tokens
        finish_reason: FinishReason = "length" if cut else "stop"
        parser: FormatParser = self._parser.for_tools(tools) if tools else self._parser
        items = parser.parse(ids, finish_reason=finish_reason, call_id_prefix=f"call_{turn}_")
        # The token that ended it is not shown.
        sampled = len(ids) + (0 if cut else 1)
        return ModelTurn(items, finish_reason, Usage(output_tokens=sampled))

    def write(
        self, history: Sequence[Item], new_items: Sequence[Item], tools: Sequence[FunctionTool]
    ) -> str:
        """What follows a turn, up to the opening of the next one, as text that NeMo RL tokenises.

        Raises:
            EnvironmentFailure: If the environment's text would become control tokens.
            TemplateRewritesHistory: If the template would render `history` differently now.
        """
        ids = self._renderer.delta_ids(
            history,
            new_items,
            last_sampled_id=self._tokenizer.eos_token_id,
            tools=tools,
        )
        text = str(self._tokenizer.decode(ids, skip_special_tokens=False))
        if self._controls(self._ids(text)) != self._controls(ids):
            raise EnvironmentFailure(
                "the environment wrote text that NeMo RL would read as control tokens of the chat "
                "template. The exact path takes it as text."
            )
        return text

    def history_of(self, items: Sequence[Item]) -> list[Item]:
        """A turn as it stands in the conversation; an empty one is a turn all the same."""
        return list(items) or [assistant_message("")]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self._added]
