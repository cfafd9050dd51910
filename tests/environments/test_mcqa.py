"""The row's pattern, else its grading mode, reads the letter; the config can overrule the mode."""

from __future__ import annotations

from typing import Any

import pytest
from gym_adapters.environments.mcqa.environment import Mcqa, McqaConfig, McqaTask

from gym_adapters import Boundary, Episode, InvalidRow, Reward, Unsupported
from gym_adapters.items import assistant_message
from gym_adapters.reward import Outcome
from gym_adapters.verifiers import patterns

OPTIONS = [{"A": "red"}, {"B": "blue"}, {"C": "green"}]


def task(**fields: Any) -> McqaTask:
    return McqaTask.from_row(
        {
            "responses_create_params": {"input": "The sky is ...?"},
            "options": OPTIONS,
            "expected_answer": "B",
            **fields,
        }
    )


async def outcome(asked: McqaTask, text: str, config: McqaConfig | None = None) -> Outcome:
    async with Episode(Mcqa, asked, config=config) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(text)])
    assert step.outcome is not None
    return step.outcome


async def reward(asked: McqaTask, text: str, config: McqaConfig | None = None) -> Reward:
    got = (await outcome(asked, text, config)).reward
    assert got is not None
    return got


@pytest.mark.parametrize(
    ("fields", "text", "letter"),
    [
        ({}, r"\boxed{B}", "B"),
        ({}, r"\boxed{A}", "A"),
        ({}, r"\boxed{blue}", None),
        ({}, "", None),
        ({"grading_mode": "lenient_boxed"}, r"\boxed{blue}", "B"),
        ({"grading_mode": "lenient_answer_colon"}, "Answer: blue", "B"),
        ({"grading_mode": "lenient_answer_colon_md"}, "**Answer:** (B)", "B"),
        ({"expected_answer": " b "}, r"\boxed{B}", "B"),
        ({"template_metadata": {"output_regex": r"pick (\w)"}}, "pick B", "B"),
        # The pattern goes first, the grading mode is what is left.
        ({"template_metadata": {"output_regex": r"pick (\w)"}}, r"pick A \boxed{B}", "A"),
        ({"template_metadata": {"output_regex": r"pick (\w)"}}, r"\boxed{B}", "B"),
        ({"template_metadata": {"output_regex": [r"x (\w)", r"y (\w)"]}}, "y A, x B", "B"),
        ({"template_metadata": {"other": 1}}, r"\boxed{B}", "B"),
        ({"options": None, "template_metadata": {"output_regex": r"pick (\w)"}}, "pick B", "B"),
    ],
)
async def test_the_letter_that_is_read(
    fields: dict[str, Any], text: str, letter: str | None
) -> None:
    got = await reward(task(**fields), text)
    assert got.info == {"extracted_answer": letter}
    assert got.value == float(letter == "B")


async def test_the_config_overrules_the_rows_mode() -> None:
    lenient = McqaConfig(grading_mode="lenient_boxed")
    assert (await reward(task(), r"\boxed{blue}", lenient)).value == 1.0
    assert (await reward(task(), r"\boxed{blue}")).value == 0.0


async def test_a_pattern_that_backtracks_leaves_the_attempt_unscored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "TIMEOUT", 0.05)
    asked = task(template_metadata={"output_regex": r"^(a|a|aa)+$"})
    got = await outcome(asked, "a" * 200 + "!")
    assert got.reward is None
    assert got.failure is not None
    assert got.failure.boundary is Boundary.VERIFIER
    assert "backtracks" in got.failure.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"options": None}, "options"),
        ({"options": []}, "options"),
        ({"options": [{"A": 1}]}, "options.0.A"),
        ({"expected_answer": " "}, "expected_answer"),
        ({"expected_answer": None}, "expected_answer"),
        ({"grading_mode": "guess"}, "grading_mode"),
        ({"template_metadata": {"output_regex": "("}}, "template_metadata.output_regex"),
        ({"template_metadata": {"output_regex": 5}}, "template_metadata.output_regex"),
    ],
)
def test_a_row_that_cannot_be_judged_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        task(**fields)
    assert caught.value.field == field


def test_gold_is_not_invented_for_a_pattern_that_wants_something_else() -> None:
    asked = task(template_metadata={"output_regex": r"([on])"})
    with pytest.raises(Unsupported, match="output_regex"):
        Mcqa.gold_turns(asked)


def test_difficulty_is_how_many_options_there_are() -> None:
    def options(difficulty: float) -> set[int]:
        tasks = Mcqa.generate_tasks(30, seed=1, difficulty=difficulty)
        return {len(task.options or []) for task in tasks}

    assert (options(0.0), options(1.0)) == ({3}, {10})
