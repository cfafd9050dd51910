from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gym_adapters.errors import UsageError
from gym_adapters.tokens.template_report import probe

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_keeps_everything_says_so(tokenizer: Any) -> None:
    report = probe(tokenizer)
    assert {finding.verdict for finding in report.findings} == {"kept"}
    assert report.output_format == "hermes"
    assert report.offers_tools
    assert report.reasoning_key is None
    assert not report.opens_thinking
    assert report.stop_tokens == ("<|im_end|>",)
    assert str(report).splitlines()[1:5] == [
        "  tool calls       hermes",
        "  thinking         part of the text",
        "  turns end with   <|im_end|>",
        "  user turns                          kept",
    ]


def test_each_failed_property_comes_with_the_shortest_conversation_that_fails(
    build: Callable[..., Any],
) -> None:
    report = probe(build(THINKING))
    found = {finding.subject: finding for finding in report.findings}
    assert found["user turns"].verdict == "kept"
    dropped = found["user turns after thinking"]
    assert dropped.verdict == "rewritten"
    assert dropped.conversation == "user | assistant: thinking, text | user"
    assert dropped.why == "thinking in the turn: the turn's thinking is left out or moved"
    refused = found["tool results"]
    assert refused.verdict == "refused"
    assert refused.why == "The chat template leaves out an assistant turn of 1 tool calls."
    assert not report.offers_tools
    assert "(the template shows no tools)" in str(report)
    assert report.verdict("tool results") == "refused"


def test_variables_and_another_template_are_taken_into_account(build: Callable[..., Any]) -> None:
    opening = THINKING.replace("assistant\n{% endif %}", "assistant\n{{ start }}{% endif %}")
    report = probe(build(), chat_template=opening, template_kwargs={"start": "<think>"})
    assert report.opens_thinking
    assert report.reasoning_key == "reasoning_content"


def test_a_tokenizer_without_a_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        probe(tokenizer)
