"""One served attempt: an episode whose tools are called one by one, and the verdict on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Any, Literal

import orjson

from gym_adapters.episode import Episode
from gym_adapters.errors import EnvironmentFailure, InvalidRow, RolloutError
from gym_adapters.items import FinishReason, Item, check_items, function_call, input_items
from gym_adapters.reward import Failure, Outcome, Reward, StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.replay import recorded_turns
from gym_adapters.serving.http_errors import STATUS_OF, HttpError

__all__ = ["EnvironmentSession", "finish_reason_of", "output_of", "replayed", "verdict_of"]


@dataclass(slots=True)
class EnvironmentSession:
    """An episode that clients drive over HTTP.

    Attributes:
        episode: The attempt, started.
        style: How it is driven: by tools and a verdict, or step by step.
        lock: Held where calls must not overlap.
    """

    episode: Episode
    style: Literal["tools", "steps"]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    failure: Failure | None = None
    _calls: count[int] = field(default_factory=count)
    _verdicts: dict[bytes, Reward] = field(default_factory=dict)

    async def call_tool(self, name: str, arguments: str) -> str:
        """The result of one tool call, as the model reads it.

        Raises:
            RolloutError: If the tool could not be run; the attempt can then have no verdict.
        """
        if self.episode.outcome is not None:
            raise HttpError(409, "ended", "the attempt has its verdict: no tool runs any more")
        call = function_call(name, arguments, f"call_{next(self._calls)}")
        if self.episode.environment.parallel_tool_calls:
            return await self._call(call)
        async with self.lock:
            return await self._call(call)

    async def _call(self, call: Any) -> str:
        try:
            return await self.episode.call_tool(call)
        except RolloutError as error:
            self.failure = Failure.from_exception(error)
            raise

    async def verify(self, response: Mapping[str, Any]) -> Reward:
        """The verdict on `response`; the same response gets the same verdict, and runs once.

        Raises:
            HttpError: If there is none, because something failed.
        """
        digest = blake2b(orjson.dumps(response.get("output"))).digest()
        async with self.lock:
            if digest not in self._verdicts:
                if self.failure is not None:
                    raise http_error(self.failure)
                output = output_of(response)
                # A client may ask again with more of the same attempt.
                self.episode.outcome = None
                reason = (
                    StopReason.LENGTH
                    if finish_reason_of(response) == "length"
                    else StopReason.ANSWERED
                )
                turns = len(turns_of(output))
                step = await self.episode.judge(output, reason, turns=turns)
                self._verdicts = {digest: verdict_of(step.outcome)}
            return self._verdicts[digest]


def verdict_of(outcome: Outcome | None) -> Reward:
    """The reward of an outcome.

    Raises:
        HttpError: If it has none.
    """
    if outcome is None:
        raise RuntimeError("the episode has not ended")
    if outcome.failure is not None:
        raise http_error(outcome.failure)
    if outcome.reward is None:
        raise RuntimeError("an outcome without a failure has a reward")
    return outcome.reward


def http_error(failure: Failure) -> HttpError:
    """What a failed rollout is over HTTP."""
    return HttpError(STATUS_OF[failure.boundary], failure.boundary.value, failure.message)


def output_of(response: object) -> list[Item]:
    """The output items of a Responses object, checked.

    Raises:
        InvalidRow: If it is none.
    """
    output = response.get("output") if isinstance(response, Mapping) else None
    if not isinstance(output, list):
        raise InvalidRow(
            "there is no list of output items.",
            field="response.output",
            fix="give the model's response, as the Responses API has it.",
        )
    check_items(output, "response.output")
    return input_items(output)


def finish_reason_of(response: Mapping[str, Any]) -> FinishReason:
    """``length`` where the response says that it was cut by its token budget."""
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return "length" if reason == "max_output_tokens" else "stop"


def turns_of(output: Sequence[Item]) -> list[Sequence[Item]]:
    """The assistant's turns in `output`."""
    unscored = Outcome.unscored(Failure(EnvironmentFailure.boundary, "", ""))
    return [turn.items for turn in recorded_turns(Rollout({}, "", 0, (), output, (), unscored))]


async def replayed(episode: Episode, output: Sequence[Item]) -> None:
    """Bring a fresh, started episode to where `output` left its own: run its tool calls again.

    Raises:
        RolloutError: If a tool could not be run.
        HttpError: 409, if a result is not the recorded one.
    """
    results = {
        item["call_id"]: item["output"] for item in output if item["type"] == "function_call_output"
    }
    for item in output:
        if item["type"] != "function_call" or item["call_id"] not in results:
            continue
        result = await episode.call_tool(item)
        if _plain(result) != _plain(results[item["call_id"]]):
            raise HttpError(
                409,
                "diverged",
                f"call {item['call_id']!r} of {item['name']!r} gives another result than the "
                "recorded one: seed a session, and call the tools in it",
            )


def _plain(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
