"""Whether the chat template suits the environment, and whether the parser reads what it writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.tool_arguments import example_arguments
from gym_adapters.items import (
    FunctionCall,
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    item_text,
    reasoning,
    user_message,
)
from gym_adapters.tokens.chat_template import ChatTemplate, TemplateRefuses
from gym_adapters.tokens.output_parser import FormatParser, output_parser
from gym_adapters.tokens.stress_conversations import PROBE_TOOL
from gym_adapters.tokens.template_renderer import TemplateRenderer
from gym_adapters.tokens.template_report import TemplateReport, probe
from gym_adapters.tokens.tokenizer import ChatTokenizer

__all__ = ["Speech", "needed_shapes", "speech_of", "template_findings"]

PART = "chat template"
SEGMENTS = (
    "a chat template that leaves history as it is (TRL ships some as *_training.jinja), or trainer "
    "verl, which takes several samples"
)
# These depend on how the model writes; the others come in every rollout of such an environment.
CONDITIONAL = ("parallel tool calls", "tool results after text and a call")


@dataclass(frozen=True, slots=True)
class Speech:
    """A tokenizer, and all that speaks through it.

    Attributes:
        tokenizer: The model's.
        template: Its chat template.
        renderer: Items to ids.
        parser: Ids to items.
        report: What the template does to history.
        thinks: Whether the model is asked to think aloud.
    """

    tokenizer: ChatTokenizer
    template: ChatTemplate
    renderer: TemplateRenderer
    parser: FormatParser
    report: TemplateReport
    thinks: bool


def speech_of(tokenizer: ChatTokenizer, variables: Mapping[str, Any] | None = None) -> Speech:
    """Try the tokenizer's chat template, with these template variables.

    Raises:
        UsageError: If there is no chat template, or the tokenizer is a slow one.
        TemplateRefuses: If the template can't express a question.
    """
    report = probe(tokenizer, template_kwargs=variables)
    switched_off = (variables or {}).get("enable_thinking") is False
    template = ChatTemplate(tokenizer, template_kwargs=variables)
    able = report.reasoning_key is not None or "<think>" in template.source
    # A prompt that closes the thinking at once asks for none.
    switched_off |= "</think>" in template.render([user_message("gymask")])
    return Speech(
        tokenizer,
        template,
        TemplateRenderer(tokenizer, template_kwargs=variables),
        output_parser(tokenizer, template_kwargs=variables),
        report,
        able and not switched_off,
    )


def needed_shapes(*, tools: bool, replies: bool, thinks: bool) -> frozenset[str]:
    """The subjects of a `TemplateReport` that an environment's conversations fall under."""
    needed: set[str] = set()
    if tools:
        needed |= {"tool results", "parallel tool calls", "tool results after text and a call"}
        if thinks:
            needed.add("tool results after thinking")
    if replies:
        needed.add("user turns")
        if thinks:
            needed.add("user turns after thinking")
    if tools and replies:
        needed.add("a user turn after a tool result")
    return frozenset(needed)


def template_findings(
    speech: Speech,
    shapes: Collection[str],
    tools: Sequence[FunctionTool],
    *,
    takes_segments: bool | None,
) -> Iterator[Finding]:
    """What the template does to the conversations of `shapes`, and whether calls are read back.

    Args:
        speech: The model's way to speak.
        shapes: See `needed_shapes`.
        tools: Those of the environment.
        takes_segments: Whether the trainer takes several samples a rollout; ``None``: not known.
    """
    yield from _history(speech.report, shapes, takes_segments)
    if tools and not speech.report.offers_tools:
        yield failed(
            PART,
            "tools",
            "the template shows no tools to the model, and the environment has some",
            "the template of a model that was tuned for tool calls: --model, or its chat_template",
        )
    else:
        yield _calls(speech, tools)
    yield _thinking(speech)


def _history(
    report: TemplateReport, shapes: Collection[str], takes_segments: bool | None
) -> Iterator[Finding]:
    kept = [f.subject for f in report.findings if f.subject in shapes and f.verdict == "kept"]
    if not shapes:
        yield fine(PART, "history", "a single turn: there is none to rewrite")
    elif kept:
        yield fine(PART, "history", f"kept as sampled: {', '.join(kept)}")
    for finding in report.findings:
        if finding.subject not in shapes or finding.verdict == "kept":
            continue
        why = f"{finding.verdict}: {finding.why or finding.conversation}".rstrip(".!")
        level = warned if finding.subject in CONDITIONAL else failed
        if level is warned:
            why += ". That is where the model writes so"
        if finding.verdict == "refused":
            yield level(PART, finding.subject, why, "another chat template, or another model")
        elif takes_segments:
            told = f"{why}. Each such turn starts a new training sample"
            fix = "a template that keeps history trains faster"
            yield warned(PART, finding.subject, told, fix)
        elif takes_segments is None:
            told = f"{why}. TRL, Unsloth and NeMo RL refuse it"
            yield warned(PART, finding.subject, told, SEGMENTS)
        else:
            told = f"{why}. The trainer takes one sample a rollout"
            yield level(PART, finding.subject, told, SEGMENTS)


def _calls(speech: Speech, tools: Sequence[FunctionTool]) -> Finding:
    """Render calls of each tool, and parse them back."""
    name, needed = speech.report.output_format, bool(tools)
    if not speech.parser.reads_calls:
        told = "no format of tool calls was found in the template"
        if needed:
            return failed(PART, "tool calls", told, "chat_format=, or a model tuned for tool calls")
        return fine(PART, "tool calls", told)
    offered = list(tools) or [PROBE_TOOL]
    for tool in offered:
        call = function_call(tool["name"], json.dumps(example_arguments(tool)), "call_0")
        problem = _lost(speech, call, offered)
        if problem:
            what = f"a {name} call of {tool['name']!r} is not read back: {problem}"
            fix = "name the format with chat_format=, one of gym_adapters.tokens.formats.FORMATS"
            return (failed if needed else warned)(PART, "tool calls", what, fix)
    count = f"{len(tools)} of the environment's" if tools else "a probe's"
    return fine(PART, "tool calls", f"{name}; rendered and read back: {count}")


def _lost(speech: Speech, call: FunctionCall, tools: Sequence[FunctionTool]) -> str:
    """What became of a call that was rendered and parsed; ``""`` where it is the same."""
    try:
        read = _read_back(speech, [call], tools)
    except TemplateRefuses as error:
        return str(error)
    if read is None:
        return "the template writes it elsewhere than in the assistant's turn"
    calls = [item for item in read if item["type"] == "function_call"]
    if len(calls) != 1:
        return f"{len(calls)} calls were found in it"
    if calls[0]["name"] != call["name"]:
        return f"it became a call of {calls[0]['name']!r}"
    try:
        same = json.loads(calls[0]["arguments"]) == json.loads(call["arguments"])
    except ValueError:
        same = False
    return "" if same else f"its arguments became {calls[0]['arguments']:.200}"


def _thinking(speech: Speech) -> Finding:
    if speech.report.reasoning_key is None:
        told = "part of the text" if speech.thinks else "the template has no place for it"
        return fine(PART, "thinking", told)
    turn: list[Item] = [reasoning("gymthought"), assistant_message("gymsaid")]
    try:
        read = _read_back(speech, turn, ())
    except TemplateRefuses as error:
        return warned(PART, "thinking", str(error), "another chat template")
    thoughts = [item_text(item) for item in read or () if item["type"] == "reasoning"]
    if read is not None and [text.strip() for text in thoughts] == ["gymthought"]:
        return fine(PART, "thinking", f"under {speech.report.reasoning_key!r}; read back")
    if not speech.thinks:
        return fine(PART, "thinking", "switched off")
    return warned(
        PART,
        "thinking",
        "what the template renders as thinking is not read back as such",
        "name the format with chat_format=",
    )


def _read_back(
    speech: Speech, turn: list[Item], tools: Sequence[FunctionTool]
) -> list[Item] | None:
    """The assistant's turn, rendered and parsed; ``None`` where it can't be told from the rest."""
    template = speech.template
    head: list[Item] = [user_message("gymask")]
    before = template.render(head, tools)
    whole = template.render([*head, *turn], tools, generation_prompt=False)
    parser = speech.parser
    if not whole.startswith(before):
        # A prompt that opens the thinking, or leaves it out, is no part of a finished turn.
        before = template.render(head, tools, generation_prompt=False)
        parser = output_parser(speech.tokenizer, parser.format.name)
        parser.starts_thinking = False
        if not whole.startswith(before):
            return None
    ids = template.control.encode(whole[len(before) :])
    ends = [place for place, i in enumerate(ids) if i in speech.renderer.stop_token_ids]
    if ends:
        ids = ids[: ends[0] + 1]
    return parser.for_tools(tools).parse(ids, finish_reason="stop", call_id_prefix="call_")
