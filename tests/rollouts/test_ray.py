"""Rollouts on a Ray cluster: the same files, and a lost node costs nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import InvalidConfig, Rollout
from gym_adapters.episode import EpisodeLimits
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.registry import load_environment
from gym_adapters.rollouts import RolloutMetrics, ray as ray_module, read_rollouts
from gym_adapters.rollouts.local_runner import Job, Part
from gym_adapters.rollouts.ray import RayOptions, RayRunner
from gym_adapters.rollouts.run import RunSettings, run
from gym_adapters.rollouts.task_input import TaskInput

ray: Any = pytest.importorskip("ray", reason="needs the extra ray")

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(400),
    # Ray's own: what it leaves open when a node dies is not ours to close.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20},
    )
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def settings(output: Path, count: int, **options: object) -> RunSettings:
    entry = load_environment("example_single_tool_call")
    made = RunSettings(
        entry=entry,
        config=entry.config(),
        model="scripted:gold@0.1",
        tasks=TaskInput(entry, generate=count),
        output=output,
        num_repeats=2,
        concurrency=16,
    )
    return replace(made, **options)  # type: ignore[arg-type]


def keys(output: Path) -> Counter[tuple[str, int]]:
    return Counter(
        (rollout.task_id, rollout.rollout_index)
        for rollout in read_rollouts(output / "rollouts.jsonl")
    )


class KillsANode:
    """Removes a node once some rollouts are there."""

    def __init__(self, cluster: Any, node: Any) -> None:
        self._cluster, self._node, self.seen = cluster, node, 0
        self.killing: asyncio.Future[Any] | None = None

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        pass

    def finished(self, rollout: Rollout) -> None:
        self.seen += 1
        if self.seen == 20:
            self.killing = asyncio.ensure_future(
                asyncio.to_thread(self._cluster.remove_node, self._node, allow_graceful=False)
            )


async def test_a_node_that_dies_costs_no_rollout_and_repeats_none(
    cluster: Any, tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    cluster.wait_for_nodes()
    output = tmp_path / "run"
    watcher = KillsANode(cluster, nodes[1])
    options = RayOptions(workers=2, address=cluster.address)
    metrics = await run(settings(output, 100, ray=options), watcher)
    assert watcher.killing is not None
    await watcher.killing
    assert metrics.rollouts == metrics.scored == 200
    assert metrics.reward_mean == 1.0
    assert sorted(keys(output).values()) == [1] * 200
    local = await run(settings(tmp_path / "local", 100, model="scripted:gold"))
    assert keys(tmp_path / "local") == keys(output)
    assert (local.reward_mean, local.turns) == (metrics.reward_mean, metrics.turns)
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "local").iterdir())
    written = orjson.loads((output / "metrics.json").read_bytes())
    assert written == orjson.loads(orjson.dumps(metrics.to_json()))


WHERE = '''
import os

from gym_adapters import Environment, Reward, Task


class Where(Environment[Task]):
    """Tells where it runs."""

    async def verify(self, transcript):
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Reward(1.0, info={"node": node, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})

    @classmethod
    def generate_tasks(cls, count, *, seed=0, difficulty=0.5):
        for number in range(count):
            yield Task.from_row({"responses_create_params": {"input": str(number)}})
'''

NO_GOLD = '''
from gym_adapters import Environment, Task


class NoGold(Environment[Task]):
    """Knows no best attempt."""

    async def verify(self, transcript):
        return 1.0

    @classmethod
    def generate_tasks(cls, count, *, seed=0, difficulty=0.5):
        for number in range(count):
            yield Task.from_row({"responses_create_params": {"input": str(number)}})
'''


async def test_what_workers_refuse_ends_the_run_and_folders_reach_them(
    cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    folder = tmp_path / "no_gold"
    folder.mkdir()
    (folder / "environment.py").write_text(NO_GOLD)
    entry = load_environment(str(folder))
    made = settings(
        tmp_path / "run",
        1,
        entry=entry,
        config=entry.config(),
        tasks=TaskInput(entry, generate=50),
        ray=RayOptions(workers=1, address=cluster.address),
        concurrency=4,
        retries=0,
    )
    with pytest.raises(InvalidConfig, match="NoGold has no gold transcripts"):
        await run(made)
    assert keys(tmp_path / "run") == {}
    silent = replace(made, model="scripted:empty", output=tmp_path / "silent")
    metrics = await run(silent)
    assert (metrics.rollouts, metrics.reward_mean) == (100, 1.0)


RANKED = '''
from contextlib import asynccontextmanager

from gym_adapters import Environment, EnvironmentConfig, Reward, Task


class RankedConfig(EnvironmentConfig):
    step: float = 0.5


class Ranked(Environment[Task]):
    """Ranks a group with what it has opened."""

    Config = RankedConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config):
        opened = {"open": True}
        yield opened
        opened["open"] = False

    async def verify(self, transcript):
        return 0.0

    @classmethod
    async def compare(cls, rollouts, *, config, resources):
        assert resources == {"open": True}
        return [Reward(config.step * index) for index, _ in enumerate(rollouts)]

    @classmethod
    def generate_tasks(cls, count, *, seed=0, difficulty=0.5):
        for number in range(count):
            yield Task.from_row({"responses_create_params": {"input": str(number)}})
'''


async def test_groups_are_compared_where_the_resources_are_open(
    cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    folder = tmp_path / "ranked"
    folder.mkdir()
    (folder / "environment.py").write_text(RANKED)
    entry = load_environment(str(folder))
    made = settings(
        tmp_path / "run",
        1,
        entry=entry,
        config=entry.config(["step=0.25"]),
        model="scripted:empty",
        tasks=TaskInput(entry, generate=5),
        ray=RayOptions(workers=1, address=cluster.address),
        num_repeats=3,
    )
    metrics = await run(made)
    assert metrics.failures == {}
    rewards = Counter(rollout.reward for rollout in read_rollouts(made.output / "rollouts.jsonl"))
    assert rewards == {0.0: 5, 0.25: 5, 0.5: 5}


class SawEnough(Exception):
    """Both workers have answered."""


class SeesPlaces:
    """Ends the run once rollouts came from two places, however slowly the second worker opened."""

    def __init__(self) -> None:
        self.places: set[tuple[str, str]] = set()

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        pass

    def finished(self, rollout: Rollout) -> None:
        assert rollout.outcome.reward is not None, rollout.outcome.failure
        info = rollout.outcome.reward.info
        self.places.add((str(info["node"]), str(info["gpus"])))
        if len(self.places) == 2:
            raise SawEnough


async def test_workers_land_where_the_gpus_are_one_each(cluster: Any, tmp_path: Path) -> None:
    # GPUs that Ray is told of: it places by its books, and shows each actor its own.
    nodes = [
        cluster.add_node(num_cpus=2, num_gpus=gpus, object_store_memory=80 * 2**20)
        for gpus in (0, 1, 1)
    ]
    cluster.wait_for_nodes()
    folder = tmp_path / "where"
    folder.mkdir()
    (folder / "environment.py").write_text(WHERE)
    entry = load_environment(str(folder))
    made = settings(
        tmp_path / "run",
        1,
        entry=entry,
        config=entry.config(),
        model="scripted:empty@0.1",
        tasks=TaskInput(entry, generate=100_000),
        ray=RayOptions(workers=2, address=cluster.address, gpus=1),
    )
    seen = SeesPlaces()
    with pytest.raises(SawEnough):
        await run(made, seen)
    # Two nodes with one GPU each: each worker has the one of its node, and sees no other.
    assert {node for node, _ in seen.places} == {node.node_id for node in nodes[1:]}
    assert {gpus for _, gpus in seen.places} == {"0"}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"never came: {what}")


def test_a_driver_that_is_killed_is_resumed_without_loss_or_repetition(
    cluster: Any, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    output = tmp_path / "run"
    path = output / "rollouts.jsonl"
    command = [sys.executable, "-m", "gym_adapters.cli", "collect", "example_single_tool_call"]
    command += ["-m", "scripted:gold@0.2", "-n", "100", "-k", "2", "-c", "8", "-o", str(output)]
    command += ["--ray-address", cluster.address, "--workers", "2", "--resume", "--json"]

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    written = 0
    for enough in (15, 60):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as driver:
            wait_for(lambda least=enough: lines() >= least, f"{enough} rollouts")  # type: ignore[misc]
            driver.kill()
            driver.wait()
        assert written < lines() < 200
        written = lines()
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(keys(output).values()) == [1] * 200
    metrics = orjson.loads(done.stdout)
    assert (metrics["scored"], metrics["reward_mean"], metrics["failures"]) == (200, 1.0, {})


async def test_a_run_whose_cluster_is_gone_ends_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Actor:
        """Waits for a place on a node that is not there any more."""

        @property
        def open(self) -> Actor:
            return self

        async def remote(self) -> str:
            await asyncio.sleep(60)
            return ""

    class Gone:
        def nodes(self) -> list[dict[str, object]]:
            return [{"NodeID": "other", "Alive": True}, {"NodeID": "ours", "Alive": False}]

        def kill(self, actor: object) -> None:
            pass

    monkeypatch.setattr(ray_module, "LOOK", 0.01)
    entry = load_environment("arithmetic_tools")
    part = Part(entry=entry, config=entry.config(), sampling=None, limits=EpisodeLimits())
    runner = RayRunner(ray=Gone(), parts=[part], make=Actor, model="m", seed=0)
    runner.start_worker()
    task = next(iter(entry.environment.generate_tasks(1, seed=0)))
    start = runner.prepare(Job(0, task, 0, 0, SamplingParams()))
    watching = asyncio.create_task(runner.watch("ours"))
    with pytest.raises(InvalidConfig, match="--resume"):
        async with asyncio.timeout(30):
            await start()
    await watching
    await runner.close()


def test_a_run_needs_a_worker() -> None:
    with pytest.raises(InvalidConfig, match="at least 1 worker"):
        RayOptions(workers=0)
