"""Several environments in one run: shares, records, metrics and resumption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters import Environment, InvalidConfig, Reward, Rollout, Task, Transcript
from gym_adapters.errors import ToolInfrastructureError
from gym_adapters.items import Item, assistant_message
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.rollouts import RolloutMetrics, read_rollouts
from gym_adapters.rollouts.blend import blended, shares
from gym_adapters.rollouts.recorded import recorded_metrics, recorded_thresholds
from gym_adapters.rollouts.run import RunPart, RunSettings, run
from gym_adapters.rollouts.run_folder import OnExisting


def task(text: str) -> Task:
    return Task.from_row({"responses_create_params": {"input": text}})


def stream(name: str, count: int) -> list[Task]:
    return [task(f"{name}{number}") for number in range(count)]


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 10)), min_size=1, max_size=5))
def test_every_task_comes_once_and_in_order(streams: list[tuple[int, float]]) -> None:
    counts, weights = [count for count, _ in streams], [weight for _, weight in streams]
    given_tasks = [stream(str(index), count) for index, count in enumerate(counts)]
    got: list[list[Task]] = [[] for _ in streams]
    for index, each in blended(given_tasks, weights):
        got[index].append(each)
    assert got == given_tasks


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_while_all_last_shares_are_as_the_weights_say(weights: list[int]) -> None:
    total = sum(weights)
    streams = [stream(str(index), 10 * weight) for index, weight in enumerate(weights)]
    order = [index for index, _ in blended(streams, [float(weight) for weight in weights])]
    for rounds in range(1, 11):
        assert Counter(order[: rounds * total]) == Counter(
            {index: rounds * weight for index, weight in enumerate(weights)}
        )


def test_a_whole_blend_goes_on_and_a_proportional_one_ends() -> None:
    assert [each for _, each in blended(["aaaa", "bb"], [2, 1])] == list("aabaab")
    assert [each for _, each in blended(["aaaa", "b"], [1, 1])] == list("abaaa")
    assert [each for _, each in blended(["aaaa", "b"], [1, 1], whole=False)] == list("aba")


@given(st.integers(5, 200), st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_shares_add_up_and_leave_nobody_out(total: int, weights: list[float]) -> None:
    parts = shares(total, weights)
    assert sum(parts) == total
    assert min(parts) >= 1


def test_shares_follow_the_weights() -> None:
    assert shares(40, [3.0, 1.0]) == [30, 10]
    with pytest.raises(InvalidConfig, match="too few"):
        shares(1, [1.0, 1.0])


class Words(Environment[Task]):
    """Always right, unless the service is down."""

    down: ClassVar[bool] = False

    async def start(self) -> None:
        if Words.down and self.task_text.endswith("3"):
            raise ToolInfrastructureError("the service is down")

    @property
    def task_text(self) -> str:
        return str(self.task.responses_create_params["input"])

    async def verify(self, transcript: Transcript) -> float:
        return 1.0

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        return [[assistant_message("yes")]]


class Halves(Words):
    """Gives a half."""

    async def verify(self, transcript: Transcript) -> float:
        return 0.5


class Ranks(Words):
    """Rewards are ranks in the group."""

    @classmethod
    async def compare(cls, rollouts: Sequence[Rollout], **_: Any) -> list[Reward]:
        return [Reward(float(rollout.rollout_index)) for rollout in rollouts]


def part(environment: type[Environment[Task]], count: int, threshold: float = 1.0) -> RunPart:
    entry = EnvironmentEntry(environment.name, environment, None)
    return RunPart(
        entry=entry,
        config=entry.config(),
        tasks=lambda: stream(environment.name, count),
        input=environment.name,
        pass_threshold=threshold,
    )


def blend(*parts: RunPart, **options: object) -> RunSettings:
    first = parts[0]
    made = RunSettings(
        entry=first.entry,
        config=first.config,
        model="scripted:gold",
        tasks=first.tasks,
        input=first.input,
        weight=first.weight,
        more=parts[1:],
        num_repeats=2,
        retries=0,
        pass_threshold=first.pass_threshold,
    )
    return replace(made, **options)  # type: ignore[arg-type]


def keys(output: Path) -> Counter[tuple[str, int]]:
    return Counter(
        (rollout.task_id, rollout.rollout_index)
        for rollout in read_rollouts(output / "rollouts.jsonl")
    )


async def test_one_folder_holds_all_with_metrics_for_each(tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = blend(part(Words, 6), part(Halves, 3, 0.5), part(Ranks, 2), output=output)
    metrics = await run(settings)
    assert (metrics.rollouts, metrics.tasks) == (22, 11)
    each = metrics.environments
    assert {name: each[name].rollouts for name in each} == {"Words": 12, "Halves": 6, "Ranks": 4}
    assert each["Halves"].reward_mean == 0.5
    assert each["Halves"].pass_at_k[0].pass_at_k == 1.0
    assert each["Ranks"].reward_mean == 0.5
    assert metrics.pass_at_k[0].pass_at_k == pytest.approx((6 + 3 + 2 * 0.5) / 11)
    written = orjson.loads((output / "metrics.json").read_bytes())
    assert written == orjson.loads(orjson.dumps(metrics.to_json()))
    threshold, by_environment = recorded_thresholds(output)
    assert by_environment == {"Words": 1.0, "Halves": 0.5, "Ranks": 1.0}
    assert recorded_metrics(output, RolloutMetrics(threshold, by_environment)) == metrics
    manifest = orjson.loads((output / "manifest.json").read_bytes())
    assert manifest["environment"] == "Words, Halves, Ranks"
    assert manifest["blend"] == {"Words": 1.0, "Halves": 1.0, "Ranks": 1.0}


async def test_a_run_of_one_has_no_metrics_by_environment(tmp_path: Path) -> None:
    metrics = await run(blend(part(Words, 2)))
    assert "environments" not in metrics.to_json()


async def test_rows_that_two_environments_share_are_told_apart(tmp_path: Path) -> None:
    shared = replace(part(Halves, 0), tasks=lambda: stream("Words", 4))
    output = tmp_path / "run"
    await run(blend(part(Words, 4), shared, output=output))
    assert sorted(keys(output).values()) == [1] * 16


async def test_a_resumed_blend_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    settings = blend(part(Words, 6), part(Halves, 6), part(Ranks, 6), output=output)
    monkeypatch.setattr(Words, "down", True)
    metrics = await run(settings)
    assert metrics.environments["Halves"].failures == {"tool": 2}
    assert metrics.failures == {"tool": 6}
    monkeypatch.setattr(Words, "down", False)
    again = await run(replace(settings, on_existing=OnExisting.RESUME))
    # A group that was compared without survivors is whole, and stays as it is.
    assert again.failures == {"tool": 2}
    assert again.environments["Words"].failures == again.environments["Halves"].failures == {}
    assert again.environments["Halves"].retried == {"tool": 2}
    assert sorted(keys(output).values()) == [1] * 34


async def test_a_limit_holds_over_all() -> None:
    metrics = await run(blend(replace(part(Words, 9), weight=3.0), part(Halves, 9), limit=8))
    counts = {name: each.tasks for name, each in metrics.environments.items()}
    assert counts == {"Words": 6, "Halves": 2}


async def test_other_weights_are_another_run(tmp_path: Path) -> None:
    output = tmp_path / "run"
    await run(blend(part(Words, 2), part(Halves, 2), output=output))
    other = blend(replace(part(Words, 2), weight=2.0), part(Halves, 2), output=output)
    with pytest.raises(InvalidConfig, match=r"blend\.Words was 1\.0, and is 2\.0 now"):
        await run(replace(other, on_existing=OnExisting.RESUME))


def test_senseless_blends_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="once"):
        blend(part(Words, 1), part(Words, 1))
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidConfig, match="weight"):
            blend(part(Words, 1), replace(part(Halves, 1), weight=weight))
