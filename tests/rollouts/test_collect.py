"""Collecting many episodes: what is yielded, what is closed, what is never lost."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, cast

import pytest

from gym_adapters import (
    Boundary,
    Environment,
    InvalidConfig,
    InvalidEnvironment,
    InvalidRow,
    JudgeError,
    ModelError,
    OutcomeStatus,
    Reward,
    Rollout,
    SandboxError,
    StopReason,
    Task,
    ToolInfrastructureError,
    Transcript,
    Unsupported,
    VerifierError,
    tool,
)
from gym_adapters.agents.remote_agent import AgentGateway, RemoteAgent
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.rollouts import collect, model_source
from gym_adapters.rollouts.collect import LONGEST_PAUSE
from gym_adapters.rollouts.collection import STARTS_IN_A_PASS
from gym_adapters.testing import ScriptedChatModel


class NumberTask(Task):
    """Say `number`; `fails` names the place that breaks."""

    number: int
    fails: str = ""


class Opened:
    """Counts of one environment class, reset by a fixture."""

    now = 0
    ever = 0
    most = 0
    resources = 0


class SayNumber(Environment[NumberTask]):
    """Say the number."""

    async def start(self) -> None:
        Opened.now += 1
        Opened.ever += 1
        Opened.most = max(Opened.most, Opened.now)
        if self.task.fails == "start":
            raise RuntimeError("no room")
        if self.task.fails == "stray":
            lost = asyncio.get_running_loop().create_future()
            lost.cancel()
            await lost

    @tool
    async def look(self) -> str:
        """Look at the number."""
        if self.task.fails == "tool":
            raise ToolInfrastructureError("the service is down")
        if self.task.fails == "sandbox":
            raise SandboxError("no sandbox")
        return str(self.task.number)

    async def verify(self, transcript: Transcript) -> Reward:
        if self.task.fails == "verifier":
            raise KeyError("answer")
        if self.task.fails == "judge":
            raise JudgeError("no verdict")
        if self.task.fails == "timeout":
            raise TimeoutError
        return Reward(float(transcript.final_text == str(self.task.number)))

    async def close(self) -> None:
        Opened.now -= 1

    @classmethod
    def gold_turns(cls, task: Task) -> Sequence[Sequence[Item]]:
        assert isinstance(task, NumberTask)
        return [[function_call("look", "{}", "call_0")], [assistant_message(str(task.number))]]

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: object) -> AsyncIterator[None]:
        Opened.resources += 1
        try:
            yield
        finally:
            Opened.resources -= 1


class Ranked(SayNumber):
    """The reward is the rank in the group."""

    groups: ClassVar[list[list[int]]] = []

    @classmethod
    async def compare(cls, rollouts: Sequence[Rollout], **_: Any) -> list[Reward]:
        cls.groups.append([rollout.rollout_index for rollout in rollouts])
        if rollouts[0].row["fails"] == "compare":
            raise RuntimeError("can't compare")
        if rollouts[0].row["fails"] == "short":
            return []
        return [Reward(float(rollout.rollout_index)) for rollout in rollouts]


@pytest.fixture(autouse=True)
def nothing_is_open() -> Iterator[None]:
    Opened.now = Opened.ever = Opened.most = Opened.resources = 0
    Ranked.groups.clear()
    yield
    assert (Opened.now, Opened.resources) == (0, 0)


def task(number: int, fails: str = "", **params: Any) -> NumberTask:
    row = {"responses_create_params": {"input": "say it", **params}, "number": number}
    return NumberTask.from_row({**row, "fails": fails})


def tasks(count: int) -> list[NumberTask]:
    return [task(number) for number in range(count)]


async def collected(*arguments: Any, **options: Any) -> list[Rollout]:
    return [rollout async for rollout in collect(*arguments, **options)]


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if happened():
            return
        await asyncio.sleep(0)
    pytest.fail("it never happened")


def keys(rollouts: Sequence[Rollout]) -> Counter[tuple[str, int]]:
    return Counter((rollout.task_id, rollout.rollout_index) for rollout in rollouts)


async def test_every_task_is_attempted_num_repeats_times_with_its_own_index() -> None:
    rollouts = await collected(SayNumber, tasks(5), "scripted:gold", num_repeats=3)
    assert keys(rollouts) == {(each.task_id, index): 1 for each in tasks(5) for index in range(3)}
    assert {rollout.reward for rollout in rollouts} == {1.0}
    assert sorted(rollout.task_index or 0 for rollout in rollouts) == sorted([*range(5)] * 3)


async def test_attempts_at_one_task_start_next_to_each_other() -> None:
    model = ScriptedChatModel(["0"])
    await collected(SayNumber, tasks(4), model, num_repeats=3, concurrency=2)
    started = [call.request_id.partition("-")[0] for call in model.calls]
    assert started == [each.task_id for each in tasks(4) for _ in range(3)]


async def test_identical_rows_go_on_counting_attempts() -> None:
    rows = [task(1), task(2), task(1), task(1)]
    rollouts = await collected(SayNumber, rows, "scripted:gold", num_repeats=2)
    indexes = sorted(each.rollout_index for each in rollouts if each.task_id == task(1).task_id)
    assert indexes == [0, 1, 2, 3, 4, 5]
    assert len(rollouts) == 8


@pytest.mark.usefixtures("virtual_time")
async def test_a_thousand_concurrent_episodes_leave_nothing_open() -> None:
    model = ScriptedChatModel(["x"], delay=0.5)
    rollouts = await collected(SayNumber, tasks(1000), model, concurrency=1000)
    assert len(rollouts) == Opened.ever == Opened.most == 1000
    assert Opened.now == 0


async def test_a_burst_of_starts_does_not_hold_up_the_loop() -> None:
    passes = 0

    class Timed(SayNumber):
        """Notes in which pass of the loop an episode starts."""

        async def start(self) -> None:
            await super().start()
            started[passes] += 1

    async def pass_by() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    started: Counter[int] = Counter()
    passing = asyncio.create_task(pass_by())
    await collected(Timed, tasks(500), "scripted:gold", concurrency=500)
    passing.cancel()
    assert started.total() == 500
    assert max(started.values()) <= STARTS_IN_A_PASS


@pytest.mark.usefixtures("virtual_time")
async def test_no_more_than_concurrency_episodes_are_open() -> None:
    model = ScriptedChatModel(["x"], delay=0.001)
    await collected(SayNumber, tasks(100), model, concurrency=7)
    assert Opened.most == model.peak_concurrency == 7


async def test_tasks_are_read_only_as_slots_become_free() -> None:
    read = 0

    def endless() -> Iterator[NumberTask]:
        nonlocal read
        while True:
            yield task(read)
            read += 1

    async with aclosing(collect(SayNumber, endless(), "scripted:gold", concurrency=4)) as rollouts:
        async for rollout in rollouts:
            if rollout.task_index == 20:
                break
    # 4 running, 4 waiting to be taken, and one that waits for a slot.
    assert read <= 20 + 4 + 4 + 1


async def test_a_slow_consumer_holds_the_episodes_back() -> None:
    async with aclosing(collect(SayNumber, tasks(100), "scripted:gold", concurrency=3)) as rollouts:
        await anext(rollouts)
        for _ in range(200):
            await asyncio.sleep(0)
        # The one taken, 3 that wait to be taken, and 3 that hold their slots until then.
        assert Opened.ever <= 1 + 3 + 3


async def test_an_async_stream_of_tasks_works() -> None:
    async def stream() -> AsyncIterator[NumberTask]:
        for each in tasks(3):
            await asyncio.sleep(0)
            yield each

    assert len(await collected(SayNumber, stream(), "scripted:gold")) == 3


async def test_cancelling_closes_every_episode() -> None:
    model = ScriptedChatModel(["x"], delay=60.0)
    work = asyncio.create_task(collected(SayNumber, tasks(50), model, concurrency=50))
    await until(lambda: model.peak_concurrency == 50)
    assert Opened.now == 50
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (Opened.now, Opened.resources, len(model.aborted)) == (0, 0, 50)


async def test_cancelling_before_anything_ran_closes_everything() -> None:
    work = asyncio.create_task(collected(SayNumber, tasks(50), "scripted:empty"))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_leaving_the_loop_early_closes_every_episode() -> None:
    model = ScriptedChatModel(lambda call: "x", delay=lambda call: 60.0 if model.calls[8:] else 0.0)
    async with aclosing(collect(SayNumber, tasks(50), model, concurrency=10)) as rollouts:
        async for _ in rollouts:
            break
    assert Opened.now == 0


async def test_a_forgotten_iterator_closes_every_episode() -> None:
    rollouts = collect(SayNumber, tasks(50), "scripted:gold", concurrency=10)
    await anext(rollouts)
    del rollouts
    gc.collect()
    await until(lambda: Opened.now == 0)


@pytest.mark.parametrize(
    ("fails", "boundary"),
    [
        ("start", Boundary.ENVIRONMENT),
        ("tool", Boundary.TOOL),
        ("sandbox", Boundary.SANDBOX),
        ("verifier", Boundary.VERIFIER),
        ("judge", Boundary.JUDGE),
        ("timeout", Boundary.TIMEOUT),
        ("stray", Boundary.CANCELLED),
    ],
)
async def test_a_failing_rollout_is_unscored_and_the_others_go_on(
    fails: str, boundary: Boundary
) -> None:
    rollouts = await collected(SayNumber, [task(1), task(2, fails), task(3)], "scripted:gold")
    failed = {rollout.row["number"]: rollout.outcome.failure for rollout in rollouts}
    assert failed[1] is None
    assert failed[3] is None
    assert failed[2] is not None
    assert failed[2].boundary is boundary
    assert [rollout.reward for rollout in rollouts if rollout.row["number"] == 2] == [None]


async def test_a_failing_model_is_the_models_failure() -> None:
    model = ScriptedChatModel([ModelError("out of memory")])
    (rollout,) = await collected(SayNumber, [task(1)], model)
    assert rollout.outcome.failure is not None
    assert rollout.outcome.failure.boundary is Boundary.MODEL
    assert "out of memory" in rollout.outcome.failure.message


async def test_an_environment_that_can_not_be_made_fails_its_own_rollout_alone() -> None:
    class Choosy(SayNumber):
        """Refuses one."""

        def __init__(self, task: NumberTask, **options: Any) -> None:
            if task.number == 1:
                raise OSError("no disk")
            super().__init__(task, **options)

    rollouts = await collected(Choosy, tasks(3), "scripted:gold")
    statuses = {rollout.row["number"]: rollout.outcome.status for rollout in rollouts}
    assert statuses == {
        0: OutcomeStatus.SCORED,
        1: OutcomeStatus.UNSCORED,
        2: OutcomeStatus.SCORED,
    }


async def test_a_failure_that_may_pass_is_tried_again_with_a_fresh_environment() -> None:
    calls = 0

    def flaky(call: object) -> str | Exception:
        nonlocal calls
        calls += 1
        return ModelError("busy") if calls < 3 else "1"

    given_up: list[Rollout] = []
    model = ScriptedChatModel(flaky)
    (rollout,) = await collected(
        SayNumber, [task(1)], model, retries=2, retry_pause=0.0, on_retry=given_up.append
    )
    assert rollout.reward == 1.0
    assert [each.reward for each in given_up] == [None, None]
    assert Opened.ever == 3
    names = [call.request_id.partition("-")[2] for call in model.calls]
    assert names == ["0", "0-retry1", "0-retry2"]


async def test_retries_end() -> None:
    model = ScriptedChatModel(lambda call: ModelError("down"))
    (rollout,) = await collected(SayNumber, [task(1)], model, retries=2, retry_pause=0.0)
    assert rollout.outcome.status is OutcomeStatus.UNSCORED
    assert len(model.calls) == 3


@pytest.mark.parametrize("fails", ["start", "verifier"])
async def test_a_bug_in_the_environment_is_not_tried_again(fails: str) -> None:
    await collected(SayNumber, [task(1, fails)], "scripted:gold", retries=5)
    assert Opened.ever == 1


def test_pauses_are_bounded() -> None:
    assert LONGEST_PAUSE <= 60


async def test_an_invalid_row_ends_the_run_after_what_was_running() -> None:
    def rows() -> Iterator[NumberTask]:
        yield from tasks(3)
        raise InvalidRow("it is bad", line=4)

    model = ScriptedChatModel(["x"], delay=0.01)
    got: list[Rollout] = []

    async def gather() -> None:
        async for rollout in collect(SayNumber, rows(), model):
            got.append(rollout)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(InvalidRow, match="row 4: it is bad"):
        await gather()
    assert len(got) == 3


async def test_a_model_that_does_not_exist_for_the_environment_ends_the_run() -> None:
    class NoGold(Environment[NumberTask]):
        """Has no gold."""

    with pytest.raises(InvalidConfig, match="scripted:gold or scripted:empty"):
        await collected(SayNumber, tasks(1), "scripted:silver")
    with pytest.raises(Exception, match="NoGold has no gold transcripts"):
        await collected(NoGold, tasks(1), "scripted:gold")


async def test_a_task_of_the_wrong_type_is_refused_with_the_fix() -> None:
    plain = Task.from_row({"responses_create_params": {"input": "hi"}})
    with pytest.raises(InvalidEnvironment, match=r"NumberTask\.from_row"):
        await collected(SayNumber, [plain], "scripted:empty")


@pytest.mark.parametrize("option", [{"num_repeats": 0}, {"concurrency": 0}, {"retries": -1}])
async def test_senseless_options_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(InvalidConfig, match="at least"):
        await collected(SayNumber, tasks(1), "scripted:gold", **option)


async def test_an_error_of_the_retry_callback_is_raised_as_it_is() -> None:
    def full(rollout: Rollout) -> None:
        raise OSError("disk full")

    model = ScriptedChatModel(lambda call: ModelError("down"))
    with pytest.raises(OSError, match="disk full"):
        await collected(SayNumber, tasks(3), model, retries=1, on_retry=full)


async def test_skipped_rollouts_are_not_run() -> None:
    skip = {(task(0).task_id, 0), (task(1).task_id, 1)}
    rollouts = await collected(SayNumber, tasks(2), "scripted:gold", num_repeats=2, skip=skip)
    assert keys(rollouts) == {(task(0).task_id, 1): 1, (task(1).task_id, 0): 1}


async def test_a_group_is_compared_when_it_is_complete_and_comes_out_together() -> None:
    rollouts = await collected(Ranked, tasks(3), "scripted:gold", num_repeats=4, concurrency=2)
    assert Ranked.groups == [[0, 1, 2, 3]] * 3
    assert [rollout.reward for rollout in rollouts] == [0.0, 1.0, 2.0, 3.0] * 3
    assert [rollout.task_id for rollout in rollouts] == [
        each.task_id for each in tasks(3) for _ in range(4)
    ]


async def test_failed_rollouts_have_no_place_in_the_comparison() -> None:
    def fail_second(call: Any) -> str | Exception:
        return ModelError("down") if call.request_id.endswith("-1") else "x"

    rollouts = await collected(Ranked, tasks(1), ScriptedChatModel(fail_second), num_repeats=3)
    assert Ranked.groups == [[0, 2]]
    assert [rollout.reward for rollout in rollouts] == [0.0, None, 2.0]


class Slow:
    """A model that never ends its turn in the attempts of the given numbers."""

    name, template_hash = "slow", None

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.model = ScriptedChatModel(["x"])

    def open(self, *, request_id: str, **options: Any) -> Any:
        session = self.model.open(request_id=request_id, **options)
        if int(request_id.rpartition("-")[2]) in self.numbers:
            session.respond = self.never
        return session

    async def never(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("concurrency", [4, 2])
async def test_a_group_is_judged_without_what_misses_its_deadline(concurrency: int) -> None:
    rollouts = await collected(
        Ranked,
        tasks(1),
        Slow(1, 3),
        num_repeats=4,
        concurrency=concurrency,
        group_deadline=0.05,
    )
    assert Ranked.groups == [[0, 2]]
    assert [rollout.reward for rollout in rollouts] == [0.0, None, 2.0, None]
    late = rollouts[1].outcome.failure
    assert late is not None
    assert late.boundary is Boundary.TIMEOUT
    assert "judged without it, 0.05 s after the first of it" in late.message


async def test_a_group_waits_for_its_first_as_long_as_that_takes() -> None:
    rollouts = await collected(
        Ranked, tasks(3), "scripted:gold@0.1", num_repeats=2, concurrency=1, group_deadline=60.0
    )
    assert [rollout.reward for rollout in rollouts] == [0.0, 1.0] * 3


async def test_a_group_without_survivors_is_not_compared() -> None:
    model = ScriptedChatModel(lambda call: ModelError("down"))
    rollouts = await collected(Ranked, tasks(1), model, num_repeats=2)
    assert Ranked.groups == []
    assert [rollout.reward for rollout in rollouts] == [None, None]


@pytest.mark.parametrize("fails", ["compare", "short"])
async def test_a_comparison_that_fails_leaves_no_rewards(fails: str) -> None:
    rollouts = await collected(Ranked, [task(1, fails)], "scripted:gold", num_repeats=2)
    for rollout in rollouts:
        assert rollout.reward is None
        assert rollout.outcome.failure is not None
        assert rollout.outcome.failure.boundary is Boundary.VERIFIER


async def test_a_group_with_a_missing_member_is_run_whole() -> None:
    skip = {(task(0).task_id, 0), (task(1).task_id, 0), (task(1).task_id, 1)}
    rollouts = await collected(Ranked, tasks(2), "scripted:gold", num_repeats=2, skip=skip)
    assert keys(rollouts) == {(task(0).task_id, 0): 1, (task(0).task_id, 1): 1}


async def test_a_row_says_how_it_is_sampled_unless_the_caller_does() -> None:
    model = ScriptedChatModel(["x"])
    row = task(1, temperature=0.25, top_p=0.5, max_output_tokens=7)
    await collected(SayNumber, [row], model)
    await collected(SayNumber, [row], model, sampling=SamplingParams(max_tokens=3))
    asked, told = (call.sampling for call in model.calls)
    assert asked == SamplingParams(temperature=0.25, top_p=0.5, max_tokens=7)
    assert told == SamplingParams(max_tokens=3)


async def test_a_row_that_asks_for_nonsense_is_refused() -> None:
    with pytest.raises(InvalidRow, match="temperature"):
        await collected(SayNumber, [task(1, temperature="hot")], "scripted:gold")


async def test_an_open_source_is_left_open() -> None:
    source = model_source("scripted:gold")
    async with source:
        for _ in range(2):
            (rollout,) = await collected(SayNumber, [task(1)], source)
            assert rollout.provenance.model == "scripted:gold"


async def test_the_seed_is_recorded_and_decides_random_numbers() -> None:
    class Dice(SayNumber):
        """Rewards a throw."""

        async def verify(self, transcript: Transcript) -> Reward:
            return Reward(self.rng.random())

    async def throws(seed: int) -> list[tuple[str, int, float | None]]:
        rollouts = await collected(Dice, tasks(3), "scripted:gold", num_repeats=2, seed=seed)
        assert {rollout.provenance.seed for rollout in rollouts} == {seed}
        return sorted((each.task_id, each.rollout_index, each.reward) for each in rollouts)

    assert await throws(1) == await throws(1) != await throws(2)


async def test_truncated_rollouts_keep_their_reward() -> None:
    from gym_adapters.generation.chat import ModelTurn

    model = ScriptedChatModel([ModelTurn([assistant_message("1")], "length")])
    (rollout,) = await collected(SayNumber, [task(1)], model)
    assert rollout.outcome.status is OutcomeStatus.TRUNCATED
    assert rollout.outcome.stop_reason is StopReason.LENGTH
    assert rollout.reward == 1.0


async def test_resources_that_do_not_open_are_an_error_not_a_hang() -> None:
    class Closed(SayNumber):
        """Has no resources."""

        @classmethod
        @asynccontextmanager
        async def open_resources(cls, config: object) -> AsyncIterator[None]:
            raise VerifierError("no database")
            yield

    with pytest.raises(VerifierError, match="no database"):
        await collected(Closed, tasks(2), "scripted:gold")


def test_an_agent_that_can_not_drive_the_environment_is_refused_before_anything_runs() -> None:
    agent = RemoteAgent(cast("AgentGateway", None), command=["my-agent"])
    with pytest.raises(Unsupported, match="blackjack replies to messages"):
        collect("blackjack", [], "scripted:gold", agent=agent)


def test_a_loop_that_ends_under_an_iterator_closes_it_and_complains_about_nothing() -> None:
    held: list[object] = []
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        rollouts = collect(SayNumber, tasks(50), "scripted:gold", concurrency=10)
        held.append(rollouts)
        await anext(rollouts)

    asyncio.run(main())
    assert complaints == []
    assert Opened.now == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"environment": 42}, "not a int"),
        ({"tasks": None}, "not a NoneType"),
        ({"tasks": "rows.jsonl"}, r"not a str.*read_tasks\(path\)"),
        ({"tasks": task(0)}, "not a NumberTask"),
        ({"model": 42}, "a model is a spec such as 'scripted:gold'.*not a int"),
    ],
)
async def test_what_is_no_environment_tasks_or_model_is_told(
    wrong: dict[str, Any], said: str
) -> None:
    given = {"environment": SayNumber, "tasks": tasks(1), "model": "scripted:gold", **wrong}
    with pytest.raises(InvalidConfig, match=said):
        async for _ in collect(**given):
            pass
