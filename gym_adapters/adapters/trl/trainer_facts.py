"""What TRL does not tell a reward function, learnt when the trainer is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gym_adapters.errors import Boundary

__all__ = ["TrainerFacts"]


@dataclass(slots=True)
class TrainerFacts:
    """Facts about the trainer; unknown until `learn` is called.

    Attributes:
        stop_token_ids: Ids that end a turn; empty where unknown.
        max_completion_length: Most tokens of a completion, over all turns; ``None`` where unknown.
        seed: The trainer's seed.
        processes: How many processes train.
    """

    stop_token_ids: frozenset[int] = frozenset()
    max_completion_length: int | None = None
    seed: int = 0
    processes: int = 1

    @property
    def boundaries(self) -> Collection[Boundary]:
        """Whose failures to log also where there are none.

        With several processes all: none knows what failed in another, and TRL's mean is over those
        that log.
        """
        return tuple(Boundary) if self.processes > 1 else ()

    def learn(self, args: Any, model: Any, processing_class: Any) -> None:
        """Take the facts from a ``GRPOConfig``, a model and a tokenizer."""
        self.max_completion_length = getattr(args, "max_completion_length", None)
        self.seed = getattr(args, "seed", 0)
        self.processes = getattr(args, "world_size", 1)
        ids: set[int] = set()
        for holder in (getattr(model, "generation_config", None), processing_class):
            eos = getattr(holder, "eos_token_id", None)
            if eos is not None:
                ids.update([eos] if isinstance(eos, int) else eos)
        self.stop_token_ids = frozenset(ids)

    def was_cut(self, completion_ids: Sequence[int] | None) -> bool:
        """Whether a completion ended for want of budget; ``False`` where that can't be told."""
        if not self.stop_token_ids or not completion_ids:
            return False
        return completion_ids[-1] not in self.stop_token_ids
