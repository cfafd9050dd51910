"""Items to token ids, by any Hugging Face chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gym_adapters.errors import LedgerError, Unsupported
from gym_adapters.items import FunctionTool, Item
from gym_adapters.tokens.chat_template import (
    ChatTemplate,
    TemplateRefuses,
    TemplateRewritesHistory,
)
from gym_adapters.tokens.tokenizer import ChatTokenizer
from gym_adapters.tokens.turn_boundary import Delta, Shape, TurnBoundary

__all__ = ["TemplateRefuses", "TemplateRenderer", "TemplateRewritesHistory"]

_SYSTEM_ROLES = ("system", "developer")


class TemplateRenderer:
    """A `ChatRenderer` for any fast tokenizer with a chat template.

    The conversation is rendered to text and tokenised once; what follows a sampled turn is the
    template's own text, cut from a short rendering after a proof that the template leaves history
    alone (`TurnBoundary`). Message content is encoded as text (`ControlText`).

    Making one takes a second or more for a large vocabulary, and proofs are kept in it: make one
    per model and share it between rollouts.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        chat_template: A Jinja template to use in place of the tokenizer's own.
        template_kwargs: Variables for the template (``enable_thinking``, say).
        allow_in_text: Added tokens that message content may produce.

    Raises:
        UsageError: If there is no chat template, or the tokenizer is a slow one.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        allow_in_text: Collection[str] = (),
    ) -> None:
        self._template = ChatTemplate(
            tokenizer,
            chat_template=chat_template,
            template_kwargs=template_kwargs,
            allow_in_text=allow_in_text,
        )
        self._boundary = TurnBoundary(self._template)
        self._shows_system = self._template.shows_system()
        self._hash = self._template.hash
        self._stop_token_ids = self._find_stop_token_ids()

    @property
    def template_hash(self) -> str:
        """Identifies template, its variables and the tokenizer's control tokens."""
        return self._hash

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant turn: the template's turn ends, and the tokenizer's EOS."""
        return self._stop_token_ids

    def prompt_ids(self, items: Sequence[Item], tools: Sequence[FunctionTool]) -> list[int]:
        """The whole conversation and the opening of the assistant's turn, tokenised once.

        Raises:
            TemplateRefuses: If the template can't express the conversation.
            Unsupported: If the template leaves `tools` or system messages out, or an item holds
                more than text.
        """
        if not self._shows_system and any(item.get("role") in _SYSTEM_ROLES for item in items):
            raise Unsupported(
                "The chat template leaves out system messages. Put the text in the user's message, "
                "or use a template that supports them: pass chat_template=."
            )
        text = self._template.render(items, tools)
        for tool in tools:
            if self._template.control.escape(tool["name"]) not in text:
                raise Unsupported(
                    f"The chat template leaves out the tool {tool['name']!r}. Use a template that "
                    "supports tools: pass chat_template=."
                )
        return self._template.control.encode(text)

    def delta_ids(
        self,
        history: Sequence[Item],
        new_items: Sequence[Item],
        *,
        last_sampled_id: int | None,
        tools: Sequence[FunctionTool],
    ) -> list[int]:
        """What stands between the assistant's sampled turn and its next one; see `ChatRenderer`.

        Linear in `new_items` where the template is proved to leave history alone for this shape.
        Where it isn't, the real conversation is rendered as text, and compared.

        Raises:
            TemplateRewritesHistory: If the template would render `history` differently now.
            TemplateRefuses: If the template can't express the conversation.
            Unsupported: If the template leaves the new items out.
        """
        delta = self._boundary.delta(history, new_items, tools)
        ids = self._template.control.encode(delta.text)
        if last_sampled_id is None or last_sampled_id not in self._end_ids(delta):
            return ids
        opening = self._template.control.first_control(delta.text)
        if opening is None or opening.start() > 0 or opening[0] not in delta.ends:
            return ids
        if ids[0] != self._template.control.ids[opening[0]]:
            raise LedgerError("The text that follows a turn does not start with the turn's end.")
        return ids[1:]

    def _end_ids(self, delta: Delta) -> set[int]:
        return {self._template.control.ids[text] for text in delta.ends}

    def _find_stop_token_ids(self) -> tuple[int, ...]:
        ids: list[int] = []
        for shape in (Shape(0, ("user",)), Shape(1, ("tool",))):
            try:
                stops = self._boundary.proof(shape).closing.stops
            except (TemplateRefuses, Unsupported):
                continue
            ids.extend(self._template.control.ids[text] for text in sorted(stops))
        if self._template.eos_token_id is not None:
            ids.append(self._template.eos_token_id)
        return tuple(dict.fromkeys(ids))
