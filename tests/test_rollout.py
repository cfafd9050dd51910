"""A rollout is one JSON line that NeMo Gym's readers understand, and comes back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gym_adapters import InvalidRow, Outcome, Reward, Rollout, Segment, Span, StopReason
from gym_adapters.errors import JudgeError
from gym_adapters.items import assistant_message, function_call, function_call_output, user_message
from gym_adapters.rollout import Provenance, Timings, TokenUsage

ROW: dict[str, Any] = {
    "responses_create_params": {"input": "hi", "temperature": 0.5},
    "expected": 3,
    "reward": "a field of the row that is called like one of ours",
}
SEGMENT = Segment(
    prompt_ids=[1, 2],
    completion_ids=[3, 4, 5],
    mask=[1, 0, 1],
    logprobs=[-0.5, 0.0, -0.25],
    spans=(
        Span(0, 1, True, weights_version=7, extras={"experts": [[1]]}),
        Span(1, 2, False),
        Span(2, 3, True, weights_version="b"),
    ),
)


def rollout(outcome: Outcome) -> Rollout:
    return Rollout(
        row=ROW,
        task_id="abc",
        rollout_index=2,
        prompt=[user_message("hi")],
        output=[
            function_call("f", "{}", "c"),
            function_call_output("c", "1"),
            assistant_message("one"),
        ],
        tools=[{"type": "function", "name": "f", "parameters": {}}],
        outcome=outcome,
        segments=(SEGMENT,),
        timings=Timings(4.0, 2.0, 1.0, 0.5),
        usage=TokenUsage(10, 3, 2),
        provenance=Provenance("e", "1", "0.1", "m", "hash", 7, 3),
        task_index=4,
    )


OUTCOMES = [
    Outcome.scored(Reward(0.5, {"a": 1.0}, {"why": ["x"]}), StopReason.ANSWERED),
    Outcome.scored(Reward(0.0), StopReason.LENGTH),
    Outcome.scored(Reward(1.0), StopReason.MAX_TURNS),
    Outcome.unscored(JudgeError("unreadable")),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_rollout_comes_back_as_it_was(outcome: Outcome) -> None:
    made = rollout(outcome)
    back = Rollout.from_json(json.loads(json.dumps(made.to_json())))
    assert back == made
    assert back.reward == made.reward
    assert back.group_id == "abc"


def test_nemo_gyms_keys_stand_where_its_readers_look() -> None:
    line = rollout(OUTCOMES[0]).to_json()
    assert line["expected"] == 3
    assert line["responses_create_params"]["input"] == [user_message("hi")]
    assert line["responses_create_params"]["temperature"] == 0.5
    assert line["responses_create_params"]["tools"][0]["name"] == "f"
    assert line["response"]["output"][2] == assistant_message("one")
    assert line["response"]["status"] == "completed"
    assert line["response"]["usage"]["total_tokens"] == 13
    assert line["reward"] == 0.5
    assert (line["_ng_task_index"], line["_ng_rollout_index"]) == (4, 2)


def test_a_field_of_the_row_is_not_lost_to_a_key_of_the_rollout() -> None:
    back = Rollout.from_json(rollout(OUTCOMES[0]).to_json())
    assert back.row["reward"] == ROW["reward"]


def test_a_cut_answer_is_an_incomplete_response() -> None:
    response = rollout(OUTCOMES[1]).to_json()["response"]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_unscored_rollout_has_no_reward_at_all() -> None:
    line = rollout(OUTCOMES[3]).to_json()
    assert line["reward"] is None
    assert line["gym_adapters"]["outcome"]["failure"]["boundary"] == "judge"


def test_sampled_ids_are_the_policys_tokens_alone() -> None:
    assert SEGMENT.sampled_ids == [3, 5]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.pop("gym_adapters"),
        lambda line: line.pop("reward"),
        lambda line: line["gym_adapters"].pop("outcome"),
        lambda line: line["gym_adapters"]["outcome"].update(status="fine"),
        lambda line: line["gym_adapters"]["outcome"].update(status="unscored"),
        lambda line: line["gym_adapters"]["timings"].update(lunch=1.0),
        lambda line: line["gym_adapters"].update(segments=[{}]),
        lambda line: line["response"].update(output=[{"type": "nope"}]),
        lambda line: line.update(response=[]),
    ],
)
def test_a_line_that_is_no_rollout_is_refused(damage: Any) -> None:
    line = rollout(OUTCOMES[0]).to_json()
    damage(line)
    with pytest.raises(InvalidRow):
        Rollout.from_json(line)
