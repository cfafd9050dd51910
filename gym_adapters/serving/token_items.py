"""Exact tokens on output items, as NeMo Gym's training fields have them.

The last item of each model call carries ``prompt_token_ids`` (the whole context of that call),
``generation_token_ids`` and ``generation_log_probs``. Readers rebuild one sequence from them, and
check that each prompt continues what came before.
"""

from __future__ import annotations

from typing import Any

from gym_adapters.errors import LedgerError, Unsupported
from gym_adapters.items import assistant_message
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.replay import recorded_turns

__all__ = ["output_with_tokens"]


def output_with_tokens(rollout: Rollout) -> list[dict[str, Any]]:
    """The output items of `rollout`, with tokens where it has any.

    A turn that left no item gets an empty message, so that its tokens have a place.

    Raises:
        Unsupported: If the rollout has several segments, which this format can't hold.
        LedgerError: If turns and tokens don't line up.
    """
    output = [dict(item) for item in rollout.output]
    if not rollout.segments:
        return output
    if len(rollout.segments) > 1:
        raise Unsupported(
            f"the rollout has {len(rollout.segments)} segments, because its chat template rewrites "
            "history, and NeMo Gym's format holds one sequence. Use a template that keeps history"
        )
    (segment,) = rollout.segments
    spans = [span for span in segment.spans if span.sampled]
    turns = recorded_turns(rollout)
    if len(spans) != len(turns):
        raise LedgerError(f"{len(turns)} turns have {len(spans)} stretches of sampled tokens.")
    carriers: list[dict[str, Any]] = []
    for span in spans:
        fields: dict[str, Any] = {
            "prompt_token_ids": [*segment.prompt_ids, *segment.completion_ids[: span.start]],
            "generation_token_ids": list(segment.completion_ids[span.start : span.end]),
            "generation_log_probs": list(segment.logprobs[span.start : span.end]),
        }
        if "routed_experts" in span.extras:
            fields["routed_experts"] = list(span.extras["routed_experts"])
        carriers.append(fields)
    return _placed(output, [len(turn.items) for turn in turns], carriers)


def _placed(
    output: list[dict[str, Any]], lengths: list[int], carriers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`output` with each carrier on the last item of its turn, turns having these `lengths`."""
    placed: list[dict[str, Any]] = []
    position = 0
    for length, fields in zip(lengths, carriers, strict=True):
        while length and not _by_assistant(output[position]):
            placed.append(output[position])
            position += 1
        if length:
            placed.extend(output[position : position + length - 1])
            placed.append({**output[position + length - 1], **fields})
            position += length
        else:
            while position < len(output) and output[position]["type"] == "function_call_output":
                placed.append(output[position])
                position += 1
            placed.append({**assistant_message(""), **fields})
            if position < len(output) and not _by_assistant(output[position]):
                placed.append(output[position])
                position += 1
    return [*placed, *output[position:]]


def _by_assistant(item: dict[str, Any]) -> bool:
    return item["type"] in ("function_call", "reasoning") or item.get("role") == "assistant"
