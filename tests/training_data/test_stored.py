"""Rollouts of ours and of NeMo Gym are read alike; failures never come out as rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import InvalidConfig, InvalidRow, OutcomeStatus, Rollout
from gym_adapters.training_data.profile import TaskProfile, labelled, profile_of_run
from gym_adapters.training_data.stored import StoredRollouts, nemo_gym_rollout

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "nemo_gym"


def gym_line(**rest: Any) -> dict[str, Any]:
    output = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "B"}]}
    ]
    return {
        "responses_create_params": {"input": "A or B?"},
        "response": {"output": output, "model": "m", "usage": {"output_tokens": 7}},
        "reward": 1.0,
        "expected_answer": "B",
        "_ng_task_index": 4,
        "_ng_rollout_index": 2,
        **rest,
    }


def test_places_lead_back_to_their_rollouts(
    make_run: Callable[..., Path], make_rollout: Callable[..., Rollout]
) -> None:
    run = make_run(
        make_rollout("a", 0), make_rollout("a", 1, None), make_rollout("b", 0, output="other")
    )
    source = StoredRollouts(run)
    found = list(source)
    assert [(each.task_id[-2:], each.reward) for _, each in found] == [
        ("61", 1.0),
        ("62", 1.0),
        ("61", None),
    ]
    places = [place for place, _ in reversed(found)]
    assert source.at(places) == [each for _, each in reversed(found)]


def test_a_nemo_gym_rollout_keeps_row_prompt_and_reward(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(orjson.dumps(gym_line()) + b"\n\n" + orjson.dumps(gym_line(reward=0)))
    first, second = (rollout for _, rollout in StoredRollouts(path))
    assert (first.reward, second.reward) == (1.0, 0.0)
    assert first.task_id == second.task_id == f"{4:016x}"
    assert first.row == {
        "responses_create_params": {"input": "A or B?"},
        "expected_answer": "B",
    }
    assert first.usage.output_tokens == 7


@pytest.mark.parametrize(
    "line",
    [
        {"judge_failed": True, "reward": 0.0},
        {"_ng_failure_class": "GymTransportError", "reward": 0.0},
        {"reward": None},
    ],
)
def test_a_failure_of_nemo_gym_is_unscored_whatever_its_reward(line: dict[str, Any]) -> None:
    assert nemo_gym_rollout(gym_line(**line)).reward is None


def test_a_cut_answer_of_nemo_gym_is_truncated() -> None:
    line = gym_line()
    line["response"]["status"] = "incomplete"
    assert nemo_gym_rollout(line).outcome.status is OutcomeStatus.TRUNCATED


def test_token_ids_that_nemo_gym_recorded_become_segments() -> None:
    def call(prompt: list[int], ids: list[int]) -> dict[str, Any]:
        return {
            "type": "message",
            "role": "assistant",
            "content": "x",
            "prompt_token_ids": prompt,
            "generation_token_ids": ids,
            "generation_log_probs": [-0.5] * len(ids),
        }

    line = gym_line()
    line["response"]["output"] = [call([1, 2], [3]), call([1, 2, 3, 9], [4, 5]), call([7], [8])]
    rollout = nemo_gym_rollout(line)
    first, second = rollout.segments
    assert (first.prompt_ids, first.completion_ids, first.mask) == (
        [1, 2],
        [3, 9, 4, 5],
        [1, 0, 1, 1],
    )
    assert first.logprobs == [-0.5, 0.0, -0.5, -0.5]
    assert (second.prompt_ids, second.completion_ids) == ([7], [8])
    assert "prompt_token_ids" not in rollout.output[0]


def test_what_is_no_rollout_is_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(orjson.dumps(gym_line()) + b'\n{"reward": 1}\n')
    with pytest.raises(InvalidRow, match=r"rollouts\.jsonl:2: "):
        list(StoredRollouts(path))
    with pytest.raises(InvalidConfig, match="neither"):
        StoredRollouts(tmp_path / "none")


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the recorded rollouts are not here: {FIXTURES}")
def test_recorded_rollouts_of_nemo_gym_are_read() -> None:
    read = 0
    for path in sorted(FIXTURES.glob("*.jsonl")):
        for text in path.read_bytes().splitlines():
            record = orjson.loads(text)
            if "response" not in record or not isinstance(record.get("task"), dict):
                continue
            row, extras = record["task"], record["recorded_extras"] or {}
            params = row.get("responses_create_params") or record.get("responses_create_params")
            line = {**extras, **row, "responses_create_params": params}
            line |= {"response": record["response"], "reward": record["recorded_reward"]}
            assert nemo_gym_rollout(line).reward == record["recorded_reward"]
            read += 1
    assert read >= 30


def test_pass_rates_count_scored_attempts_alone(
    make_run: Callable[..., Path], make_rollout: Callable[..., Rollout]
) -> None:
    rewards = (1.0, 0.0, None, 0.0, 0.0)
    run = make_run(*(make_rollout("a", at, reward) for at, reward in enumerate(rewards)))
    (profile,) = profile_of_run(run).values()
    assert (profile.attempts, profile.pass_rate, profile.band) == (4, 0.25, "rarely")
    assert profile.spread == pytest.approx(0.1875**0.5)


def test_labels_leave_the_task_id_as_it_is() -> None:
    from gym_adapters import Task

    row = {"responses_create_params": {"input": "a"}}
    task_id = Task.from_row(row).task_id
    profile = TaskProfile()
    for reward in (1.0, 0.0):
        profile.add(reward, 1.0)
    ((labelled_row, _),) = labelled([(row, task_id)], {task_id: profile}, min_pass_rate=0.5)
    assert labelled_row["_ng_profile"]["band"] == "sometimes"
    assert Task.from_row(labelled_row).task_id == task_id
    assert list(labelled([(row, "00")], {}, min_pass_rate=0.5)) == []
    assert list(labelled([(row, "00")], {})) == [(row, "00")]
