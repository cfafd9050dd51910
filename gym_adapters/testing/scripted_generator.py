"""A `TokenGenerator` that says what a test told it to say, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_adapters.errors import Unsupported, UsageError
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.items import FinishReason

__all__ = ["ScriptedCall", "ScriptedGenerator", "ScriptedTurn", "scripted_logprobs"]

ScriptedTurn = Generation | Sequence[int] | Exception
"""What one call gives: a whole `Generation`, token ids alone, or an exception to raise."""

ScriptFunction = Callable[[Sequence[int], str, int], ScriptedTurn | Awaitable[ScriptedTurn]]
Script = Mapping[str, Sequence[ScriptedTurn]] | Sequence[ScriptedTurn] | ScriptFunction
Delay = float | Callable[[Sequence[int], str, int], float]


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """One call as it came in; `turn` counts the calls of its `request_id` from 0."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    request_id: str
    turn: int
    media: tuple[Mapping[str, Any], ...] | None = None


def scripted_logprobs(token_ids: Sequence[int]) -> list[float]:
    """The log-probabilities that a `ScriptedGenerator` gives to bare token ids.

    They differ by id and position, so that a shifted or reordered token shows, and are multiples
    of 1/16, so that a trip through float32 or bfloat16 leaves them as they are.
    """
    return [-(1 + (token + 3 * position) % 16) / 16 for position, token in enumerate(token_ids)]


class ScriptedGenerator:
    """Returns known tokens, for unit tests. Needs no model and no torch.

    Args:
        script: What to say. A mapping gives each ``request_id`` its own list of turns; a list of
            turns is said to every request alike; a function ``(prompt_ids, request_id, turn)``,
            plain or async, decides call by call. A turn is token ids (with log-probabilities from
            `scripted_logprobs`), a `Generation`, or an exception to raise.
        delay: Seconds to wait before answering, or a function of the same three arguments.
        weights_version: Stamped on turns that are bare token ids; may be set between calls.
        accepts_media: Whether images are taken; they are only recorded.

    Attributes:
        calls: Every call, in the order they arrived.
        aborted: Those that were cancelled before their answer.
        peak_concurrency: Most calls that were in flight at once.

    A turn longer than ``max_tokens`` is cut there, and its finish reason becomes ``length``. Stop
    ids inside a turn do not cut it: what the script says is what comes back.
    """

    def __init__(
        self,
        script: Script,
        *,
        delay: Delay = 0.0,
        weights_version: int | str | None = None,
        accepts_media: bool = False,
    ) -> None:
        self._script = _script_function(script)
        self._delay = delay
        self._accepts_media = accepts_media
        self.weights_version = weights_version
        self.calls: list[ScriptedCall] = []
        self.aborted: list[ScriptedCall] = []
        self.peak_concurrency = 0
        self._in_flight = 0
        self._turns: Counter[str] = Counter()
        # Trainers may run one generator from several event loops, each in its own thread.
        self._lock = threading.Lock()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """The script's next turn for `request_id`.

        Raises:
            Unsupported: If there is media and `accepts_media` is false.
            UsageError: If the script has no such turn.
            Exception: The script's own, as given.
        """
        if media and not self._accepts_media:
            raise Unsupported("this ScriptedGenerator takes no images; pass accepts_media=True.")
        call = self._record(prompt_ids, sampling, request_id, media)
        try:
            return await self._answer(call)
        except asyncio.CancelledError:
            self.aborted.append(call)
            raise
        finally:
            with self._lock:
                self._in_flight -= 1

    def calls_of(self, request_id: str) -> list[ScriptedCall]:
        """The calls of one request, in order."""
        return [call for call in self.calls if call.request_id == request_id]

    def _record(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None,
    ) -> ScriptedCall:
        with self._lock:
            turn = self._turns[request_id]
            self._turns[request_id] += 1
            self._in_flight += 1
            self.peak_concurrency = max(self.peak_concurrency, self._in_flight)
            images = None if media is None else tuple(media)
            call = ScriptedCall(tuple(prompt_ids), sampling, request_id, turn, images)
            self.calls.append(call)
        return call

    async def _answer(self, call: ScriptedCall) -> Generation:
        where = (call.prompt_ids, call.request_id, call.turn)
        delay = self._delay(*where) if callable(self._delay) else self._delay
        # Also with no delay: a generator that never yields would hide races that real ones have.
        await asyncio.sleep(delay)
        said = self._script(*where)
        turn = await said if inspect.isawaitable(said) else said
        if isinstance(turn, Exception):
            raise turn
        if not isinstance(turn, Generation):
            ids = list(turn)
            turn = Generation(
                ids,
                scripted_logprobs(ids),
                finish_reason=_finish_reason(ids, call.sampling),
                weights_version=self.weights_version,
            )
        return _cut(turn, call.sampling.max_tokens)


def _script_function(script: Script) -> ScriptFunction:
    if callable(script):
        return script
    if isinstance(script, Mapping):
        return lambda _, request_id, turn: _turn(script.get(request_id), request_id, turn)
    if any(isinstance(turn, int) for turn in script):
        raise UsageError(
            "a script is a list of turns, and this one is a list of token ids. "
            "Fix: for a single turn write [[1, 2, 3]]."
        )
    return lambda _, request_id, turn: _turn(script, request_id, turn)


def _turn(turns: Sequence[ScriptedTurn] | None, request_id: str, turn: int) -> ScriptedTurn:
    if turns is None:
        raise UsageError(f"the script does not know the request {request_id!r}.")
    if turn >= len(turns):
        raise UsageError(
            f"the script has {len(turns)} turn(s) for the request {request_id!r}, "
            f"and turn {turn} (from 0) was asked for."
        )
    return turns[turn]


def _finish_reason(ids: Sequence[int], sampling: SamplingParams) -> FinishReason:
    ended = bool(ids) and ids[-1] in sampling.stop_token_ids
    full = sampling.max_tokens is not None and len(ids) >= sampling.max_tokens
    return "length" if full and not ended else "stop"


def _cut(turn: Generation, max_tokens: int | None) -> Generation:
    if max_tokens is None or len(turn.token_ids) <= max_tokens:
        return turn
    return replace(
        turn,
        token_ids=list(turn.token_ids)[:max_tokens],
        logprobs=list(turn.logprobs)[:max_tokens],
        finish_reason="length",
        extras={name: list(values)[:max_tokens] for name, values in turn.extras.items()},
    )
