"""Several addresses of one model: who is asked, who is left alone, and when it is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from gym_adapters import Environment, InvalidConfig, Rollout, Task, Transcript, tool
from gym_adapters.generation import addresses, openai_endpoint
from gym_adapters.generation.addresses import FAILURES_TO_OPEN, PATIENCE, Address, Addresses
from gym_adapters.rollouts import collect, model_source


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock, url: str = "a") -> Address:
    address = Address(url, clock)
    for _ in range(FAILURES_TO_OPEN):
        address.failed(30.0)
    return address


def test_failures_in_a_row_close_an_address_for_a_growing_while() -> None:
    clock = Clock()
    address = broken(clock)
    assert not address.ready
    pauses = []
    for _ in range(8):
        before = clock.now
        while not address.ready:
            clock.now += 0.5
        pauses.append(clock.now - before)
        tries = address.asked()
        address.failed(30.0, tries=tries)
        address.done(tries)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_requests_that_fail_together_make_no_pause_longer() -> None:
    clock = Clock()
    address = Address("a", clock)
    under_way = [address.asked() for _ in range(200)]
    for tries in under_way:
        address.failed(30.0, tries=tries)
        address.done(tries)
    assert not address.ready
    clock.now = 1.0
    assert address.ready


def test_an_answer_opens_it_again() -> None:
    address = broken(Clock())
    address.answered()
    assert address.ready
    assert not address.given_up


def test_only_failures_in_a_row_count() -> None:
    address = Address("a", Clock())
    for _ in range(10 * FAILURES_TO_OPEN):
        address.failed(30.0)
        address.answered()
    assert address.ready


def test_one_request_at_a_time_tries_an_address_again() -> None:
    clock = Clock()
    address = broken(clock)
    clock.now = 100.0
    tries = address.asked()
    assert not address.ready
    address.done(tries)
    assert address.ready


def test_an_address_is_given_up_after_a_while_and_sooner_if_it_never_answered() -> None:
    clock = Clock()
    address = broken(clock)
    clock.now = addresses.PATIENCE_AT_FIRST
    assert address.given_up
    address.answered()
    clock.now = 1000.0
    for _ in range(FAILURES_TO_OPEN):
        address.failed(30.0)
    clock.now += PATIENCE - 1
    assert not address.given_up
    clock.now += 1
    assert address.given_up


def test_a_conversation_stays_and_new_ones_go_where_least_is_done() -> None:
    pool = Addresses([Address("a", Clock()), Address("b", Clock())])
    first = pool.choose(None)
    assert first is not None
    first.asked()
    second = pool.choose(None)
    assert second is not first
    assert pool.choose(first) is first


def test_an_address_at_rest_is_asked_only_where_there_is_no_other() -> None:
    clock = Clock()
    resting, other = Address("a", clock), Address("b", clock)
    resting.rest(10.0)
    pool = Addresses([resting, other])
    assert pool.choose(resting) is pool.choose(None) is other
    assert not pool.another(other)
    assert Addresses([resting]).choose(None) is Addresses([resting]).choose(resting) is resting
    other.rest(5.0)
    assert pool.choose(resting) is resting
    clock.now = 10.0
    assert pool.choose(resting) is resting


def test_a_conversation_moves_on_while_its_address_is_down() -> None:
    clock = Clock()
    down, up = broken(clock), Address("b", clock)
    pool = Addresses([down, up])
    assert pool.choose(down) is up
    assert pool.another(down)
    assert Addresses([down]).choose(None) is None


class Adder(Environment[Task]):
    """Adds; the reward is the sum."""

    total = 0

    @tool
    async def add(self, count: int) -> int:
        """Add.

        Args:
            count: How much.
        """
        self.total += count
        return self.total

    async def verify(self, transcript: Transcript) -> float:
        return float(self.total)


TASKS = [
    Task.from_row({"responses_create_params": {"input": f"add {number}"}}) for number in range(24)
]


class Replica:
    """One server; counts requests by the conversation's first message."""

    def __init__(self, name: str) -> None:
        self.name, self.asked, self.status = name, Counter[str](), 200

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked[body["messages"][0]["content"]] += 1
        await asyncio.sleep(0.002)
        if self.status != 200:
            return web.json_response({"error": "down"}, status=self.status)
        message: dict[str, object] = {"role": "assistant", "content": "done"}
        if len(body["messages"]) == 1:
            function = {"name": "add", "arguments": '{"count": 2}'}
            message["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


@asynccontextmanager
async def replicas(*servers: Replica) -> AsyncIterator[str]:
    """A spec of all of them."""
    async with AsyncExitStack() as stack:
        urls = []
        for server in servers:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", server.handle)
            runner = web.AppRunner(app, shutdown_timeout=0.01)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        yield "openai:m@" + ",".join(urls)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_endpoint, "LONGEST_PAUSE", 0.001)


async def rollouts_of(spec: str, **options: int) -> list[Rollout]:
    return [each async for each in collect(Adder, TASKS, spec, **options)]


async def test_rollouts_are_shared_out_and_each_stays_at_one_server() -> None:
    one, two = Replica("one"), Replica("two")
    async with replicas(one, two) as spec:
        rollouts = await rollouts_of(spec, concurrency=8)
        assert {each.provenance.model for each in rollouts} == {spec}
    assert [each.reward for each in rollouts] == [2.0] * 24
    assert not one.asked.keys() & two.asked.keys()
    assert set(one.asked.values()) == set(two.asked.values()) == {2}
    assert min(len(one.asked), len(two.asked)) >= 8


async def test_a_server_that_is_down_costs_no_rollout() -> None:
    up, down = Replica("up"), Replica("down")
    down.status = 503
    async with replicas(up, down) as spec:
        rollouts = await rollouts_of(spec)
    assert [each.reward for each in rollouts] == [2.0] * 24
    assert sum(up.asked.values()) == 48


async def test_a_request_that_a_server_can_not_stomach_closes_no_address() -> None:
    class Poisoned(Replica):
        """Answers 500 to what one conversation asks, and serves the others."""

        async def handle(self, request: web.Request) -> web.Response:
            body = await request.json()
            self.status = 500 if body["messages"][0]["content"] == "add 0" else 200
            return await super().handle(request)

    server = Poisoned("one")
    async with replicas(server) as spec, model_source(spec) as source:
        rollouts = [each async for each in collect(Adder, TASKS, source, concurrency=1)]
        address = source.for_rollout(Adder, TASKS[0])._addresses.all[0]  # type: ignore[attr-defined]
    assert [each.reward for each in rollouts] == [None] + [2.0] * 23
    assert server.asked["add 0"] == 6
    assert address.trusted


async def test_five_conversations_that_get_500_in_a_row_close_an_address() -> None:
    server = Replica("one")
    server.status = 500
    async with replicas(server) as spec, model_source(spec) as source:
        address = source.for_rollout(Adder, TASKS[0])._addresses.all[0]  # type: ignore[attr-defined]
        five = TASKS[:FAILURES_TO_OPEN]
        rollouts = [each async for each in collect(Adder, five[:-1], source, concurrency=1)]
        assert address.trusted
        rollouts += [each async for each in collect(Adder, five[-1:], source, concurrency=1)]
    assert [each.reward for each in rollouts] == [None] * 5
    assert not address.trusted


async def test_endpoints_that_are_all_gone_end_the_run_with_the_way_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "PATIENCE_AT_FIRST", 0.05)
    gone = Replica("gone")
    gone.status = 500
    rollouts: list[Rollout] = []

    async def gather(spec: str) -> None:
        many = (
            Task.from_row({"responses_create_params": {"input": str(number)}})
            for number in range(100_000)
        )
        async for each in collect(Adder, many, spec, concurrency=4):
            rollouts.append(each)  # noqa: PERF401 - what came before the error counts

    async with replicas(gone) as spec:
        with pytest.raises(InvalidConfig, match="--resume"):
            await gather(spec)
    assert {each.reward for each in rollouts} == {None}
    assert {str(each.outcome.failure.boundary) for each in rollouts if each.outcome.failure} == {
        "model"
    }


def test_the_spec_names_every_address() -> None:
    spec = "openai:m@http://a/v1,http://b/v1"
    assert model_source(spec).name == spec
    for wrong in ("openai:m@http://a/v1,", "openai:m@http://a/v1,b"):
        with pytest.raises(InvalidConfig, match="needs a model's name and an address"):
            model_source(wrong)
