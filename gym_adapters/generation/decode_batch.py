"""The decode loop over a causal language model, one step at a time, without threads or asyncio."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gym_adapters.errors import ModelError
from gym_adapters.generation.kv_batch import KvBatch
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_constraints import TokenConstraint
from gym_adapters.generation.token_sampling import draw
from gym_adapters.items import FinishReason

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["DecodeBatch", "DecodeRow"]


@dataclass(slots=True, eq=False)
class DecodeRow:
    """One request in the batch.

    Attributes:
        prompt_ids: What to continue.
        sampling: How.
        limit: Most tokens to sample.
        stop_token_ids: Ids that end it.
        random: Its own source of randomness, so that who shares the batch doesn't matter.
        decode: Ids to text; needed where `sampling` has stop strings.
        constraint: What it must look like.
        token_ids: Sampled so far.
        logprobs: Theirs, under the policy.
        constrained_logprobs: Theirs, under the constraint, where there is one.
        failure: Why it can't be finished, where it can't.
        finish_reason: Set when it is done.
    """

    prompt_ids: Sequence[int]
    sampling: SamplingParams
    limit: int
    stop_token_ids: frozenset[int]
    random: Random
    decode: Callable[[list[int]], str] | None = None
    constraint: TokenConstraint | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    constrained_logprobs: list[float] = field(default_factory=list)
    failure: ModelError | None = None
    finish_reason: FinishReason | None = None

    def add(self, token_id: int, logprob: float, constrained_logprob: float | None = None) -> None:
        """Record a sampled token, and whether it was the last.

        Args:
            token_id: The token.
            logprob: Its natural-log probability under the policy.
            constrained_logprob: The one under the constraint, where there is one.
        """
        if self.constraint is not None and constrained_logprob is not None:
            try:
                self.constraint.take(token_id)
            except ModelError as error:
                self._fail(error)
                return
            self.constrained_logprobs.append(constrained_logprob)
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        if self._is_complete():
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.limit:
            self.finish_reason = "length"

    def _is_complete(self) -> bool:
        return (
            self.token_ids[-1] in self.stop_token_ids
            or (self.constraint is not None and self.constraint.exhausted)
            or self._ends_in_stop_string()
        )

    def _fail(self, error: ModelError) -> None:
        # This row's own fault: the others go on.
        self.failure, self.finish_reason = error, "stop"

    def allowed(self, width: int) -> Tensor | None:
        """Which of `width` ids may come next; ``None`` for any. Where none may, the row fails."""
        if self.constraint is None:
            return None
        try:
            return self.constraint.allowed(width)
        except ModelError as error:
            self._fail(error)
            return None

    def _ends_in_stop_string(self) -> bool:
        stops = self.sampling.stop
        if not stops or self.decode is None:
            return False
        # A token is at least a byte, but for control tokens that decode to nothing: 8 to spare.
        window = max(len(stop.encode()) for stop in stops) + 8
        text = self.decode(self.token_ids[-window:])
        return any(stop in text for stop in stops)


class DecodeBatch:
    """Rows that are decoded together.

    Rows may join and leave between steps where the model's cache allows it (`can_join`). Calls
    must come from one thread, with gradients off and the model in eval mode.
    """

    def __init__(self, model: nn.Module, pad_token_id: int) -> None:
        self._model = model
        self._pad = pad_token_id
        self._options = _forward_options(model)
        self._kv: KvBatch | None = None
        self._slots: list[DecodeRow | None] = []

    @property
    def rows(self) -> list[DecodeRow]:
        """Rows that are not done."""
        return [row for row in self._slots if row is not None]

    @property
    def can_join(self) -> bool:
        """Whether new rows can be taken in now."""
        return self._kv is None or self._kv.is_flexible

    def join(self, rows: Sequence[DecodeRow]) -> list[DecodeRow]:
        """Read the prompts of `rows` and sample their first tokens; returns those already done."""
        if not rows:
            return []
        width = max(len(row.prompt_ids) for row in rows)
        gaps = [width - len(row.prompt_ids) for row in rows]
        ids = [[self._pad] * g + [*row.prompt_ids] for g, row in zip(gaps, rows, strict=True)]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        device = self._device()
        newcomers = torch.tensor(mask, device=device)
        output = self._forward(torch.tensor(ids, device=device), newcomers, None)
        _record(rows, _last_logits(output))
        self._take_in(rows, KvBatch.of(output, newcomers))
        return self._release()

    def step(self) -> list[DecodeRow]:
        """Sample one token for every row; returns the rows that are done."""
        if self._kv is None:
            return []
        last = [self._pad if row is None else row.token_ids[-1] for row in self._slots]
        self._kv.grow()
        ids = torch.tensor(last, device=self._device())[:, None]
        output = self._forward(ids, self._kv.mask, self._kv)
        running = [slot for slot, row in enumerate(self._slots) if row is not None]
        _record(self.rows, _last_logits(output)[running])
        return self._release()

    def drop(self, unwanted: Callable[[DecodeRow], bool]) -> list[DecodeRow]:
        """Take out the rows that are `unwanted`, and return them."""
        return self._release(unwanted)

    def clear(self) -> list[DecodeRow]:
        """Take out all rows, and forget the cache."""
        return self._release(lambda _: True)

    def _device(self) -> torch.device:
        embeddings = getattr(self._model, "get_input_embeddings", None)
        weights = embeddings() if embeddings is not None else self._model
        return next(weights.parameters()).device

    def _forward(self, ids: Tensor, mask: Tensor, kv: KvBatch | None) -> CausalLMOutputWithPast:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options: dict[str, Tensor | int] = {}
        if "position_ids" in self._options:
            options["position_ids"] = positions
        if "logits_to_keep" in self._options:
            options["logits_to_keep"] = 1
        output: CausalLMOutputWithPast = self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=None if kv is None else kv.cache,
            use_cache=True,
            **options,
        )
        return output

    def _take_in(self, rows: Sequence[DecodeRow], kv: KvBatch) -> None:
        if self._kv is None:
            self._kv, self._slots = kv, [*rows]
        else:
            self._kv.merge(kv)
            self._slots += rows

    def _release(self, unwanted: Callable[[DecodeRow], bool] | None = None) -> list[DecodeRow]:
        gone: list[DecodeRow] = []
        for slot, row in enumerate(self._slots):
            leaves = row is not None and (
                row.finish_reason is not None if unwanted is None else unwanted(row)
            )
            if row is not None and leaves:
                gone.append(row)
                self._slots[slot] = None
        staying = [slot for slot, row in enumerate(self._slots) if row is not None]
        if not staying:
            self._kv, self._slots = None, []
        elif gone and self._kv is not None and self._kv.is_flexible:
            self._kv.keep(staying)
            self._slots = [self._slots[slot] for slot in staying]
        return gone


def _last_logits(output: CausalLMOutputWithPast) -> Tensor:
    if output.logits is None:
        raise TypeError("the model returned no logits: a causal language model is needed.")
    return output.logits[:, -1]


def _record(rows: Sequence[DecodeRow], logits: Tensor) -> None:
    masks = {
        index: mask
        for index, row in enumerate(rows)
        if (mask := row.allowed(logits.shape[-1])) is not None
    }
    drawn = draw(
        logits, [row.sampling for row in rows], [row.random.random() for row in rows], masks
    )
    for index, row in enumerate(rows):
        if row.failure is None:
            row.add(drawn.token_ids[index], drawn.logprobs[index], drawn.constrained.get(index))


def _forward_options(model: nn.Module) -> frozenset[str]:
    """Which of the optional arguments the model's forward pass takes.

    A wrapper (PEFT, DDP) that passes everything on takes position ids, as nearly all models do.
    """
    parameters = inspect.signature(model.forward).parameters
    named = {name for name in ("position_ids", "logits_to_keep") if name in parameters}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        named.add("position_ids")
    return frozenset(named)
