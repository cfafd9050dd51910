"""What collecting costs beside the model: CPU per rollout, memory and latency, above a bare loop.

Run it: ``python benchmarks/collection.py``. It starts a mock endpoint in a process of its own that
answers after 50 ms (for some figures after 2 s or 15 s): with a tool call where the
conversation holds no result of one and the request offers tools, else with text. The floor is a
bare ``aiohttp`` loop in this process that posts a ready-made body and decodes the answer. It needs
no network beyond this machine, and no GPU.

``--peers`` measures verifiers and NeMo Gym in the same run, installed from PyPI into environments
of their own in a cache folder (some minutes, once). ``--stored N`` sets how many stored rollouts
are reported on. ``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
from peers.installed import PEERS, Peer, installed_in, measured
from peers.mock_endpoint import LATENCY, mock_endpoint

from gym_adapters import Environment, Outcome, Reward, Rollout, StopReason, Task, Transcript, tool
from gym_adapters.generation.connections import raise_file_limit
from gym_adapters.items import (
    assistant_message,
    function_call,
    function_call_output,
    user_message,
)
from gym_adapters.rollout import Provenance, Segment, Timings, TokenUsage
from gym_adapters.rollouts import RunFolder, collect, model_source
from gym_adapters.rollouts.manifest import Manifest

REPEATS = 3
AT_ONCE = 1024
MANY = 16_000
ARRIVALS_A_SECOND, ARRIVALS_FOR = 500, 20
# Rollouts of one window of the steady run, two seconds of it.
WINDOW = 1000
COMMAND_ROWS = 500, 8000
# Seconds in which an endpoint answers, where all rollouts are to be in flight together.
SLOW, SLOWEST = 2.0, 15.0

# What is measured.


class SingleTurn(Environment[Task]):
    """One answer."""

    async def verify(self, transcript: Transcript) -> float:
        return float("3" in transcript.final_text)


class OneTool(Environment[Task]):
    """One call of a tool, then an answer."""

    @tool
    async def add(self, first: int, second: int) -> int:
        """Add two numbers.

        Args:
            first: The first.
            second: The second.
        """
        return first + second

    async def verify(self, transcript: Transcript) -> float:
        return float("3" in transcript.final_text)


class Counted(SingleTurn):
    """How many are open, and how many were at most."""

    now = most = 0

    async def start(self) -> None:
        Counted.now += 1
        Counted.most = max(Counted.most, Counted.now)

    async def close(self) -> None:
        Counted.now -= 1


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one measured run: CPU of this process and latency, per rollout, in milliseconds."""

    cpu: float
    median: float
    p99: float


def tasks(count: int) -> Iterator[Task]:
    for number in range(count):
        prompt = f"What is 1 + 2? Think about it, then say the number. ({number})"
        params = {"input": [{"role": "user", "content": prompt}], "max_output_tokens": 256}
        yield Task.from_row({"responses_create_params": params})


def body_of(number: int) -> bytes:
    """A request as small as ours."""
    message = {"role": "user", "content": f"What is 1 + 2? Think about it, then say it. ({number})"}
    settings = {"model": "m", "temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 256}
    return orjson.dumps({**settings, "messages": [message]})


@asynccontextmanager
async def bare_client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=1024)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


async def floor(url: str, count: int, concurrency: int, calls: int = 1) -> Figures:
    """A bare loop: `calls` requests for each of `count` rollouts."""
    slots = asyncio.Semaphore(concurrency)
    seconds: list[float] = []

    async def one(client: aiohttp.ClientSession, number: int) -> None:
        async with slots:
            began = time.perf_counter()
            for _ in range(calls):
                async with client.post(f"{url}/chat/completions", data=body_of(number)) as answer:
                    orjson.loads(await answer.read())["choices"][0]["message"]
            seconds.append(time.perf_counter() - began)

    async with bare_client() as client:
        await asyncio.gather(*(one(client, number) for number in range(concurrency)))
        seconds.clear()
        began = time.process_time()
        await asyncio.gather(*(one(client, number) for number in range(count)))
        return figures(time.process_time() - began, seconds)


async def ours(
    url: str, environment: type[Environment[Task]], count: int, concurrency: int
) -> Figures:
    """`collect`, with the connections open before it is measured."""
    seconds: list[float] = []
    async with model_source(f"openai:m@{url}") as source:
        for number in (concurrency, count):
            seconds.clear()
            began = time.process_time()
            async for rollout in collect(
                environment, tasks(number), source, concurrency=concurrency
            ):
                check(rollout)
                seconds.append(rollout.timings.total)
            spent = time.process_time() - began
    return figures(spent, seconds)


def check(rollout: Rollout) -> None:
    if rollout.reward != 1.0:
        raise RuntimeError(f"a rollout came to {rollout.outcome}")


def figures(cpu: float, seconds: list[float]) -> Figures:
    ordered = sorted(seconds)
    count = len(ordered)
    return Figures(
        cpu=cpu / count * 1e3,
        median=statistics.median(ordered) * 1e3,
        p99=ordered[min(count - 1, int(0.99 * count))] * 1e3,
    )


def best(measure: Callable[[], Awaitable[Figures]]) -> Figures:
    """The run with the least CPU: what others did on the machine only adds to it."""
    return min(runs(measure, REPEATS), key=lambda each: each.cpu)


def typical_p99(measure: Callable[[], Awaitable[Figures]]) -> float:
    """The median of the p99 of several runs: one pause of the garbage collector makes a p99."""
    return statistics.median(each.p99 for each in runs(measure, 2 * REPEATS + 1))


def runs(measure: Callable[[], Awaitable[Figures]], count: int) -> Iterator[Figures]:
    async def run() -> Figures:
        return await measure()

    for _ in range(count):
        gc.collect()
        yield asyncio.run(run())


def slow_endpoint() -> Iterator[Row]:
    """All 1,024 in flight together, as an endpoint that takes long has them."""
    name = f"1,024 at once, endpoint of {SLOW:g} s:"

    def timed(measure: Callable[[], Awaitable[Figures]]) -> tuple[float, float]:
        began = time.perf_counter()
        (found,) = runs(measure, 1)
        return time.perf_counter() - began, found.p99

    Counted.most = 0
    with mock_endpoint(SLOW) as url:
        bare_wall, bare_p99 = timed(lambda: floor(url, 4 * AT_ONCE, AT_ONCE))
        wall, p99 = timed(lambda: ours(url, Counted, 4 * AT_ONCE, AT_ONCE))
        yield Row(f"{name} in flight", Counted.most, "", AT_ONCE, at_least=True)
        yield Row(f"{name} p99, in floors", p99 / bare_p99, "x", 1.6)
        yield Row(f"{name} wall time, in floors", wall / bare_wall, "x", 1.1)
        memory = _peak(
            f"asyncio.run(collection.ours({url!r}, collection.OneTool, {2 * AT_ONCE}, {AT_ONCE}))"
        )
        yield Row(f"{name} memory above an interpreter", memory, "MiB", 100)


async def steady(url: str, through: str) -> float:
    """p99 in ms of what is added to the endpoint's own time, while rollouts arrive evenly.

    A rollout's time runs from when it was due, so that a backlog counts. Of the windows of the run
    the best one is given: what others do on the machine only adds.
    """
    count = ARRIVALS_A_SECOND * ARRIVALS_FOR
    late: list[float] = []
    began = time.perf_counter() + 0.5

    async def due(number: int) -> float:
        at = began + number / ARRIVALS_A_SECOND
        if (pause := at - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        return at

    if through == "collect":
        dues: dict[str, float] = {}

        async def arriving() -> AsyncIterator[Task]:
            for number, task in enumerate(tasks(count)):
                dues[task.task_id] = await due(number)
                yield task

        async with model_source(f"openai:m@{url}") as source:
            async for rollout in collect(SingleTurn, arriving(), source, concurrency=AT_ONCE):
                check(rollout)
                late.append(time.perf_counter() - dues.pop(rollout.task_id) - LATENCY)
    else:
        async with bare_client() as client, asyncio.TaskGroup() as group:

            async def one(number: int, at: float) -> None:
                async with client.post(f"{url}/chat/completions", data=body_of(number)) as answer:
                    orjson.loads(await answer.read())
                late.append(time.perf_counter() - at - LATENCY)

            for number in range(count):
                group.create_task(one(number, await due(number)))
    windows = [late[start : start + WINDOW] for start in range(0, count, WINDOW)]
    return min(figures(0.0, window).p99 for window in windows)


def command_line(url: str) -> float:
    """ms of CPU per rollout of ``gym-adapters collect`` into a folder, without its start."""
    few, many = COMMAND_ROWS

    def spent(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            with rows.open("wb") as file:
                for task in tasks(count):
                    options = [{"A": "2"}, {"B": "3"}]
                    row = {**task.to_row(), "options": options, "expected_answer": "B"}
                    file.write(orjson.dumps(row) + b"\n")
            command = [sys.executable, "-m", "gym_adapters.cli", "collect", "mcqa"]
            command += [
                "-m",
                f"openai:m@{url}",
                "-i",
                str(rows),
                "-o",
                f"{folder}/run",
                "-c",
                "256",
            ]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (min(spent(many), spent(many)) - min(spent(few), spent(few))) / (many - few) * 1e3


def many_at_once() -> tuple[float, float]:
    """Seconds and MiB of 16,000 rollouts at once; raises if one fails."""
    with mock_endpoint(SLOWEST) as url:
        began = time.perf_counter()
        memory = _peak(f"asyncio.run(collection.everyone({url!r}))")
        return time.perf_counter() - began, memory


async def everyone(url: str) -> None:
    """16,000 rollouts in flight, all of which must be scored."""
    scored = 0
    async for rollout in collect(
        Counted, tasks(MANY), f"openai:m@{url}", concurrency=MANY, retries=0
    ):
        check(rollout)
        scored += 1
    if (scored, Counted.most) != (MANY, MANY):
        raise RuntimeError(f"{scored} of {MANY} rollouts came back, {Counted.most} were in flight")


def _peak(code: str) -> float:
    """MiB that a process of its own takes for `code`, above one that does nothing."""
    here = str(Path(__file__).parent)
    begin = f"import asyncio, sys\nsys.path.insert(0, {here!r})\nimport collection\n"
    return _peak_of(begin + code) - _peak_of("")


def _peak_of(code: str) -> float:
    # Not ru_maxrss: a child inherits that from whoever started it.
    tell = "\nprint([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    done = subprocess.run(
        [sys.executable, "-c", code + tell], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.split()[-2]) / 1024


# Stored rollouts.


def stored_rollouts(folder: Path, count: int) -> None:
    """A run of `count` rollouts, 8 to a task, each with a tool call and 200 tokens."""
    dice = random.Random(0)
    manifest = Manifest("bench", "1", "m", None, 0, num_repeats=8)
    with RunFolder(folder, manifest) as run:
        for number in range(count):
            ids = [dice.randrange(150_000) for _ in range(200)]
            reward = Reward(float(dice.random() < 0.4), info={"answer": str(dice.randrange(5))})
            run.append(
                Rollout(
                    row={"responses_create_params": {"input": "x" * 400}, "answer": "3"},
                    task_id=f"{number // 8:016x}",
                    rollout_index=number % 8,
                    prompt=[user_message("x" * 400)],
                    output=[
                        function_call("add", '{"first": 1, "second": 2}', "call_1"),
                        function_call_output("call_1", "3"),
                        assistant_message("The answer is 3. " * 20),
                    ],
                    tools=[],
                    outcome=Outcome.scored(reward, StopReason.ANSWERED),
                    segments=(Segment(ids[:80], ids[80:], [1] * 120, [-0.5] * 120),),
                    timings=Timings(1.0, 0.9, 0.05, 0.05),
                    usage=TokenUsage(100, 120, 2),
                    provenance=Provenance("bench", "1", "0", "m", None, None, 0),
                    task_index=number // 8,
                )
            )


def report_on(count: int) -> tuple[float, float]:
    """Seconds and MiB of ``gym-adapters report --html`` over `count` stored rollouts."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        stored_rollouts(run, count)
        code = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
        )
        command = [sys.executable, "-m", "gym_adapters.cli", "report", str(run)]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--html", f"{folder}/page.html"],
            capture_output=True,
            text=True,
            check=True,
        )
        return time.perf_counter() - began, float(done.stdout)


# The table.


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `goal` is the most, or the least, that `value` should be."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"goal {'>' if self.at_least else '<'} {self.goal:g}"
        met = self.goal is None or (self.value >= self.goal) == self.at_least
        missed = "" if met else "  MISSED"
        return f"{self.name:64} {self.value:9.3f} {self.unit:3} {goal:11}{missed}"


def our_rows(url: str, count: int, concurrency: int, stored: int) -> Iterator[Row]:
    bare = best(lambda: floor(url, count, concurrency))
    single = best(lambda: ours(url, SingleTurn, count, concurrency))
    bare_two = best(lambda: floor(url, count, concurrency, calls=2))
    two = best(lambda: ours(url, OneTool, count, concurrency))
    yield Row("floor: CPU of one request", bare.cpu, "ms")
    yield Row(SINGLE, single.cpu, "ms", 0.5)
    yield Row("single turn: CPU, in floors", single.cpu / bare.cpu, "x", 3.5)
    yield Row("floor: CPU of two requests", bare_two.cpu, "ms")
    yield Row(TOOL, two.cpu, "ms", 1.2)
    yield Row("the command, into a folder: CPU per rollout", command_line(url), "ms")
    wide_floor = typical_p99(lambda: floor(url, 4 * AT_ONCE, AT_ONCE))
    wide = typical_p99(lambda: ours(url, SingleTurn, 4 * AT_ONCE, AT_ONCE))
    yield Row("1,024 at once: p99 of the floor's request", wide_floor, "ms")
    yield Row("1,024 at once: p99 of a rollout", wide, "ms")
    yield Row("1,024 at once: p99, in floors", wide / wide_floor, "x", 1.6)
    yield from slow_endpoint()
    yield Row("500 a second: p99 that the floor adds", asyncio.run(steady(url, "floor")), "ms")
    yield Row("500 a second: p99 that is added", asyncio.run(steady(url, "collect")), "ms", 30)
    seconds, memory = many_at_once()
    yield Row("16,000 at once, endpoint of 15 s, none failed: wall time", seconds, "s")
    yield Row("16,000 at once: memory above an interpreter", memory, "MiB")
    if stored:
        seconds, memory = report_on(stored)
        yield Row(f"report of {stored:,} stored rollouts: time", seconds, "s", 60)
        yield Row(f"report of {stored:,} stored rollouts: memory", memory, "MiB", 500)


SINGLE = "single turn: CPU per rollout"
TOOL = "two model calls and a tool call: CPU per rollout"


def peer_rows(url: str, cache: Path, ours: dict[str, float]) -> Iterator[Row]:
    for peer in PEERS:
        python = installed_in(cache, peer)
        if python is None:
            print(f"{peer.name}: left out, it needs {' or '.join(peer.pythons)}", flush=True)
            continue
        yield from _peer_rows(peer, python, url, ours)


def _peer_rows(peer: Peer, python: Path, url: str, ours: dict[str, float]) -> Iterator[Row]:
    whats = [("single", SINGLE)]
    if peer.script == "nemo_gym_rollouts.py":
        whats.append(("tool", TOOL))
    for what, name in whats:
        runs = 1 if peer.script == "bench_taskset.py" else REPEATS
        found = min(measured(peer, python, url, 1000, 64, what).cpu for _ in range(runs)) * 1e3
        least = 20.0 if peer.name.startswith("nemo") else 10.0
        yield Row(f"{peer.name}, {name}", found, "ms")
        yield Row(f"{peer.name}: times ours", found / ours[name], "x", least, at_least=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=4000, help="rollouts of a measured run")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--stored", type=int, default=100_000, help="stored rollouts to report on")
    parser.add_argument("--peers", action="store_true", help="measure others, from PyPI")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    raise_file_limit()
    rows: list[Row] = []
    with mock_endpoint() as url:

        def show(made: Iterator[Row]) -> None:
            for row in made:
                print(row, flush=True)
                rows.append(row)

        show(our_rows(url, given.count, given.concurrency, given.stored))
        if given.peers:
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            known = {row.name: row.value for row in rows}
            show(peer_rows(url, home / "gym_adapters" / "peers", known))
    figures = {row.name: {"value": row.value, "unit": row.unit, "goal": row.goal} for row in rows}
    print(json.dumps(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
