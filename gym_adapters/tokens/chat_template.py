"""One chat template, rendered to text, and what it takes to speak to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gym_adapters.errors import LedgerError, UsageError
from gym_adapters.items import (
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
    user_message,
)
from gym_adapters.tokens.chat_messages import MessageDialect, template_tools
from gym_adapters.tokens.control_text import ControlText
from gym_adapters.tokens.tokenizer import ChatTokenizer

__all__ = ["ChatTemplate", "TemplateRefuses", "TemplateRewritesHistory"]

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


class TemplateRewritesHistory(LedgerError):
    """The chat template renders earlier turns differently once new items follow.

    The tokens sampled so far are no prefix of what the template would render. Start a new segment
    from a full rendering, or use a template that keeps history as it is.
    """


class TemplateRefuses(LedgerError):
    """The chat template raised an error: it can't express this conversation."""


class ChatTemplate:
    """Renders items to text, with look-alikes of control tokens kept apart.

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
        source = chat_template or getattr(tokenizer, "chat_template", None)
        if not source:
            raise UsageError(
                "The tokenizer has no chat template. Pass chat_template=, or use the tokenizer of "
                "an instruction-tuned model."
            )
        self.source = source if isinstance(source, str) else json.dumps(source, sort_keys=True)
        self.control = ControlText(tokenizer, allow_in_text=allow_in_text)
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._kwargs = dict(template_kwargs or {})
        self.eos_token_id = tokenizer.eos_token_id
        self.dialect = MessageDialect()
        self.dialect = self._probe_dialect()

    @property
    def hash(self) -> str:
        """SHA-256 over template, its variables and the tokenizer's control tokens, 16 digits."""
        parts = [self.source, sorted(self.control.ids.items()), sorted(self._kwargs.items())]
        text = json.dumps(parts, ensure_ascii=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def render(
        self,
        items: Sequence[Item],
        tools: Sequence[FunctionTool] = (),
        *,
        generation_prompt: bool = True,
        names: Mapping[str, str] | None = None,
    ) -> str:
        """The conversation as text, look-alikes escaped (see `ControlText`).

        Raises:
            TemplateRefuses: If the template can't express the conversation.
        """
        messages = self.dialect.finish(self.control.escape(self.dialect.messages(items, names)))
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tools=self.control.escape(template_tools(tools)),
                chat_template=self._chat_template,
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **self._kwargs,
            )
        except Exception as error:
            raise TemplateRefuses(
                "The chat template can't express this conversation: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(text, str):
            raise LedgerError(f"The chat template rendered {type(text).__name__}, not text.")
        return text

    def shows_system(self) -> bool:
        """Whether a system message is shown or refused, and not dropped in silence."""
        try:
            text = self.render([message("system", "gymprobe"), user_message("ask")])
        except TemplateRefuses:
            return True
        return "gymprobe" in text

    def _probe_dialect(self) -> MessageDialect:
        """The plainest dialect in which the template shows all of a conversation."""
        if "gymprobe" not in self._renders([user_message("gymprobe")]):
            self.dialect = replace(self.dialect, content_as_parts=True)
            if "gymprobe" not in self._renders([user_message("gymprobe")]):
                self.dialect = replace(self.dialect, content_as_parts=False)
        plain = self.dialect
        call = function_call("probe", '{"a": "b"}', "call_0")
        asked: list[Item] = [user_message("probe"), call, function_call_output("call_0", "probe")]
        for as_text, nine_letters in ((False, False), (True, False), (False, True), (True, True)):
            self.dialect = replace(plain, arguments_as_text=as_text, nine_letter_ids=nine_letters)
            if self._renders(asked):
                break
        else:
            self.dialect = plain
        self.dialect = replace(self.dialect, developer_role=self._shows_developer())
        return replace(self.dialect, reasoning_key=self._probe_reasoning_key())

    def _shows_developer(self) -> bool:
        """Whether the template names the role itself; a generic one was never trained on it."""
        self.dialect = replace(self.dialect, developer_role=True)
        text = self._renders([message("developer", "gymprobe"), user_message("probe")])
        return "developer" in self.source and "gymprobe" in text

    def _probe_reasoning_key(self) -> str | None:
        """The first key whose thinking the template shows in a last turn or before a result."""
        call = function_call("probe", '{"a": "b"}', "call_0")
        asked: list[Item] = [user_message("probe"), reasoning("gymprobe")]
        ends: tuple[list[Item], ...] = (
            [assistant_message("probe")],
            [call, function_call_output("call_0", "probe")],
        )
        for key in _REASONING_KEYS:
            self.dialect = replace(self.dialect, reasoning_key=key)
            if any("gymprobe" in self._renders([*asked, *end]) for end in ends):
                return key
        return None

    def _renders(self, items: Sequence[Item]) -> str:
        try:
            return self.render(items, generation_prompt=False)
        except TemplateRefuses:
            return ""
