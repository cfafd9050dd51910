"""Our sampling settings as vLLM's, and vLLM's answers as generations; in process and over HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.errors import InvalidConfig, ModelError
from gym_adapters.generation.constrained import (
    CONSTRAINED_LOGPROBS,
    CONSTRAINT_KEYS,
    Constraint,
    constraint_of,
)
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.items import FinishReason

__all__ = [
    "finish_reason_of",
    "generation_of",
    "sampling_fields",
    "scored_logprobs",
    "scoring_fields",
    "token_ids_of",
    "with_policy_logprobs",
]

# What this library decides: an extra of that name would change what a turn is.
OURS = frozenset(
    {
        "detokenize",
        "flat_logprobs",
        "logprobs",
        "max_tokens",
        "n",
        "output_kind",
        "prompt_logprobs",
        "seed",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    }
)
_STRUCTURED = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}


def sampling_fields(sampling: SamplingParams, *, seeded: bool = True) -> dict[str, Any]:
    """The fields of vLLM's ``SamplingParams``, all JSON values.

    What a server would otherwise take from the model's ``generation_config.json`` is always given.
    Extras are passed on by their vLLM names (``min_p``, ``repetition_penalty``, ``logit_bias``);
    constraints as in `gym_adapters.generation.constrained`.

    Args:
        sampling: How to sample.
        seeded: Whether to pass the seed on.

    Raises:
        InvalidConfig: If an extra is one of `SamplingParams`' own settings.
        Unsupported: If there is a constraint at a temperature it can't be scored at.
    """
    clash = sorted(OURS.intersection(sampling.extras))
    if clash:
        raise InvalidConfig(
            f"sampling extras can't set {', '.join(clash)}: that is set by SamplingParams itself."
        )
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(sampling.stop_token_ids),
        "logprobs": 0,
    }
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if seeded and sampling.seed is not None:
        fields["seed"] = sampling.seed
    constraint = constraint_of(sampling)
    if constraint is not None:
        fields["structured_outputs"] = _structured_outputs(constraint)
    fields.update(
        (name, value) for name, value in sampling.extras.items() if name not in CONSTRAINT_KEYS
    )
    return fields


def _structured_outputs(constraint: Constraint) -> dict[str, str]:
    return {_STRUCTURED[constraint.kind]: constraint.text}


def scoring_fields() -> dict[str, Any]:
    """The fields of a request that only asks how likely its prompt is."""
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}


def token_ids_of(prompt_ids: Sequence[int]) -> list[int]:
    """The prompt as a new list of plain ints.

    Raises:
        ModelError: If it is empty.
    """
    ids = [int(token) for token in prompt_ids]
    if not ids:
        raise ModelError("the prompt is empty, and there is nothing to continue.")
    return ids


def finish_reason_of(reason: str | None) -> FinishReason:
    """A finish reason of vLLM as ours.

    Raises:
        ModelError: If the turn is not whole.
    """
    if reason == "stop":
        return "stop"
    # A turn that vLLM cut for repeating itself did not end by itself either.
    if reason in ("length", "repetition"):
        return "length"
    raise ModelError(f"vLLM ended the turn with the finish reason {reason!r}: it is not whole.")


def generation_of(output: Any, weights_version: int | str | None) -> Generation:
    """A finished ``RequestOutput`` as a generation.

    Raises:
        ModelError: If it is not whole, or has no log-probabilities.
    """
    completion = output.outputs[0]
    finish_reason = finish_reason_of(completion.finish_reason)
    token_ids = list(completion.token_ids)
    if completion.logprobs is None or len(completion.logprobs) != len(token_ids):
        raise ModelError("vLLM gave no log-probability for each sampled token.")
    # vLLM's flat form: the sampled token's alone, where no others were asked for.
    flat = getattr(completion.logprobs, "logprobs", ())
    if len(flat) == len(token_ids):
        logprobs = [_finite(value) for value in flat]
    else:
        logprobs = [
            _finite(entry[token].logprob)
            for token, entry in zip(token_ids, completion.logprobs, strict=True)
        ]
    return Generation(token_ids, logprobs, finish_reason, weights_version)


def scored_logprobs(
    prompt_logprobs: Sequence[Mapping[Any, Any] | None] | None, token_ids: Sequence[int]
) -> list[float]:
    """Log-probabilities of `token_ids`, from the prompt log-probabilities of a prompt they end.

    Takes both forms of vLLM: ids to ``Logprob`` objects, and, from JSON, ids as text to objects.

    Raises:
        ModelError: If there are too few of them.
    """
    ending = list(prompt_logprobs or ())[-len(token_ids) :]
    if len(ending) != len(token_ids):
        raise ModelError("vLLM gave no log-probability for each token of the prompt.")
    logprobs: list[float] = []
    for token, entry in zip(token_ids, ending, strict=True):
        scored = None if entry is None else entry.get(token, entry.get(str(token)))
        if scored is None:
            raise ModelError(f"vLLM gave no log-probability for token {token} of the prompt.")
        value = scored["logprob"] if isinstance(scored, Mapping) else scored.logprob
        logprobs.append(_finite(value))
    return logprobs


def with_policy_logprobs(generation: Generation, logprobs: Sequence[float]) -> Generation:
    """The turn with the policy's `logprobs`; those of the constraint are kept as an extra."""
    return Generation(
        generation.token_ids,
        logprobs,
        generation.finish_reason,
        generation.weights_version,
        {**generation.extras, CONSTRAINED_LOGPROBS: list(generation.logprobs)},
    )


def _finite(logprob: float | None) -> float:
    if logprob is None or not math.isfinite(logprob):
        raise ModelError(f"vLLM gave a sampled token the log-probability {logprob}.")
    return float(logprob)
