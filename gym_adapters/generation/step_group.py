"""Engines of one tensor-parallel group that must take every step together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gym_adapters.extras import require

__all__ = ["Admission", "Exchange", "OneEngine", "StepGroup", "TorchStepGroup"]


@dataclass(frozen=True, slots=True)
class Admission:
    """A request on its way into the engine.

    Attributes:
        name: Unique over all ranks and all time.
        token_ids: What to continue.
        fields: vLLM's sampling fields (`gym_adapters.generation.vllm_sampling`).
        detokenize: Whether vLLM needs text, to find stop strings.
    """

    name: str
    token_ids: list[int]
    fields: dict[str, Any]
    detokenize: bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a rank tells the others before a step.

    Attributes:
        admissions: Requests of its own rollouts, in the order they came.
        aborts: Names of its own requests that nobody waits for any more.
        is_done: Whether its rollouts are over.
        failure: Why it can't take another step, if it can't.
    """

    admissions: Sequence[Admission] = ()
    aborts: Sequence[str] = ()
    is_done: bool = False
    failure: str | None = None


class StepGroup(Protocol):
    """The ranks whose engines hold parts of one model."""

    @property
    def rank(self) -> int:
        """Place of this process among them."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def exchange(self, mine: Exchange) -> list[Exchange]:
        """Everybody's word, in the same order on every rank. All ranks must call it alike often."""
        ...


class OneEngine:
    """The group of an engine that is whole."""

    rank = 0
    size = 1

    def exchange(self, mine: Exchange) -> list[Exchange]:
        """Its own word."""
        return [mine]


class TorchStepGroup:
    """Ranks that talk through torch.distributed, in a group that nobody else uses meanwhile.

    Args:
        group: A process group, best of the gloo backend, over the ranks of one engine; ``None``
            for all processes. ``vllm.distributed.get_tp_group().cpu_group`` is one.
    """

    def __init__(self, group: object | None = None) -> None:
        self._torch = require("torch.distributed", "vllm", "tensor-parallel rollouts")
        self._group = group
        self.rank: int = self._torch.get_rank(group)
        self.size: int = self._torch.get_world_size(group)

    def exchange(self, mine: Exchange) -> list[Exchange]:
        """Gather the word of every rank on every rank, by rank."""
        words: list[Any] = [None] * self.size
        self._torch.all_gather_object(words, mine, group=self._group)
        return words
