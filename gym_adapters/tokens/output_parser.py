"""Sampled ids to items: thinking, text and tool calls, whatever the ids spell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from gym_adapters.errors import UsageError
from gym_adapters.items import FinishReason, FunctionTool, Item
from gym_adapters.tokens.formats import FORMATS, Lexeme, OutputFormat, Turn
from gym_adapters.tokens.formats.turn import ToolSchemas, tool_schemas
from gym_adapters.tokens.tokenizer import ChatTokenizer

__all__ = ["FormatParser", "detect_format", "output_parser"]

# The first that applies: all of these texts stand in the template.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("harmony", ("<|channel|>", "<|message|>")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek", ("<｜tool▁call▁begin｜>",)),
    ("kimi", ("<|tool_calls_section_begin|>",)),
    ("glm", ("<tool_call>", "<arg_key>")),
    ("qwen_xml", ("<tool_call>", "<function=", "<parameter=")),
    ("hermes", ("<tool_call>", '"arguments"')),
    ("hermes", ("<tool_call>", "tool_call.arguments")),
    ("pythonic", ("<|tool_call_start|>",)),
    ("llama_json", ("ipython", '"parameters"')),
    ("llama_json", ("<|python_tag|>",)),
)
_MAX_ID = 2**32


class FormatParser:
    """An `OutputParser` for one tokenizer and one format.

    Only genuine control ids count as the format's marks where the tokenizer has such tokens; where
    it has not, the same text counts.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        format: How the model writes.
        starts_thinking: Whether the prompt's opening of the turn opens the thinking too.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        format: OutputFormat,  # noqa: A002 - the word users look for
        *,
        starts_thinking: bool = False,
    ) -> None:
        self.format = format
        self.starts_thinking = starts_thinking
        self._backend = tokenizer.backend_tokenizer
        self._tools: ToolSchemas = {}
        added = tokenizer.added_tokens_decoder
        self._marks = {i: t.content for i, t in added.items() if t.content in format.markers}
        spelled = [text for text in format.markers if text not in self._marks.values()]
        self._spelled = re.compile("|".join(map(re.escape, spelled)) if spelled else r"(?!)")
        specials = (i for i, token in added.items() if token.special)
        self._ends = frozenset(specials) - frozenset(self._marks)
        if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in self._marks:
            self._ends |= {tokenizer.eos_token_id}

    @property
    def reads_calls(self) -> bool:
        """Whether the format has tool calls."""
        return self.format.reads_calls

    def for_tools(self, tools: Sequence[FunctionTool]) -> FormatParser:
        """The same parser, told the tools' parameter types.

        Formats that write all arguments as text need them to tell ``"1"`` from ``1``.
        """
        told = copy(self)
        told._tools = tool_schemas(tools)
        return told

    def parse(
        self, token_ids: Sequence[int], *, finish_reason: FinishReason, call_id_prefix: str
    ) -> list[Item]:
        """Thinking, text and tool calls that the ids spell; see `OutputParser`."""
        ids = [i for i in token_ids if 0 <= i < _MAX_ID]
        while ids and finish_reason == "stop" and ids[-1] in self._ends:
            ids.pop()
        turn = Turn(finish_reason, call_id_prefix, self._tools, self.starts_thinking)
        self.format.read(self._lexemes(ids), turn)
        return turn.items()

    def _lexemes(self, ids: Sequence[int]) -> list[Lexeme]:
        lexemes: list[Lexeme] = []
        start = 0
        for position, token_id in enumerate(ids):
            mark = self._marks.get(token_id)
            if mark is not None:
                self._add_text(ids[start:position], lexemes)
                lexemes.append(Lexeme(mark, True))
                start = position + 1
        self._add_text(ids[start:], lexemes)
        return lexemes

    def _add_text(self, ids: Sequence[int], lexemes: list[Lexeme]) -> None:
        if not ids:
            return
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        start = 0
        for match in self._spelled.finditer(text):
            if match.start() > start:
                lexemes.append(Lexeme(text[start : match.start()], False))
            lexemes.append(Lexeme(match[0], True))
            start = match.end()
        if start < len(text):
            lexemes.append(Lexeme(text[start:], False))


def detect_format(tokenizer: ChatTokenizer, chat_template: str | None = None) -> str:
    """The name of the format that a chat template asks for, ``plain`` where it asks for none."""
    source = chat_template or tokenizer.chat_template or ""
    text = source if isinstance(source, str) else "\n".join(map(str, source.values()))
    text = text.replace('\\"', '"')
    for name, signs in _SIGNS:
        if all(sign in text for sign in signs):
            return name
    return "plain"


def output_parser(
    tokenizer: ChatTokenizer,
    format: str | OutputFormat | None = None,  # noqa: A002 - the word users look for
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> FormatParser:
    """The parser for a tokenizer.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        format: A name in `FORMATS`, a format of your own, or ``None`` to tell from the template.
        chat_template: A template used in place of the tokenizer's own.
        template_kwargs: Variables for it.

    Raises:
        UsageError: If there is no format of that name.
    """
    found = detect_format(tokenizer, chat_template) if format is None else format
    if isinstance(found, str):
        if found not in FORMATS:
            raise UsageError(f"No output format {found!r}. Use one of {', '.join(FORMATS)}.")
        found = FORMATS[found]()
    starts = _prompt_opens_thinking(tokenizer, chat_template, template_kwargs or {})
    return FormatParser(tokenizer, found, starts_thinking=starts)


def _prompt_opens_thinking(
    tokenizer: ChatTokenizer, chat_template: str | None, kwargs: Mapping[str, Any]
) -> bool:
    if not (chat_template or tokenizer.chat_template):
        return False
    try:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "probe"}],
            chat_template=chat_template,
            add_generation_prompt=True,
            tokenize=False,
            **kwargs,
        )
    except Exception:  # noqa: BLE001 - a template that refuses says so when it is rendered
        return False
    return str(prompt).rstrip().endswith("<think>")
