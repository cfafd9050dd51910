from __future__ import annotations

import math
import re
from dataclasses import replace

import orjson
import pytest

from gym_adapters.adapters.verl.loop_outputs import (
    SampleBounds,
    checked,
    reward_extra_info,
    sample_fields,
)
from gym_adapters.errors import Boundary, JudgeError, LedgerError
from gym_adapters.reward import Outcome, Reward, StopReason
from gym_adapters.rollout import Rollout, TokenUsage
from gym_adapters.segment import Segment

BOUNDS = SampleBounds(prompt=4, response=6)
GOOD = Segment((1, 2), (3, 4, 5), (1, 0, 1), (-0.1, 0.0, -0.2))


def rollout(*segments: Segment, stop: StopReason = StopReason.ANSWERED) -> Rollout:
    return Rollout(
        row={},
        task_id="t",
        rollout_index=0,
        prompt=[],
        output=[],
        tools=[],
        outcome=Outcome.scored(Reward(0.5, {"style": 0.25, "extra": 1.0}), stop),
        segments=segments,
        usage=TokenUsage(output_tokens=2, turns=2),
    )


def test_one_segment_is_one_sample_to_the_token() -> None:
    (sample,) = sample_fields(rollout(GOOD), BOUNDS, versions=[7, 9, 8])
    assert (sample.prompt_ids, sample.response_ids) == ([1, 2], [3, 4, 5])
    assert (sample.response_mask, sample.response_logprobs) == ([1, 0, 1], [-0.1, 0.0, -0.2])
    assert (sample.reward_score, sample.num_turns) == (0.5, 4)
    assert sample.extra_fields["min_global_steps"] == 7
    assert sample.extra_fields["max_global_steps"] == 9


def test_several_segments_share_reward_and_stamps_but_no_mutable_field() -> None:
    longer = Segment((1, 2, 3, 4, 5), (6,), (1,), (-0.3,))
    first, second = sample_fields(rollout(GOOD, longer), BOUNDS, versions=[1])
    assert second.prompt_ids == [1, 2, 3, 4, 5]
    assert first.reward_score == second.reward_score == 0.5
    assert first.extra_fields == second.extra_fields
    assert first.extra_fields["reward_extra_info"] is not second.extra_fields["reward_extra_info"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt_ids": ()}, "the prompt is empty"),
        ({"prompt_ids": (1,) * 5}, "a prompt of 5 tokens, 4 are allowed"),
        ({"completion_ids": (), "mask": (), "logprobs": ()}, "the response is empty"),
        ({"mask": (1, 0)}, "2 mask entries for 3 tokens"),
        ({"logprobs": (-0.1, 0.0)}, "2 log-probabilities for 3 tokens"),
        ({"mask": (0, 0, 0)}, "nothing in the response was sampled"),
        ({"logprobs": (-0.1, 0.0, math.nan)}, "not finite"),
        (
            {"completion_ids": (3,) * 7, "mask": (1,) * 7, "logprobs": (0.0,) * 7},
            "a response of 7 tokens, 6 are allowed",
        ),
    ],
)
def test_what_verl_would_accept_in_silence_is_refused(
    change: dict[str, tuple[float, ...]], told: str
) -> None:
    broken = rollout(replace(GOOD, **change))
    with pytest.raises(LedgerError, match=told):
        sample_fields(broken, BOUNDS, versions=[1])
    failure = checked(broken, BOUNDS).outcome.failure
    assert failure is not None
    assert failure.boundary is Boundary.MODEL
    assert re.search(told, failure.message)


def test_a_rollout_that_keeps_the_rules_is_left_as_it_is() -> None:
    good = rollout(GOOD)
    assert checked(good, BOUNDS) is good


def test_prompt_and_response_together_are_bounded_in_every_segment() -> None:
    long = Segment((1,) * 6, (2,) * 5, (1,) * 5, (0.0,) * 5)
    with pytest.raises(LedgerError, match="11 tokens, 10 are allowed"):
        sample_fields(rollout(GOOD, long), BOUNDS, versions=[1])


@pytest.mark.parametrize("case", ["reward", "segments", "versions"])
def test_a_rollout_that_can_not_be_trained_on_is_refused(case: str) -> None:
    it = rollout() if case == "segments" else rollout(GOOD)
    if case == "reward":
        it = replace(it, outcome=Outcome.unscored(JudgeError("down")))
    with pytest.raises(LedgerError, match="can't be trained"):
        sample_fields(it, BOUNDS, versions=[] if case == "versions" else [1])


def test_the_schema_is_the_same_whatever_the_reward_holds() -> None:
    plain = replace(rollout(GOOD), outcome=Outcome.scored(Reward(1.0), StopReason.LENGTH))
    with_parts = reward_extra_info(rollout(GOOD), ["style", "absent"])
    without = reward_extra_info(plain, ["style", "absent"])
    assert list(with_parts) == list(without)
    assert (with_parts["score"], with_parts["component/style"]) == (0.5, 0.25)
    assert math.isnan(float(with_parts["component/absent"]))
    assert math.isnan(float(without["component/style"]))
    assert (with_parts["truncated"], without["truncated"]) == (0.0, 1.0)
    assert orjson.loads(str(with_parts["components"])) == {"style": 0.25, "extra": 1.0}
    assert without["stop_reason"] == "length"
    assert "acc" not in with_parts
