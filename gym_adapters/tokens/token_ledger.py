"""The append-only record of what a conversation is made of, token by token.

A ledger holds one segment at a time: a prompt, then stretches of sampled and environment tokens.
Nothing in it is ever changed or taken back. When history has to be rewritten, a new segment is
opened and the sampled tokens stay, trained exactly once, in the segment where they were sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gym_adapters.errors import LedgerError
from gym_adapters.segment import Segment, Span

__all__ = ["SampledTurn", "TokenLedger"]

# Rounding in a half-precision log-softmax can lift the log of a probability near 1 over zero.
LOGPROB_TOLERANCE = 1e-2


class SampledTurn(Protocol):
    """What was sampled in one turn; `gym_adapters.generation.protocol.Generation` is one."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Every sampled id."""
        ...

    @property
    def logprobs(self) -> Sequence[float]:
        """Natural-log probability of each id."""
        ...

    @property
    def weights_version(self) -> int | str | None:
        """Version of the weights that sampled them."""
        ...

    @property
    def extras(self) -> Mapping[str, Sequence[Any]]:
        """Per-token extras by name."""
        ...


class TokenLedger:
    """Token ids, masks and log-probabilities of one rollout, appended once and never changed."""

    __slots__ = (
        "_closed",
        "_context",
        "_logprobs",
        "_mask",
        "_prompt_length",
        "_sampled",
        "_spans",
    )

    def __init__(self) -> None:
        self._closed: list[Segment] = []
        self._context: list[int] = []
        self._prompt_length: int | None = None
        self._mask: list[int] = []
        self._logprobs: list[float] = []
        self._spans: list[Span] = []
        self._sampled = 0

    @property
    def is_open(self) -> bool:
        """Whether a segment has been opened."""
        return self._prompt_length is not None

    @property
    def context_ids(self) -> Sequence[int]:
        """Prompt and completion of the open segment, in O(1).

        This is the ledger's own list: it grows with every append, and must not be changed.
        """
        return self._context

    @property
    def sampled_count(self) -> int:
        """Tokens sampled so far, over all segments."""
        return self._sampled

    @property
    def last_sampled_id(self) -> int | None:
        """The newest token of the open segment, if the policy sampled it; else ``None``."""
        return self._context[-1] if self._mask and self._mask[-1] else None

    @property
    def segments(self) -> list[Segment]:
        """All segments that hold a sampled token, the open one included, oldest first."""
        segments = list(self._closed)
        if any(span.sampled for span in self._spans):
            segments.append(self._as_segment())
        return segments

    def open_segment(self, prompt_ids: Sequence[int]) -> None:
        """Close the open segment, if any, and start one with `prompt_ids`.

        Raises:
            LedgerError: If the prompt is empty or holds something that is no token id.
        """
        ids = _token_ids(prompt_ids, "a prompt")
        if not ids:
            raise LedgerError("A segment needs a prompt of at least one token.")
        self._closed = self.segments
        self._context = ids
        self._prompt_length = len(ids)
        self._mask, self._logprobs, self._spans = [], [], []

    def append_sampled(self, generation: SampledTurn) -> None:
        """Append what the policy sampled in one turn, exactly as sampled.

        Raises:
            LedgerError: If no segment is open, nothing was sampled, lengths differ, an id is no
                token id, or a log-probability is not the log of a probability above 0.
        """
        self._need_open("sampled tokens")
        ids = _token_ids(generation.token_ids, "sampled tokens")
        if not ids:
            raise LedgerError("A sampled turn needs at least one token.")
        logprobs = _logprobs(generation.logprobs, len(ids))
        start = len(self._mask)
        span = Span(
            start=start,
            end=start + len(ids),
            sampled=True,
            weights_version=generation.weights_version,
            extras=_extras(generation.extras, len(ids)),
        )
        self._context.extend(ids)
        self._mask.extend([1] * len(ids))
        self._logprobs.extend(logprobs)
        self._spans.append(span)
        self._sampled += len(ids)

    def append_environment(self, token_ids: Sequence[int]) -> None:
        """Append tokens that the policy did not sample.

        Before the first sampled token of the segment they belong to its prompt. None is fine.

        Raises:
            LedgerError: If no segment is open, or an id is no token id.
        """
        prompt_length = self._need_open("environment tokens")
        ids = _token_ids(token_ids, "environment tokens")
        if not ids:
            return
        self._context.extend(ids)
        if not self._spans:
            self._prompt_length = prompt_length + len(ids)
            return
        start = len(self._mask)
        self._mask.extend([0] * len(ids))
        self._logprobs.extend([0.0] * len(ids))
        self._spans.append(Span(start=start, end=start + len(ids), sampled=False))

    def _need_open(self, what: str) -> int:
        if self._prompt_length is None:
            raise LedgerError(f"No segment is open for {what}. Call open_segment first.")
        return self._prompt_length

    def _as_segment(self) -> Segment:
        length = self._need_open("a segment")
        return Segment(
            prompt_ids=self._context[:length],
            completion_ids=self._context[length:],
            mask=list(self._mask),
            logprobs=list(self._logprobs),
            spans=tuple(self._spans),
        )


def _token_ids(values: Sequence[int], what: str) -> list[int]:
    """The ids as a new list of plain ints; NumPy integers and tensors' scalars are taken."""
    ids: list[int] = []
    for position, value in enumerate(values):
        token_id = value if type(value) is int else _as_int(value, what, position)
        if token_id < 0:
            raise LedgerError(f"Token {position} of {what} is negative: {token_id}.")
        ids.append(token_id)
    return ids


def _as_int(value: object, what: str, position: int) -> int:
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        return int(value.__index__())
    raise LedgerError(
        f"Token {position} of {what} is not an integer but {type(value).__name__}: {value!r}."
    )


def _logprobs(values: Sequence[float], expected: int) -> list[float]:
    if len(values) != expected:
        raise LedgerError(
            f"{expected} tokens were sampled, but {len(values)} log-probabilities came with them."
        )
    logprobs: list[float] = []
    for position, value in enumerate(values):
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f"Log-probability {position} is not a number but {value!r}."
            ) from error
        if not math.isfinite(number):
            raise LedgerError(
                f"Log-probability {position} is {number}: a sampled token has a finite one."
            )
        if number > LOGPROB_TOLERANCE:
            raise LedgerError(
                f"Log-probability {position} is {number}: no probability is above 1. Are these "
                "probabilities or logits?"
            )
        logprobs.append(number)
    return logprobs


def _extras(extras: Mapping[str, Sequence[Any]], expected: int) -> dict[str, Sequence[Any]]:
    for name, values in extras.items():
        if len(values) != expected:
            raise LedgerError(
                f"{expected} tokens were sampled, but extra {name!r} has {len(values)} entries."
            )
    return dict(extras)
