"""The key-value cache of a changing batch: rows leave, rows join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["KvBatch"]


class KvBatch:
    """Keys and values of B rows over L columns, padded on the left.

    Attributes:
        mask: 1 where a column holds a token of the row, (B, L).

    Rows can be taken out and batches merged only where every layer keeps all its keys in plain
    tensors (`is_flexible`). Sliding windows and recurrent states depend on the columns around them;
    their batches stay as they are until all rows are done.
    """

    def __init__(self, cache: Cache, mask: Tensor) -> None:
        self._cache = cache
        self.mask = mask

    @classmethod
    def of(cls, output: CausalLMOutputWithPast, mask: Tensor) -> KvBatch:
        """What a forward pass over the columns of `mask` left behind.

        Raises:
            TypeError: If the model gives back no cache.
        """
        cache = output.past_key_values
        if not isinstance(cache, Cache):
            raise TypeError(
                f"the model returned {type(cache).__name__} for past_key_values, and a Cache is "
                "needed to continue from."
            )
        return cls(cache, mask)

    @property
    def cache(self) -> Cache:
        """For the model; it grows in place by the columns that are run."""
        return self._cache

    @property
    def is_flexible(self) -> bool:
        """Whether `keep` and `merge` work."""
        return type(self._cache) is DynamicCache and all(
            type(layer) is DynamicLayer for layer in self._cache.layers
        )

    def grow(self) -> None:
        """One more column, held by every row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns on the left that only they used."""
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self.mask = self.mask[index]
        unused = int(self.mask.argmax(dim=1).min()) if len(rows) else self.mask.shape[1]
        self.mask = self.mask[:, unused:]
        for layer in self._layers():
            keys, values = _filled(layer.keys), _filled(layer.values)
            # Layers of a model spread over devices keep their keys where they run.
            there = index.to(keys.device)
            layer.keys, layer.values = keys[there, :, unused:], values[there, :, unused:]

    def merge(self, other: KvBatch) -> None:
        """Append the rows of `other`, padding the shorter batch on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([_padded(self.mask, width, 1), _padded(other.mask, width, 1)])
        for mine, theirs in zip(self._layers(), other._layers(), strict=True):
            keys = (_filled(mine.keys), _filled(theirs.keys))
            values = (_filled(mine.values), _filled(theirs.values))
            mine.keys = torch.cat([_padded(tensor, width, 2) for tensor in keys])
            mine.values = torch.cat([_padded(tensor, width, 2) for tensor in values])

    def _layers(self) -> list[DynamicLayer]:
        layers = [layer for layer in self._cache.layers if type(layer) is DynamicLayer]
        if len(layers) != len(self._cache.layers):
            raise TypeError("rows of this cache can't be moved; ask is_flexible first.")
        return layers


def _filled(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TypeError("a layer of the cache was never run.")
    return tensor


def _padded(tensor: Tensor, width: int, dim: int) -> Tensor:
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
