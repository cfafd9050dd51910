"""What a chat template does to history, found out by trying it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gym_adapters.errors import Unsupported
from gym_adapters.items import Item, user_message
from gym_adapters.tokens.chat_messages import is_assistant
from gym_adapters.tokens.chat_template import ChatTemplate, TemplateRefuses
from gym_adapters.tokens.output_parser import detect_format, output_parser
from gym_adapters.tokens.stress_conversations import PROBE_TOOL, Stress
from gym_adapters.tokens.template_renderer import TemplateRenderer
from gym_adapters.tokens.tokenizer import ChatTokenizer
from gym_adapters.tokens.turn_boundary import Shape, TurnBoundary

__all__ = ["Finding", "TemplateReport", "probe"]

Verdict = Literal["kept", "rewritten", "refused"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one kind of conversation.

    Attributes:
        subject: The kind of conversation.
        verdict: ``kept``: one segment, in linear time. ``rewritten``: earlier turns change, and a
            new segment starts. ``refused``: the template can't express it.
        why: What goes wrong, empty where it is kept.
        conversation: The shortest conversation that goes wrong, in words.
    """

    subject: str
    verdict: Verdict
    why: str = ""
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """What there is to know of a template before training with it.

    Attributes:
        template_hash: As in a rollout's provenance.
        output_format: How the model is asked to write tool calls, a name in `FORMATS`.
        offers_tools: Whether the template shows tools to the model.
        reasoning_key: Key of a message that holds thinking; ``None``: thinking is part of the text.
        opens_thinking: Whether the prompt opens the assistant's thinking.
        stop_tokens: Tokens that end a turn.
        findings: One for each kind of conversation.
    """

    template_hash: str
    output_format: str
    offers_tools: bool
    reasoning_key: str | None
    opens_thinking: bool
    stop_tokens: tuple[str, ...]
    findings: tuple[Finding, ...]

    def verdict(self, subject: str) -> Verdict:
        """The verdict on one kind of conversation.

        Raises:
            KeyError: If there is no such subject.
        """
        return {finding.subject: finding.verdict for finding in self.findings}[subject]

    def __str__(self) -> str:
        """A readable account."""
        thinking = self.reasoning_key or "part of the text"
        lines = [
            f"chat template {self.template_hash}",
            f"  tool calls       {self.output_format}"
            + ("" if self.offers_tools else " (the template shows no tools)"),
            f"  thinking         {thinking}"
            + (", opened by the prompt" if self.opens_thinking else ""),
            f"  turns end with   {' '.join(self.stop_tokens) or 'no control token'}",
        ]
        width = max(len(finding.subject) for finding in self.findings)
        for finding in self.findings:
            lines.append(f"  {finding.subject:<{width}}  {finding.verdict}")
            if finding.why:
                lines.append(f"      {finding.why}")
            if finding.conversation:
                lines.append(f"      {finding.conversation}")
        return "\n".join(lines)


def probe(
    tokenizer: ChatTokenizer,
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> TemplateReport:
    """Try a tokenizer's chat template on short conversations.

    Raises:
        UsageError: If there is no chat template, or the tokenizer is a slow one.
    """
    options: dict[str, Any] = {"chat_template": chat_template, "template_kwargs": template_kwargs}
    template = ChatTemplate(tokenizer, **options)
    boundary = TurnBoundary(template)
    renderer = TemplateRenderer(tokenizer, **options)
    texts = {token_id: text for text, token_id in template.control.ids.items()}
    return TemplateReport(
        template_hash=template.hash,
        output_format=detect_format(tokenizer, chat_template),
        offers_tools=_offers_tools(template),
        reasoning_key=template.dialect.reasoning_key,
        opens_thinking=output_parser(tokenizer, "plain", **options).starts_thinking,
        stop_tokens=tuple(texts.get(i, str(i)) for i in renderer.stop_token_ids),
        findings=tuple(_finding(boundary, *subject) for subject in _SUBJECTS),
    )


def _thinks(stress: Stress) -> bool:
    return "thinks" in stress.traits


def _speaks(stress: Stress) -> bool:
    return "speaks" in stress.traits and not _thinks(stress)


def _plainly(stress: Stress) -> bool:
    return not _thinks(stress) and not _speaks(stress)


_SUBJECTS: tuple[tuple[str, Shape, Callable[[Stress], bool]], ...] = (
    ("user turns", Shape(0, ("user",)), _plainly),
    ("tool results", Shape(1, ("tool",)), _plainly),
    ("parallel tool calls", Shape(2, ("tool", "tool")), _plainly),
    ("a user turn after a tool result", Shape(1, ("tool", "user")), _plainly),
    ("tool results after text and a call", Shape(1, ("tool",)), _speaks),
    ("user turns after thinking", Shape(0, ("user",)), _thinks),
    ("tool results after thinking", Shape(1, ("tool",)), _thinks),
)


def _finding(
    boundary: TurnBoundary, subject: str, shape: Shape, concerns: Callable[[Stress], bool]
) -> Finding:
    try:
        problems = boundary.proof(shape).problems
    except (TemplateRefuses, Unsupported) as error:
        return Finding(subject, "refused", str(error))
    failed = [problem for problem in problems if concerns(problem.conversation)]
    if not failed:
        return Finding(subject, "kept")
    shortest = min(failed, key=lambda problem: len(_all_items(problem.conversation)))
    why = f"{shortest.conversation.name}: {shortest.what}"
    return Finding(subject, "rewritten", why, _in_words(_all_items(shortest.conversation)))


def _all_items(stress: Stress) -> tuple[Item, ...]:
    return (*stress.head, *stress.turn, *stress.new)


def _in_words(items: Sequence[Item]) -> str:
    """``user | assistant: thinking, call | tool``."""
    turns: list[str] = []
    writing = False
    for item in items:
        if is_assistant(item):
            what = {"reasoning": "thinking", "function_call": "call"}.get(item["type"], "text")
            if writing:
                turns[-1] += f", {what}"
            else:
                turns.append(f"assistant: {what}")
            writing = True
        else:
            writing = False
            turns.append(
                "tool" if item["type"] == "function_call_output" else str(item.get("role"))
            )
    return " | ".join(turns)


def _offers_tools(template: ChatTemplate) -> bool:
    ask = [user_message("ask")]
    try:
        return template.render(ask, [PROBE_TOOL]) != template.render(ask)
    except TemplateRefuses:
        return False
