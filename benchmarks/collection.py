"""What collecting costs beside the model: CPU per rollout, memory and latency, above a bare loop.

Run it: ``python benchmarks/collection.py``. It starts a mock endpoint in a process of its own that
answers after 50 ms: with a tool call where the conversation holds no result of one and the request
offers tools, else with text. The floor is a bare ``aiohttp`` loop in this process that posts a
ready-made body and decodes the answer. No network beyond this machine, and no GPU.

``--verifiers-python PATH`` (or ``BENCH_VERIFIERS_PYTHON``; ``verifiers<0.2`` and ``datasets``) and
``--nemo-gym-python PATH`` (``BENCH_NEMO_GYM_PYTHON``; ``nemo-gym``, of which its client alone is
measured) name interpreters that have a peer installed; without them peers are left out.
``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import orjson

from gym_adapters import Environment, Rollout, Task, Transcript, tool
from gym_adapters.rollouts import collect, model_source

LATENCY = 0.05
REPEATS = 3

# The mock endpoint.

TEXT = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "mock",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The answer is 3."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
}
CALL = {
    **TEXT,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "add", "arguments": '{"first": 1, "second": 2}'},
                    }
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
}


def _http(body: object) -> bytes:
    content = orjson.dumps(body)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(content)}\r\n\r\n".encode() + content


class MockEndpoint(asyncio.Protocol):
    """Just enough HTTP, so that the machine is left to what is measured."""

    text, call = _http(TEXT), _http(CALL)

    def __init__(self) -> None:
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._read = body[length:]
        wants_call = b'"tools"' in body and b'"role":"tool"' not in body
        loop = asyncio.get_running_loop()
        loop.call_later(LATENCY, self._answer, self.call if wants_call else self.text)

    def _answer(self, answer: bytes) -> None:
        if isinstance(self._transport, asyncio.Transport) and not self._transport.is_closing():
            self._transport.write(answer)


def _serve(port: Connection) -> None:
    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(MockEndpoint, "127.0.0.1", 0, backlog=4096)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def mock_endpoint() -> Iterator[str]:
    """Its base address."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


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


def best(measure: Callable[[], Awaitable[Figures]], repeats: int = REPEATS) -> Figures:
    """The run with the least CPU: what others did on the machine only adds to it."""

    async def run() -> Figures:
        return await measure()

    found = []
    for _ in range(repeats):
        gc.collect()
        found.append(asyncio.run(run()))
    return min(found, key=lambda each: each.cpu)


def memory_above_interpreter(url: str) -> float:
    """MiB at the peak of 1,024 rollouts at once, above an interpreter that did nothing."""
    base = _peak("import resource")
    peak = _peak(
        "import asyncio, resource, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import collection\n"
        f"asyncio.run(collection.ours({url!r}, collection.OneTool, 2048, 1024))"
    )
    return peak - base


def _peak(code: str) -> float:
    tell = "\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    done = subprocess.run(
        [sys.executable, "-c", code + tell], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


# Peers, where they are installed.

NEMO_GYM = """
import asyncio, json, sys, time
import aiohttp
from nemo_gym.openai_utils import NeMoGymAsyncOpenAI
from nemo_gym.server_utils import GlobalAIOHTTPAsyncClientConfig, set_global_aiohttp_client
url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def main():
    set_global_aiohttp_client(GlobalAIOHTTPAsyncClientConfig())
    client = NeMoGymAsyncOpenAI(base_url=url, api_key="none")
    slots, seconds = asyncio.Semaphore(concurrency), []
    async def one(number):
        async with slots:
            began = time.perf_counter()
            await client.create_chat_completion(
                model="m", messages=[{"role": "user", "content": f"What is 1 + 2? ({number})"}])
            seconds.append(time.perf_counter() - began)
    await asyncio.gather(*map(one, range(concurrency)))
    seconds.clear()
    began = time.process_time()
    await asyncio.gather(*map(one, range(count)))
    print(json.dumps([time.process_time() - began, seconds]))
asyncio.run(main())
"""
VERIFIERS = """
import asyncio, json, sys, time
import verifiers as vf
from datasets import Dataset
from openai import AsyncOpenAI
from verifiers.clients import OpenAIChatCompletionsClient
url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def rows(n):
    questions = [f"What is 1 + 2? ({i})" for i in range(n)]
    return Dataset.from_list([{"question": each, "answer": "3"} for each in questions])
async def right(completion, answer, **kwargs):
    return float(answer in completion[-1]["content"])
async def main():
    client = OpenAIChatCompletionsClient(AsyncOpenAI(base_url=url, api_key="none"))
    for n in (concurrency, count):
        env = vf.SingleTurnEnv(dataset=rows(n), rubric=vf.Rubric(funcs=[right]))
        began, wall = time.process_time(), time.perf_counter()
        await env.evaluate(client, "m", num_examples=n, rollouts_per_example=1,
                           max_concurrent=concurrency)
        spent = time.process_time() - began
    print(json.dumps([spent, [(time.perf_counter() - wall) / count * concurrency] * count]))
asyncio.run(main())
"""


def peer(python: str, code: str, url: str, count: int, concurrency: int) -> Figures:
    """A peer's figures, measured by its own interpreter on the same endpoint."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-c", code, url, str(count), str(concurrency)],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the peer at {python} failed: {done.stderr[-2000:]}")
    cpu, seconds = json.loads(done.stdout.strip().splitlines()[-1])
    return figures(cpu, seconds)


# The table.


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `goal` is the most that `value` should be."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"goal {self.goal:g}"
        missed = "" if self.goal is None or self.value <= self.goal else "  MISSED"
        return f"{self.name:54} {self.value:9.3f} {self.unit:3} {goal:10}{missed}"


def measured(url: str, count: int, concurrency: int, peers: dict[str, str]) -> Iterator[Row]:
    bare = best(lambda: floor(url, count, concurrency))
    single = best(lambda: ours(url, SingleTurn, count, concurrency))
    bare_two = best(lambda: floor(url, count, concurrency, calls=2))
    two = best(lambda: ours(url, OneTool, count, concurrency))
    yield Row("floor: CPU of one request", bare.cpu, "ms")
    yield Row("single turn: CPU per rollout", single.cpu, "ms", 0.5)
    yield Row("single turn: CPU, in floors", single.cpu / bare.cpu, "x", 3.5)
    yield Row("floor: CPU of two requests", bare_two.cpu, "ms")
    yield Row("two model calls and a tool call: CPU per rollout", two.cpu, "ms", 1.2)
    yield Row("floor: p99 of a request", bare.p99, "ms")
    yield Row("single turn: p99 of a rollout", single.p99, "ms")
    yield Row("single turn: p99, in floors", single.p99 / bare.p99, "x", 1.6)
    yield Row(
        "1,024 rollouts at once: memory above interpreter",
        memory_above_interpreter(url),
        "MiB",
        100,
    )
    for name, python in peers.items():
        code = {"verifiers": VERIFIERS, "nemo-gym": NEMO_GYM}[name]
        found = peer(python, code, url, min(count, 1000), concurrency)
        what = "a request by its client alone" if name == "nemo-gym" else "a single turn"
        yield Row(f"{name}: CPU of {what}", found.cpu, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=4000, help="rollouts of a measured run")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", type=Path, help="file for the figures")
    for name in ("verifiers", "nemo-gym"):
        variable = f"BENCH_{name.upper().replace('-', '_')}_PYTHON"
        parser.add_argument(f"--{name}-python", default=os.environ.get(variable))
    given = parser.parse_args()
    paths = {"verifiers": given.verifiers_python, "nemo-gym": given.nemo_gym_python}
    peers = {name: python for name, python in paths.items() if python}
    rows = []
    with mock_endpoint() as url:
        for row in measured(url, given.count, given.concurrency, peers):
            print(row, flush=True)
            rows.append(row)
    figures = {row.name: {"value": row.value, "unit": row.unit, "goal": row.goal} for row in rows}
    print(json.dumps(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
