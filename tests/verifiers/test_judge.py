"""Judges: the first label counts, and a judge that fails is no verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import InvalidConfig, JudgeError
from gym_adapters.items import Item, assistant_message, reasoning, user_message
from gym_adapters.verifiers.judge import (
    CallableJudge,
    ChatJudge,
    ExactJudge,
    Judge,
    JudgeRequest,
    Labels,
    ScriptedJudge,
    ask_equivalence,
    filled,
    judge_opener,
    normal_answer,
    open_judge,
)

REQUEST = JudgeRequest((user_message("same?"),), "Lima", "lima", "capital of Peru?")


async def asked(judge: Judge, timeout: float = 60.0) -> bool:
    return (await ask_equivalence(judge, REQUEST, Labels(), timeout=timeout)).equal


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A=B]]", True),
        ("[[A!=B]]", False),
        ("It could be [[A!=B]], but no: [[A=B]]", False),
        ("[[A=B]] and not [[A!=B]]", True),
        ("[[ A=B ]]", None),
        ("A=B", None),
        ("", None),
    ],
)
def test_the_first_label_is_the_verdict(text: str, verdict: bool | None) -> None:
    assert Labels().verdict(text) is verdict


def test_labels_may_be_others_and_one_may_begin_with_the_other() -> None:
    labels = Labels("YES", "YES, BUT NO")
    assert labels.verdict("so YES, BUT NO") is False
    assert labels.verdict("so YES") is True


@given(st.text(alphabet="[]A!=B ", max_size=60))
def test_a_verdict_is_given_exactly_where_a_label_stands(text: str) -> None:
    verdict = Labels().verdict(text)
    assert (verdict is None) == ("[[A=B]]" not in text and "[[A!=B]]" not in text)


async def test_a_text_without_a_label_is_an_error_that_shows_it() -> None:
    with pytest.raises(JudgeError, match="hard to say"):
        await asked(ScriptedJudge(["hard to say"]))


async def test_whatever_a_judge_raises_is_a_judge_error() -> None:
    with pytest.raises(JudgeError, match="ConnectionResetError: gone"):
        await asked(ScriptedJudge([ConnectionResetError("gone")]))


async def test_a_judge_that_takes_too_long_is_a_judge_error() -> None:
    async def slow(prompt: Sequence[Item]) -> str:
        await asyncio.sleep(60)
        return "[[A=B]]"

    with pytest.raises(JudgeError, match=r"0\.01 s"):
        await asked(CallableJudge(slow), timeout=0.01)


async def test_a_script_that_is_used_up_is_a_judge_error() -> None:
    judge = ScriptedJudge(["[[A=B]]"])
    assert await asked(judge)
    with pytest.raises(JudgeError, match="holds 1 replies"):
        await asked(judge)
    assert judge.requests == [REQUEST, REQUEST]


@dataclass
class Turn:
    items: Sequence[Item]


@dataclass
class Session:
    name: str
    answer: str | None

    async def respond(self, new_items: Sequence[Item]) -> Turn | None:
        assert list(new_items) == list(REQUEST.prompt)
        if self.answer is None:
            return None
        return Turn([reasoning("[[A!=B]]?"), assistant_message(self.answer)])


async def test_a_chat_model_is_asked_in_a_session_of_its_own() -> None:
    names: list[str] = []

    def open_session(name: str) -> Session:
        names.append(name)
        return Session(name, "[[A=B]]")

    judge = ChatJudge(open_session)
    assert await asked(judge)
    assert await asked(judge)
    assert names == ["judge-1", "judge-2"]


async def test_a_chat_model_without_context_left_is_a_judge_error() -> None:
    with pytest.raises(JudgeError, match="context"):
        await asked(ChatJudge(lambda name: Session(name, None)))


async def test_no_more_than_so_many_requests_run_at_once() -> None:
    running, peak = 0, 0

    @dataclass
    class Counting:
        async def respond(self, new_items: Sequence[Item]) -> Turn:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.001)
            running -= 1
            return Turn([assistant_message("[[A=B]]")])

    judge = ChatJudge(lambda name: Counting(), concurrency=3)
    assert all(await asyncio.gather(*(asked(judge) for _ in range(20))))
    assert peak == 3


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Lima.\n", "lima"),
        (r"so \boxed{\text{The  Sun}}.", "the sun"),
        (r"\boxed{3} no, \boxed{4}", "4"),
        ("", ""),
    ],
)
def test_answers_are_compared_without_case_space_and_box(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


async def test_the_exact_judge_compares_texts() -> None:
    assert await asked(ExactJudge())
    different = JudgeRequest((), "Lima", "Quito")
    verdict = await ask_equivalence(ExactJudge(), different, Labels(), timeout=60.0)
    assert not verdict.equal


async def say_equal(prompt: Sequence[Item]) -> str:
    return "[[A=B]]"


async def test_a_spec_names_a_judge() -> None:
    async with open_judge("exact") as judge:
        assert await asked(judge)
    async with open_judge("exact", labels=Labels("YES", "NO")) as judge:
        assert await judge.ask(REQUEST) == "YES"


async def test_a_function_may_be_named_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gym_adapters.verifiers.judge.say_equal", say_equal, raising=False)
    async with open_judge("gym_adapters.verifiers.judge:say_equal") as judge:
        assert await asked(judge)


@pytest.mark.parametrize(
    "spec", ["some-model", "no.such.module:judge", "json:nothing", "os:sep", ":"]
)
async def test_a_spec_that_names_nothing_is_refused(spec: str) -> None:
    with pytest.raises(InvalidConfig, match="judge"):
        async with open_judge(spec):
            pass


async def test_models_are_opened_by_whoever_opens_the_run() -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def opener(spec: str) -> AsyncIterator[Judge]:
        opened.append(spec)
        yield ScriptedJudge(["[[A=B]]"])
        opened.append("closed")

    token = judge_opener.set(opener)
    try:
        async with open_judge("vllm:some-model") as judge:
            assert await asked(judge)
    finally:
        judge_opener.reset(token)
    assert opened == ["vllm:some-model", "closed"]


def test_a_template_is_filled_once_and_keeps_other_braces() -> None:
    fields = {"a": "{b}", "b": "2"}
    assert filled("{a} {b} {c} {{}} \\boxed{}", fields) == "{b} 2 {c} {{}} \\boxed{}"


@given(st.text(alphabet="{}abc", max_size=40), st.text(alphabet="{}abc", max_size=5))
def test_filling_any_template_ends_and_fills_every_place(template: str, value: str) -> None:
    expected = value.join(template.split("{a}"))
    assert filled(template, {"a": value}) == expected
