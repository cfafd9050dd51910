"""Running a stored rollout again: the same turns, a fresh environment, a new verdict.

The assistant's turns are given to an `Episode` once more, so that state which tools change is there
when `verify` looks at it. Where tools and replies answer otherwise than they did, the verdict would
be on another attempt, and there is none. An environment that says that its `verify` needs no such
state (`Environment.stateless_verify`) is shown the record instead, and nothing is run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gym_adapters import __version__
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.episode import Episode, EpisodeLimits, Step
from gym_adapters.errors import Boundary, EnvironmentFailure
from gym_adapters.items import FinishReason, Item
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.reward import TRUNCATING, Outcome, StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.model_judge import open_run_resources
from gym_adapters.task import Task

__all__ = ["Diverged", "RecordedTurn", "recorded_turns", "reverified", "reverify"]

NEVER = 1_000_000
# Where a rollout fails that is whole, and lacks nothing but its verdict.
VERDICTS = frozenset({Boundary.VERIFIER, Boundary.JUDGE})


class Diverged(EnvironmentFailure):
    """The environment did not answer as it did when the rollout was recorded."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One assistant turn of a stored rollout."""

    items: Sequence[Item] = field(default_factory=list)
    finish_reason: FinishReason = "stop"


def recorded_turns(rollout: Rollout) -> list[RecordedTurn]:
    """The assistant's turns of `rollout`, empty ones included, in order.

    A reply of two items looks like two replies to an empty turn between them; how many turns there
    were decides.
    """
    turns: list[list[Item]] = []
    perhaps_empty: list[int] = []
    before = "start"
    for item in rollout.output:
        kind = _kind(item)
        if kind == "assistant" and before != "assistant":
            turns.append([])
        elif kind == "reply" and before in ("start", "result"):
            # A reply follows a turn, and this one left no items.
            turns.append([])
        elif kind == "reply" and before == "reply":
            perhaps_empty.append(len(turns))
        if kind == "assistant":
            turns[-1].append(item)
        before = kind
    missing = rollout.usage.turns - len(turns)
    for position in reversed(perhaps_empty[: max(missing, 0)]):
        turns.insert(position, [])
    turns.extend([] for _ in range(rollout.usage.turns - len(turns)))
    cut = rollout.outcome.stop_reason is StopReason.LENGTH or _left_calls_unrun(rollout)
    made = [RecordedTurn(items) for items in turns]
    if cut and made:
        made[-1] = RecordedTurn(made[-1].items, "length")
    return made


async def reverified(
    environment: type[Environment[Any]],
    rollout: Rollout,
    *,
    config: EnvironmentConfig | None = None,
    resources: Any = None,
    limits: EpisodeLimits | None = None,
) -> Rollout:
    """`rollout` with the verdict that `environment` gives on it now.

    It comes back unscored, with `Diverged` as the reason, where the environment answers the turns
    otherwise than recorded. One that failed before it came to a verdict comes back as it is.

    Raises:
        InvalidRow: If its row is not one of the environment's.
    """
    failure = rollout.outcome.failure
    if failure is not None and failure.boundary not in VERDICTS:
        return rollout
    task: Task = environment.task_type.from_row(
        rollout.row, source=f"attempt {rollout.rollout_index} of task {rollout.task_id}"
    )
    bounds = replace(limits if limits is not None else EpisodeLimits(), max_turns=NEVER)
    if rollout.outcome.stop_reason is StopReason.MAX_TURNS:
        bounds = replace(bounds, max_turns=rollout.usage.turns)
    async with Episode(
        environment,
        task,
        config=config,
        resources=resources,
        seed=rollout.provenance.seed or 0,
        rollout_index=rollout.rollout_index,
        limits=bounds,
    ) as episode:
        outcome = await _outcome(episode, rollout)
        provenance = replace(
            rollout.provenance,
            environment_version=environment.version,
            library_version=__version__,
        )
        return replace(rollout, outcome=outcome, provenance=provenance)


async def reverify(
    entry: EnvironmentEntry,
    rollouts: Iterable[Rollout],
    *,
    config: EnvironmentConfig | None = None,
    concurrency: int = 64,
    limits: EpisodeLimits | None = None,
    num_repeats: int | None = None,
) -> AsyncGenerator[Rollout]:
    """Verify stored rollouts again, in the order given.

    An environment that compares gets its groups when all have been replayed, so then the rollouts
    are all in memory at once; else at most `concurrency` of them are.

    Args:
        entry: The environment.
        rollouts: Stored rollouts; read lazily.
        config: Settings of the environment; by default its card's.
        concurrency: Most replays at once.
        limits: Times; turns are as many as were recorded.
        num_repeats: Attempts of one group, where a row that came twice made two groups.

    Raises:
        InvalidRow: If a row is not one of the environment's.
    """
    environment = entry.environment
    settings = config if config is not None else entry.config()
    async with AsyncExitStack() as stack:
        resources = await stack.enter_async_context(open_run_resources(environment, settings))

        def replay(rollout: Rollout) -> Coroutine[Any, Any, Rollout]:
            return reverified(
                environment, rollout, config=settings, resources=resources, limits=limits
            )

        groups: dict[tuple[str, int], list[Rollout]] = {}
        for batch in _batches(rollouts, concurrency):
            for rollout in await _all(map(replay, batch)):
                if environment.capabilities().compares:
                    block = rollout.rollout_index // num_repeats if num_repeats else 0
                    groups.setdefault((rollout.group_id, block), []).append(rollout)
                else:
                    yield rollout
        for group in groups.values():
            timeout = (limits if limits is not None else EpisodeLimits()).verify_timeout
            for rollout in await compared(
                environment, group, config=settings, resources=resources, timeout=timeout
            ):
                yield rollout


async def _outcome(episode: Episode, rollout: Rollout) -> Outcome:
    step = await episode.start(constraints=True)
    ended = rollout.outcome.stop_reason
    # Why an attempt stopped that missed its verdict is not recorded: its turns tell.
    if not step.done and episode.environment.stateless_verify and ended is not StopReason.FAILED:
        step = await episode.judge(rollout.output, ended, turns=rollout.usage.turns)
        return _checked(episode, rollout, step)
    for turn in recorded_turns(rollout):
        if step.done:
            break
        step = await episode.advance(turn.items, finish_reason=turn.finish_reason)
    if not step.done and rollout.outcome.stop_reason in TRUNCATING:
        step = await episode.truncate(rollout.outcome.stop_reason)
    return _checked(episode, rollout, step)


def _checked(episode: Episode, rollout: Rollout, step: Step) -> Outcome:
    prompt, output = list(rollout.prompt), list(rollout.output)
    as_before = _alike(episode.prompt, prompt)
    if as_before and _alike(episode.output, output) and step.outcome is not None:
        return step.outcome
    if step.outcome is not None and step.outcome.failure is not None:
        return step.outcome
    if not as_before:
        where = "the prompt"
    elif step.outcome is None:
        where = "its end: the environment wants another turn"
    else:
        pairs = zip(episode.output, output, strict=False)
        same = next((at for at, (new, old) in enumerate(pairs) if not _same(new, old)), None)
        where = f"item {min(len(episode.output), len(output)) if same is None else same}"
    return Outcome.unscored(
        Diverged(f"the replay of {episode.environment.name} differs from the record at {where}")
    )


def _alike(now: Sequence[Item], then: Sequence[Item]) -> bool:
    return len(now) == len(then) and all(map(_same, now, then))


def _same(now: Item, then: Item) -> bool:
    """Whether they say the same; another library writes the same JSON with other spaces."""
    if now == then:
        return True
    if now["type"] == "function_call_output" and then["type"] == "function_call_output":
        same = _value(now["output"]) == _value(then["output"])
        return same and now["call_id"] == then["call_id"]
    if now["type"] == "message" and then["type"] == "message":
        return now["role"] == then["role"] and now["content"] == then["content"]
    return False


def _value(text: str) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        return text


def _kind(item: Item) -> str:
    if item["type"] == "function_call_output":
        return "result"
    if item["type"] == "message" and item["role"] != "assistant":
        return "reply"
    return "assistant"


def _left_calls_unrun(rollout: Rollout) -> bool:
    """Whether the last turn calls tools and none was run: then its token budget had cut it."""
    calls = {item["call_id"] for item in rollout.output if item["type"] == "function_call"}
    results = {item["call_id"] for item in rollout.output if item["type"] == "function_call_output"}
    return bool(calls - results)


async def _all(work: Iterable[Coroutine[Any, Any, Rollout]]) -> list[Rollout]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]


def _batches(rollouts: Iterable[Rollout], size: int) -> Iterable[list[Rollout]]:
    batch: list[Rollout] = []
    for rollout in rollouts:
        batch.append(rollout)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
