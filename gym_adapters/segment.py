"""A run of tokens that one training sample is made of: the stored form of the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Segment", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive completion tokens of one source.

    Attributes:
        start: Offset of its first token in the segment's completion.
        end: Offset past its last token.
        sampled: True for the policy's tokens, False for the environment's.
        weights_version: Version of the weights that sampled it; ``None`` where unknown.
        extras: Per-token extras by name, each ``end - start`` long.
    """

    start: int
    end: int
    sampled: bool
    weights_version: int | str | None = None
    extras: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """One training sample.

    `prompt_ids` are what stood before the first sampled token. `completion_ids`, `mask` and
    `logprobs` have the same length T: `mask` is 1 where the policy sampled the token, 0 where the
    environment wrote it; `logprobs` are natural logs after temperature, 0.0 where `mask` is 0.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    mask: Sequence[int]
    logprobs: Sequence[float]
    spans: Sequence[Span] = ()

    @property
    def sampled_ids(self) -> list[int]:
        """The policy's tokens alone, in order."""
        return [i for i, sampled in zip(self.completion_ids, self.mask, strict=True) if sampled]

    def to_json(self) -> dict[str, Any]:
        """The segment as one JSON-serialisable object."""
        return {
            "prompt_ids": list(self.prompt_ids),
            "completion_ids": list(self.completion_ids),
            "mask": list(self.mask),
            "logprobs": list(self.logprobs),
            "spans": [
                {
                    "start": span.start,
                    "end": span.end,
                    "sampled": span.sampled,
                    "weights_version": span.weights_version,
                    "extras": {name: list(values) for name, values in span.extras.items()},
                }
                for span in self.spans
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Segment:
        """Read what `to_json` wrote."""
        return cls(
            prompt_ids=data["prompt_ids"],
            completion_ids=data["completion_ids"],
            mask=data["mask"],
            logprobs=data["logprobs"],
            spans=tuple(Span(**span) for span in data.get("spans", ())),
        )
