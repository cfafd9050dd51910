"""What becomes of a case, with drivers that do right and wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")

from gym_adapters.errors import Unsupported, UsageError
from gym_adapters.testing.parity import (
    Attempt,
    ParityCase,
    Received,
    ReceivedRollout,
    Room,
    Sample,
    Verdict,
    check_case,
    parity_driver,
    parity_shapes,
    reference_rollouts,
)

SHAPES = {case.name: case for case in parity_shapes()}
Change = Callable[[Attempt, ReceivedRollout], ReceivedRollout]


@dataclass
class FakeDriver:
    """Receives just what the rollouts are, but for a fault."""

    trainer: str = "fake"
    absent: str | None = None
    refuses: str | None = None
    raises: Exception | None = None
    change: Change = lambda attempt, rollout: rollout
    baseline_counts_failures: bool = False

    def unavailable(self) -> str | None:
        return self.absent

    def refusal(self, case: ParityCase) -> str | None:
        return self.refuses

    def drive(self, case: ParityCase, room: Room) -> Received:
        if self.raises is not None:
            raise self.raises
        rollouts = asyncio.run(reference_rollouts(case))
        rewards = [it.reward or 0.0 for it in rollouts.values()]
        if not self.baseline_counts_failures:
            rewards = [it.reward for it in rollouts.values() if it.reward is not None]
        received = {}
        for attempt, it in rollouts.items():
            told = it.outcome.failure
            scored = it.reward is not None
            received[attempt] = self.change(
                attempt,
                ReceivedRollout(
                    [
                        Sample(s.prompt_ids, s.completion_ids, s.mask, s.logprobs)
                        for s in it.segments
                        if scored
                    ],
                    it.reward,
                    failure=None if told is None else told.boundary.value,
                    advantage=it.reward - sum(rewards) / len(rewards)
                    if it.reward is not None
                    else None,
                ),
            )
        return Received(received, {})


def test_what_is_received_as_it_was_is_the_same() -> None:
    cell = check_case(SHAPES["parallel tool calls"], FakeDriver())
    assert (cell.verdict, cell.rollouts, cell.samples) == (Verdict.SAME, 2, 2)


def test_a_change_of_one_rollout_is_a_difference_of_that_one() -> None:
    def shifted(attempt: Attempt, it: ReceivedRollout) -> ReceivedRollout:
        (sample,) = it.samples
        moved = [*sample.logprobs[1:], 0.0]
        return it if attempt.index else replace(it, samples=[replace(sample, logprobs=moved)])

    cell = check_case(SHAPES["single turn"], FakeDriver(change=shifted))
    assert cell.verdict is Verdict.DIFFERENT
    assert {(d.attempt, d.what, d.index) for d in cell.differences} == {
        (Attempt(task, 0), "logprobs", 0) for task in range(2)
    }


def test_a_baseline_that_counts_failures_is_a_difference() -> None:
    case = SHAPES["verifier error"]
    assert check_case(case, FakeDriver()).verdict is Verdict.SAME
    cell = check_case(case, FakeDriver(baseline_counts_failures=True))
    assert {d.what for d in cell.differences} == {"advantage (beside failures)"}
    assert [d.attempt.index for d in cell.differences] == [0, 2, 3]


def test_a_refusal_must_be_where_the_matrix_says() -> None:
    case = SHAPES["images"]
    refused = FakeDriver(refuses="no images", raises=Unsupported("text only"))
    assert check_case(case, refused).verdict is Verdict.REFUSED
    assert check_case(case, refused).detail == "no images"
    ran = check_case(SHAPES["single turn"], FakeDriver(refuses="no turns"))
    assert ran.verdict is Verdict.DIFFERENT
    assert ran.detail == "the capability matrix says that it is refused (no turns), but it ran"
    unforeseen = check_case(SHAPES["single turn"], FakeDriver(raises=Unsupported("not today")))
    assert unforeseen.verdict is Verdict.DIFFERENT
    assert unforeseen.detail.endswith("says that it is supported, but: not today")


def test_a_trainer_that_is_not_here_is_not_checked() -> None:
    cell = check_case(SHAPES["single turn"], FakeDriver(absent="install it"))
    assert (cell.verdict, cell.detail) == (Verdict.NOT_CHECKED, "install it")


def test_an_unknown_trainer_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="one or more of trl, trl-async, verl, offline, nemo-rl"):
        parity_driver("trainer")
