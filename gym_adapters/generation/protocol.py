"""The one thing a model must do for us: token ids in, token ids and log-probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from gym_adapters.items import FinishReason

__all__ = ["Generation", "SamplingParams", "TokenGenerator"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one model turn.

    Attributes:
        max_tokens: Most tokens to sample in this turn; ``None`` leaves it to the generator.
        temperature: Softmax temperature; 0 is greedy.
        top_p: Nucleus mass. Anything but 1 biases importance ratios in training.
        top_k: Number of candidates, 0 for all. As `top_p`.
        stop_token_ids: Ids that end the turn. The id that ended it stays in the sampled ids.
        stop: Strings that end the turn. All sampled ids stay, also those past the string.
        seed: Seed of this turn, where the generator can honour one.
        extras: Engine-specific settings, passed through.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Generation:
    """What was sampled in one turn.

    Attributes:
        token_ids: Every sampled id, in order, the stop id included where one was sampled.
        logprobs: Natural-log probability of each id under the distribution it was sampled from
            (after temperature), same length as `token_ids`.
        finish_reason: ``stop`` or ``length``; ``None`` where the engine doesn't tell: then it is
            inferred from the last id and the budget.
        weights_version: The version of the weights that sampled it, where there is one.
        extras: Per-token extras by name (routed experts, say), each as long as `token_ids`.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: FinishReason | None = None
    weights_version: int | str | None = None
    extras: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@runtime_checkable
class TokenGenerator(Protocol):
    """Samples one model turn. Must allow many concurrent calls."""

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """Sample a continuation of `prompt_ids`.

        Args:
            prompt_ids: The whole context so far.
            sampling: How to sample.
            request_id: The same for all turns of a rollout, for sticky routing and prefix caches.
            media: Images and the like; a generator that can't take them raises `Unsupported`.

        Raises:
            ModelError: If the engine fails. Cancelling the call aborts the request.
        """
        ...
