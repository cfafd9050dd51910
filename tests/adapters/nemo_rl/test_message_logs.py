from __future__ import annotations

import math

import pytest

from gym_adapters import Reward
from gym_adapters.adapters.nemo_rl.message_logs import is_trained, message_log, nemo_result
from gym_adapters.errors import VerifierError
from gym_adapters.reward import Outcome, StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment

SEGMENT = Segment(
    prompt_ids=[1, 2],
    completion_ids=[3, 4, 5, 6, 7],
    mask=[1, 1, 0, 0, 1],
    logprobs=[-0.5, -1.0, 0.0, 0.0, -2.0],
)
SCORED = Outcome.scored(Reward(0.75, {"form": 0.25, "content": 0.5}), StopReason.ANSWERED)


def rollout(outcome: Outcome = SCORED, *segments: Segment) -> Rollout:
    return Rollout(
        row={"responses_create_params": {"input": "hi"}},
        task_id="t",
        rollout_index=0,
        prompt=(),
        output=(),
        tools=(),
        outcome=outcome,
        segments=segments,
    )


def test_a_message_log_joined_is_the_segment() -> None:
    log = message_log(SEGMENT)
    assert [m["role"] for m in log] == ["user", "assistant", "user", "assistant"]
    assert [i for m in log for i in m["token_ids"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [m["generation_logprobs"] for m in log if m["role"] == "assistant"] == [
        [-0.5, -1.0],
        [-2.0],
    ]


def test_a_scored_rollout_trains_with_its_reward_and_components() -> None:
    result = nemo_result(rollout(SCORED, SEGMENT), row={"agent_ref": {"name": "a"}}, eos_token_id=9)
    full = result["full_result"]
    assert full["reward"] == 0.75
    assert full["reward_components"] == {"form": 0.25, "content": 0.5}
    assert full["instance_config"] == {"mask_sample": False}
    assert result["input_message_log"] == [{"role": "user", "content": "", "token_ids": [1, 2]}]
    assert result["input_message_log"][0] is not result["message_log"][0]


def test_components_that_do_not_add_up_are_reported_and_not_trained_on() -> None:
    outcome = Outcome.scored(Reward(1.0, {"form": 0.25}), StopReason.ANSWERED)
    full = nemo_result(rollout(outcome, SEGMENT), row={}, eos_token_id=9)["full_result"]
    assert "reward_components" not in full
    assert full["component_form"] == 0.25


@pytest.mark.parametrize(
    "made",
    [
        rollout(Outcome.unscored(VerifierError("no")), SEGMENT),
        rollout(SCORED),
        rollout(SCORED, SEGMENT, SEGMENT),
        rollout(SCORED, Segment([1], [2], [1], [math.nan])),
        rollout(SCORED, Segment([1], [2], [0], [0.0])),
    ],
    ids=["failed", "no tokens", "two segments", "nan", "nothing sampled"],
)
def test_what_cannot_be_trained_on_is_masked_and_holds_placeholder_tokens(made: Rollout) -> None:
    assert not is_trained(made)
    result = nemo_result(made, row={}, eos_token_id=9)
    assert result["full_result"]["instance_config"] == {"mask_sample": True}
    assert "reward_components" not in result["full_result"]
    assert [m["token_ids"] for m in result["message_log"]] == [[9], [9]]
    assert result["message_log"][1]["generation_logprobs"] == [0.0]
