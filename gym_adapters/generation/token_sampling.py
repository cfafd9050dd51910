"""Draw one token a row from logits, and say how likely it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.generation.constrained import CONSTRAINT_KEYS
from gym_adapters.generation.protocol import SamplingParams

__all__ = ["Drawn", "check_sampling", "draw"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token a row.

    Attributes:
        token_ids: Of length B.
        logprobs: Natural-log probabilities under the policy, of length B.
        constrained: For constrained rows, by row: the one that the token was drawn with.
    """

    token_ids: list[int]
    logprobs: list[float]
    constrained: dict[int, float] = field(default_factory=dict)


def check_sampling(sampling: SamplingParams) -> None:
    """Refuse sampling that can't be honoured.

    Raises:
        InvalidConfig: If a value is out of range.
        Unsupported: If there are extras but constraints: none is dropped silently.
    """
    if sampling.temperature < 0:
        raise InvalidConfig(f"temperature must be 0 or more, not {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise InvalidConfig(f"top_p must be above 0 and at most 1, not {sampling.top_p}.")
    if sampling.top_k < 0:
        raise InvalidConfig(f"top_k must be 0 (all tokens) or more, not {sampling.top_k}.")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise InvalidConfig(f"max_tokens must be at least 1, not {sampling.max_tokens}.")
    if unknown := set(sampling.extras).difference(CONSTRAINT_KEYS):
        names = ", ".join(sorted(unknown))
        raise Unsupported(f"the transformers generator knows no sampling setting named {names}.")


def draw(
    logits: Tensor,
    samplings: Sequence[SamplingParams],
    uniforms: Sequence[float],
    allowed: Mapping[int, Tensor] | None = None,
) -> Drawn:
    """Sample one token a row by inverting its distribution function.

    Log-probabilities are the processed ones: of the distribution after temperature, top-k and
    top-p, in this order. A greedy row (temperature 0) takes the likeliest token and reports its
    log-probability at temperature 1, as vLLM does with ``logprobs_mode="processed_logprobs"``.

    A constrained row is drawn from the allowed tokens alone, processed in the same way. Its policy
    log-probability is after temperature only: top-k and top-p could make it that of an impossible
    token.

    Args:
        logits: Of shape (B, vocabulary), any float type.
        samplings: How to sample, one a row.
        uniforms: Randomness, one number in [0, 1) a row.
        allowed: For constrained rows, by row: which tokens may be drawn, bool (vocabulary,).

    Raises:
        ModelError: If a logit is NaN.
    """
    logits = logits.float()
    if bool(torch.isnan(logits).any()):
        raise ModelError("the model gives NaN logits: its weights or inputs are broken.")
    greedy = torch.tensor([s.temperature == 0 for s in samplings], device=logits.device)
    heat = torch.tensor([s.temperature or 1.0 for s in samplings], device=logits.device)
    logits = logits / heat[:, None]
    bound = sorted(allowed or ())
    free = logits[bound]
    if allowed:
        may = torch.stack([allowed[row] for row in bound]).to(logits.device)
        logits[bound] = logits[bound].masked_fill(~may, -torch.inf)
    cut = [row for row, s in enumerate(samplings) if s.temperature and (s.top_k or s.top_p < 1)]
    if cut:
        logits[cut] = _truncated(logits[cut], [samplings[row] for row in cut])
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = torch.where(greedy, logits.argmax(dim=-1), _inverse(logprobs, uniforms))
    taken = logprobs.gather(1, chosen[:, None])[:, 0]
    told, constrained = taken.tolist(), {row: float(taken[row]) for row in bound}
    if bound:
        own = torch.log_softmax(free, dim=-1).gather(1, chosen[bound, None])[:, 0].tolist()
        for row, logprob in zip(bound, own, strict=True):
            told[row] = logprob
    return Drawn(chosen.tolist(), told, constrained)


def _inverse(logprobs: Tensor, uniforms: Sequence[float]) -> Tensor:
    # Double precision: float32 sums over a large vocabulary would starve the tail.
    mass = logprobs.double().exp().cumsum(dim=-1)
    total = mass[:, -1:]
    target = torch.tensor(uniforms, dtype=torch.float64, device=mass.device)[:, None] * total
    # Strictly below the total, or rounding could choose a token of no probability.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0]


def _truncated(logits: Tensor, samplings: Sequence[SamplingParams]) -> Tensor:
    values, order = logits.sort(dim=-1, descending=True)
    most = logits.shape[-1]
    top_k = torch.tensor([s.top_k or most for s in samplings], device=logits.device)
    top_p = torch.tensor([s.top_p for s in samplings], device=logits.device)
    rank = torch.arange(most, device=logits.device)
    values = values.masked_fill(rank >= top_k[:, None], -torch.inf)
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The likeliest token always stays: nothing comes before it.
    outside = (before >= top_p[:, None]) & (rank > 0)
    values = values.masked_fill(outside & (top_p < 1)[:, None], -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, values)
