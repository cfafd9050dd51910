"""NeMo Gym's recorded rollouts, replayed over HTTP as its agents would: the recorded rewards."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gym_adapters import Episode, Task, environment_names, load_environment
from gym_adapters.bridges.nemo_gym import NemoGymConfig, NemoGymResources
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import final_text, input_items
from gym_adapters.reward import StopReason
from gym_adapters.serving.environment_session import finish_reason_of, turns_of
from gym_adapters.task import read_rows
from gym_adapters.verifiers.judge import ScriptedJudge

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "nemo_gym"

pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"the recorded rollouts are not here: {FIXTURES}"
)

Record = dict[str, Any]

OVERRIDES: Mapping[str, Sequence[str]] = {
    "equivalence_llm_judge": ["judge=recorded_judge:judge"],
    "math_with_judge": ["judge=recorded_judge:judge"],
}
# Recorded before NeMo Gym fixed its parser; it now gives what is here, too.
DIFFERENCES = {("mcqa", 2): 1.0}
# The web has changed since: ours answers from its own pages.
OTHER_RESULTS = {"google_search"}


def recorded() -> list[Any]:
    return [
        pytest.param(name, record, id=f"{name}-{record['row']}")
        for name in environment_names()
        if (FIXTURES / f"{name}.jsonl").exists()
        for _, record in read_rows(FIXTURES / f"{name}.jsonl")
        if record["task"] is not None
    ]


def first_of_each_environment() -> list[Any]:
    """The same; all but the first of each environment are for the full suite."""
    seen: set[str] = set()
    params = []
    for each in recorded():
        later = each.values[0] in seen
        seen.add(each.values[0])
        marks = [pytest.mark.full] if later else []
        params.append(pytest.param(*each.values, id=each.id, marks=marks))
    return params


def recorded_judge(record: Record) -> ModuleType:
    """A module with a judge that says what the judge of `record` said, in order."""
    evaluations = record["recorded_extras"].get("judge_evaluations") or []
    said = [final_text(input_items(asked["response"]["output"])) for asked in evaluations]
    module = ModuleType("recorded_judge")
    module.__dict__["judge"] = ScriptedJudge(said)
    return module


def plain(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


@pytest.mark.parametrize(("name", "record"), recorded())
async def test_a_recorded_rollout_gets_its_reward_over_http(
    serve: Any, monkeypatch: pytest.MonkeyPatch, name: str, record: Record
) -> None:
    entry = load_environment(name)
    config = entry.config(OVERRIDES.get(name, ()))
    output = record["response"]["output"]
    results = {
        item["call_id"]: plain(item["output"])
        for item in output
        if item["type"] == "function_call_output"
    }
    monkeypatch.setitem(sys.modules, "recorded_judge", recorded_judge(record))
    async with serve(entry, configs={name: config}) as peer:
        assert (await peer.post("/seed_session", record["task"]))[0] == 200
        for item in output:
            if item["type"] != "function_call" or item["call_id"] not in results:
                continue
            _, answer = await peer.post(f"/{item['name']}", data=item["arguments"].encode())
            if name not in OTHER_RESULTS:
                assert answer == results[item["call_id"]]
        body = {**record["task"], "response": record["response"]}
        status, verdict = await peer.post("/verify", body)
    assert status == 200, verdict
    expected = DIFFERENCES.get((name, record["row"]), record["recorded_reward"])
    assert verdict["reward"] == pytest.approx(expected, abs=1e-9)
    assert verdict["response"] == record["response"]


@pytest.mark.parametrize(("name", "record"), first_of_each_environment())
async def test_our_client_on_our_server_gets_the_recorded_reward(
    serve: Any, monkeypatch: pytest.MonkeyPatch, name: str, record: Record
) -> None:
    entry = load_environment(name)
    config = entry.config(OVERRIDES.get(name, ()))
    turns = turns_of(input_items(record["response"]["output"]))
    cut = finish_reason_of(record["response"])
    monkeypatch.setitem(sys.modules, "recorded_judge", recorded_judge(record))
    async with serve(entry, configs={name: config}) as peer:
        ours = NemoGymConfig(url=peer.url)
        task = Task.from_row(record["task"])
        async with (
            open_episode_resources(NemoGymResources, ours) as client,
            Episode(NemoGymResources, task, config=ours, resources=client) as episode,
        ):
            step = await episode.start()
            for turn in turns:
                if not step.done:
                    reason = cut if turn is turns[-1] else "stop"
                    step = await episode.advance(turn, finish_reason=reason)
            if not step.done:
                step = await episode.truncate(StopReason.MAX_TURNS)
    assert step.outcome is not None
    assert step.outcome.failure is None
    expected = DIFFERENCES.get((name, record["row"]), record["recorded_reward"])
    assert episode.outcome.reward.value == pytest.approx(expected, abs=1e-9)
