"""The model spec ``replay:FILE``: recorded rollouts say once more what they said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig, InvalidRow, ModelError
from gym_adapters.generation.chat import ChatModel, ChatSession, ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import FunctionTool, Item
from gym_adapters.reward import StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.compressed import open_seekable, stored
from gym_adapters.rollouts.models import ModelSource, SourceBase
from gym_adapters.rollouts.recorded import ROLLOUTS
from gym_adapters.rollouts.replay import recorded_turns
from gym_adapters.segment import Segment
from gym_adapters.task import Task

__all__ = ["ReplaySource", "replay_source"]

Span = tuple[int, int]
"""Where a line begins in its file, and its bytes."""


class ReplaySource(SourceBase):
    """The assistant's turns of recorded rollouts, for the same attempts at the same tasks.

    Keeps where each rollout stands in the file, and reads it when it is asked for. Tokens are not
    replayed. An attempt that was not recorded fails; so does a turn past the recorded ones.

    Args:
        path: A file of rollouts, or the folder of a run.
    """

    says_the_same = True

    def __init__(self, path: Path) -> None:
        super().__init__(f"replay:{path}")
        self._path = stored(path / ROLLOUTS) if path.is_dir() else path
        if not self._path.is_file():
            raise InvalidConfig(f"there is no file of rollouts at {path}")
        self._spans: dict[tuple[str, int], Span] = {}
        self._file: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        self._file = await asyncio.to_thread(open_seekable, self._path)
        try:
            self._spans = await asyncio.to_thread(_spans, self._file, self._path)
        except BaseException:
            self._file.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """What was said in that attempt."""
        if self._file is None:
            raise RuntimeError(f"enter the source {self.name!r} before asking it for models")
        span = self._spans.get((task.task_id, rollout_index))
        wanted = f"number {rollout_index} of task {task.task_id}"
        return _RecordedModel(self.name, self._file, span, wanted)


class _RecordedModel:
    """One recorded attempt; read only when its session opens."""

    def __init__(self, name: str, file: BinaryIO, span: Span | None, wanted: str) -> None:
        self._name, self._file, self._span, self._wanted = name, file, span, wanted

    @property
    def name(self) -> str:
        return self._name

    @property
    def template_hash(self) -> str | None:
        return None

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> ChatSession:
        if self._span is None:
            raise ModelError(f"{self._name} holds no such attempt: {self._wanted}")
        start, size = self._span
        line = os.pread(self._file.fileno(), size, start)
        return _RecordedSession(Rollout.from_json(orjson.loads(line)))


class _RecordedSession:
    """Says the recorded turns, whatever it reads."""

    def __init__(self, rollout: Rollout) -> None:
        self._turns: Iterator[ModelTurn] = (
            ModelTurn(turn.items, turn.finish_reason) for turn in recorded_turns(rollout)
        )
        self._context = rollout.outcome.stop_reason is StopReason.CONTEXT

    @property
    def segments(self) -> Sequence[Segment]:
        return ()

    async def respond(
        self, new_items: Sequence[Item], *, constraint: Mapping[str, Any] | None = None
    ) -> ModelTurn | None:
        turn = next(self._turns, None)
        if turn is None and not self._context:
            raise ModelError("the recorded attempt has no further turn")
        return turn


def _spans(file: BinaryIO, path: Path) -> dict[tuple[str, int], Span]:
    found: dict[tuple[str, int], Span] = {}
    start = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = orjson.loads(line)
                key = (str(row["gym_adapters"]["task_id"]), int(row["_ng_rollout_index"]))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRow(
                    f"this line is not one of our rollouts: {error}.",
                    fix="give a file that collect wrote.",
                    source=str(path),
                    line=number,
                ) from error
            found.setdefault(key, (start, len(line)))
        start += len(line)
    return found


def replay_source(argument: str, seed: int) -> ModelSource:
    """``replay:FILE``."""
    if not argument:
        raise InvalidConfig("replay: needs a file of rollouts: write replay:FILE")
    return ReplaySource(Path(argument).expanduser())
