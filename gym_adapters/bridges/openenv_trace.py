"""OpenEnv's TrainingTrace, read and written: one entry a model call, with its exact tokens.

Each entry has the whole prompt of its call, so a trace repeats what a segment holds once. Format:
``openenv.core.harness.training``, schema version 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gym_adapters.errors import InvalidRow, LedgerError
from gym_adapters.segment import Segment, Span

__all__ = ["segments_of_trace", "training_trace"]


class _Turn(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    node_id: str = Field(min_length=1)
    prompt_token_ids: list[int] = Field(min_length=1)
    completion_token_ids: list[int] = Field(min_length=1)
    per_token_logps: list[float]
    loss_mask: list[int]

    @model_validator(mode="after")
    def _check_lengths(self) -> _Turn:
        prompt, sampled = len(self.prompt_token_ids), len(self.completion_token_ids)
        if len(self.per_token_logps) != sampled or len(self.loss_mask) != prompt + sampled:
            raise ValueError("logprobs are for the completion, and the mask for all tokens")
        if any(self.loss_mask[:prompt]) or any(each not in (0, 1) for each in self.loss_mask):
            raise ValueError("the mask is 0 or 1, and 0 on the prompt")
        return self


class _Trace(BaseModel):
    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    turns: list[_Turn]

    @model_validator(mode="after")
    def _check(self) -> _Trace:
        if self.schema_version != 1:
            raise ValueError(f"only schema version 1 is known, not {self.schema_version}")
        names = [turn.node_id for turn in self.turns]
        if len(set(names)) < len(names):
            raise ValueError("two turns have one node_id")
        return self


def training_trace(segments: Sequence[Segment]) -> dict[str, Any]:
    """The sampled turns of a rollout's segments, as a TrainingTrace.

    Raises:
        LedgerError: If a segment does not say where its turns begin and end.
    """
    turns: list[dict[str, Any]] = []
    for number, segment in enumerate(segments):
        spans = [span for span in segment.spans if span.sampled]
        if sum(span.end - span.start for span in spans) != sum(segment.mask):
            raise LedgerError("The segment's spans are not its sampled tokens.")
        for place, span in enumerate(spans):
            prompt = [*segment.prompt_ids, *segment.completion_ids[: span.start]]
            sampled = list(segment.completion_ids[span.start : span.end])
            metadata = {}
            if span.weights_version is not None:
                metadata["weights_version"] = span.weights_version
            turns.append(
                {
                    "node_id": f"{number}-{place}",
                    "prompt_token_ids": prompt,
                    "completion_token_ids": sampled,
                    "per_token_logps": list(segment.logprobs[span.start : span.end]),
                    "loss_mask": [0] * len(prompt) + [1] * len(sampled),
                    "request": {},
                    "response": {},
                    "metadata": metadata,
                }
            )
    return {"schema_version": 1, "turns": turns}


def segments_of_trace(trace: Mapping[str, Any]) -> list[Segment]:
    """The segments of a TrainingTrace: a call whose prompt continues a segment is part of it.

    Tokens that the mask leaves out are kept as context, and have no log-probability.

    Raises:
        InvalidRow: If it is none.
    """
    try:
        turns = _Trace.model_validate(trace).turns
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "trace"
        raise InvalidRow(f"{problem['msg']}.", field=place, fix="write one of OpenEnv's.") from None
    threads: list[_Thread] = []
    for turn in turns:
        thread = next((each for each in threads if each.continued_by(turn)), None)
        if thread is None:
            thread = _Thread(turn.prompt_token_ids)
            threads.append(thread)
        thread.add(turn)
    return [thread.segment() for thread in threads if any(thread.mask)]


class _Thread:
    """One segment as it grows."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.context = list(prompt)
        self.start = len(prompt)
        self.mask: list[int] = []
        self.logprobs: list[float] = []
        self.spans: list[Span] = []

    def continued_by(self, turn: _Turn) -> bool:
        return turn.prompt_token_ids[: len(self.context)] == self.context

    def add(self, turn: _Turn) -> None:
        new = turn.prompt_token_ids[len(self.context) :]
        self._append(new, [0] * len(new), [0.0] * len(new))
        mask = turn.loss_mask[len(turn.prompt_token_ids) :]
        logprobs = [
            value if kept else 0.0 for value, kept in zip(turn.per_token_logps, mask, strict=True)
        ]
        self._append(turn.completion_token_ids, mask, logprobs)

    def segment(self) -> Segment:
        """The segment; tokens before the first sampled one are its prompt."""
        first = self.mask.index(1)
        cut = self.start + first
        spans = [
            Span(span.start - first, span.end - first, span.sampled)
            for span in self.spans
            if span.end > first
        ]
        return Segment(
            self.context[:cut],
            self.context[cut:],
            self.mask[first:],
            self.logprobs[first:],
            tuple(spans),
        )

    def _append(self, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float]) -> None:
        at = len(self.mask)
        self.context.extend(ids)
        self.mask.extend(mask)
        self.logprobs.extend(logprobs)
        begun = at
        for place in range(at + 1, len(self.mask) + 1):
            if place == len(self.mask) or self.mask[place] != self.mask[begun]:
                if place > begun:
                    self.spans.append(Span(begun, place, bool(self.mask[begun])))
                begun = place
