from __future__ import annotations

from gym_adapters import Outcome, Reward, Rollout, Segment, StopReason, VerifierError
from gym_adapters.adapters.trl.rollout_columns import rollout_columns

SEGMENT = Segment((1, 2), (3, 4, 5), (1, 0, 1), (-0.5, 0.0, -0.25))
SCORED = Outcome.scored(Reward(0.75), StopReason.ANSWERED)
FAILED = Outcome.unscored(VerifierError("broken"))


def rollout(outcome: Outcome, *segments: Segment) -> Rollout:
    return Rollout({}, "t", 0, (), (), (), outcome, segments)


def test_a_scored_rollout_is_handed_on_token_for_token() -> None:
    columns = rollout_columns([rollout(SCORED, SEGMENT)], pad_id=9)
    assert columns["prompt_ids"] == [[1, 2]]
    assert columns["completion_ids"] == [[3, 4, 5]]
    assert columns["env_mask"] == [[1, 0, 1]]
    assert columns["logprobs"] == [[-0.5, 0.0, -0.25]]
    assert columns["gym_reward"] == [0.75]


def test_a_failed_rollout_keeps_its_tokens_under_a_mask_of_zero_and_has_no_reward() -> None:
    columns = rollout_columns([rollout(FAILED, SEGMENT)], pad_id=9)
    assert columns["completion_ids"] == [[3, 4, 5]]
    assert columns["env_mask"] == [[0, 0, 0]]
    assert columns["gym_reward"] == [None]


def test_a_rollout_without_tokens_becomes_one_masked_padding_token() -> None:
    columns = rollout_columns([rollout(FAILED), rollout(SCORED)], pad_id=9)
    assert columns["prompt_ids"] == [[9], [9]]
    assert columns["completion_ids"] == [[9], [9]]
    assert columns["env_mask"] == [[0], [0]]
    assert columns["gym_reward"] == [None, None]


def test_a_rollout_of_several_segments_trains_nothing() -> None:
    columns = rollout_columns([rollout(SCORED, SEGMENT, SEGMENT)], pad_id=9)
    assert columns["env_mask"] == [[0]]
    assert columns["gym_reward"] == [None]
