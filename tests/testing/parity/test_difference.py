"""The comparison itself: whatever a trainer gets wrong must show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gym_adapters import Reward, Rollout
from gym_adapters.errors import VerifierError
from gym_adapters.reward import Outcome, StopReason
from gym_adapters.segment import Segment
from gym_adapters.testing.parity import Attempt, Received, ReceivedRollout, Sample, differences
from gym_adapters.testing.parity.difference import advantage_differences

SEGMENT = Segment((1, 2), (3, 4, 5), (1, 0, 1), (-0.5, 0.0, -0.25))
SAMPLE = Sample([1, 2], [3, 4, 5], [1, 0, 1], [-0.5, 0.0, -0.25])
GOOD = ReceivedRollout([SAMPLE], 0.5, {"part": 0.1}, "answered")
HERE = Attempt(0, 0)


def rollout(reward: float | None = 0.5, *segments: Segment) -> Rollout:
    outcome = Outcome.unscored(VerifierError("no"))
    if reward is not None:
        outcome = Outcome.scored(Reward(reward, {"part": 0.1}), StopReason.ANSWERED)
    return Rollout({}, "t", 0, [], [], [], outcome, segments or (SEGMENT,))


def found(expected: Rollout, got: ReceivedRollout, fewest: int = 1) -> list[str]:
    return [str(it) for it in differences({HERE: expected}, Received({HERE: got}, {}, fewest))]


def test_the_same_is_no_difference() -> None:
    assert found(rollout(), GOOD) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: replace(s, prompt_ids=[1]), "prompt_ids[1] is nothing, and should be 2"),
        (lambda s: replace(s, completion_ids=[3, 4, 6]), "completion_ids[2] is 6, and should be 5"),
        (
            lambda s: replace(s, completion_ids=[3, 4, 5, 7]),
            "completion_ids[3] is 7, and should be nothing",
        ),
        (lambda s: replace(s, mask=[1, 1, 1]), "mask[1] is 1, and should be 0"),
        (lambda s: replace(s, logprobs=[0.0, -0.5, -0.25]), "logprobs[0] is 0.0, and should be"),
        (lambda s: replace(s, logprobs=[-0.5, 0.0]), "logprobs[2] is nothing, and should be -0.25"),
    ],
)
def test_the_first_place_that_differs_is_told(
    change: Callable[[Sample], Sample], told: str
) -> None:
    (line,) = found(rollout(), replace(GOOD, samples=[change(SAMPLE)]))
    assert line.startswith(f"task 0, attempt 0: {told}")


def test_logprobs_of_the_environments_tokens_are_the_trainers_affair() -> None:
    filled = replace(SAMPLE, logprobs=[-0.5, 9.0, -0.25])
    assert found(rollout(), replace(GOOD, samples=[filled])) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"reward": 0.4}, "reward"),
        ({"reward": None}, "reward"),
        ({"components": {"part": 0.2}}, "component part"),
        ({"components": {"part": 0.1, "other": 1.0}}, "component other"),
        ({"stop_reason": "length"}, "stop reason"),
        ({"failure": "verifier"}, "failure"),
        ({"samples": []}, "number of training samples"),
        ({"samples": [SAMPLE, SAMPLE]}, "number of training samples"),
    ],
)
def test_every_part_of_the_verdict_is_compared(change: dict[str, object], what: str) -> None:
    (line,) = found(rollout(), replace(GOOD, **change))  # type: ignore[arg-type]
    assert what in line


def test_what_a_trainer_is_not_told_is_not_compared() -> None:
    assert found(rollout(), replace(GOOD, components=None, stop_reason=None)) == []


def test_a_failure_must_not_be_trained_on_and_not_be_a_number() -> None:
    assert found(rollout(None), ReceivedRollout(failure="verifier")) == []
    trained = found(rollout(None), ReceivedRollout([SAMPLE], 0.0, failure="verifier"))
    assert len(trained) == 2
    assert "number of training samples is 1, and should be 0" in trained[0]
    assert "reward is 0.0, and should be None" in trained[1]
    assert "failure is None, and should be verifier" in found(rollout(None), ReceivedRollout())[0]


def test_a_lone_survivor_is_left_out_where_the_trainer_needs_two() -> None:
    assert found(rollout(), ReceivedRollout(), fewest=2) == []
    assert found(rollout(), GOOD, fewest=2) != []


def test_a_rollout_without_a_sampled_token_trains_nothing() -> None:
    silent = Segment((1,), (2,), (0,), (0.0,))
    assert found(rollout(0.5, silent), ReceivedRollout()) == []


def test_a_rollout_that_the_trainer_never_got_is_told() -> None:
    (line,) = differences({HERE: rollout()}, Received({}, {}))
    assert str(line) == "task 0, attempt 0: rollout is missing, and should be there"


def test_survivors_are_compared_with_those_of_the_group_without_failures() -> None:
    def with_advantages(*values: float | None) -> Received:
        return Received(
            {
                Attempt(0, index): ReceivedRollout(advantage=value)
                for index, value in enumerate(values)
            },
            {},
        )

    survivors = [Attempt(0, 0), Attempt(0, 2)]
    whole = with_advantages(1.0, None, -1.0)
    assert advantage_differences(whole, with_advantages(1.0, -1.0), survivors) == []
    (told,) = advantage_differences(whole, with_advantages(1.0, -0.5), survivors)
    assert (told.attempt, told.expected, told.received) == (Attempt(0, 2), -0.5, -1.0)
