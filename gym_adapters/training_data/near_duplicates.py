"""Attempts that say almost the same, found by MinHash.

The text of an attempt's output (messages, thinking, calls, results) is cut into runs of three
words. The Jaccard similarity of two such sets is estimated from 64 minima of hash functions, with a
standard error of at most 1/16. An attempt is a near duplicate if the estimate reaches the threshold
for one that was kept before, *of the same task*: short answers to different tasks are often alike.
Memory: 512 bytes a kept attempt.
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from gym_adapters.errors import InvalidConfig
from gym_adapters.items import Item, item_text

__all__ = ["NearDuplicates", "output_text"]

WORDS = 3
_PRIME = (1 << 61) - 1
_DRAWN = random.Random(0)
_FUNCTIONS = tuple((_DRAWN.randrange(1, _PRIME), _DRAWN.randrange(_PRIME)) for _ in range(64))


def output_text(items: Iterable[Item]) -> str:
    """All the text of some items, calls and results included."""
    return "\n".join(
        f"{item['name']} {item['arguments']}"
        if item["type"] == "function_call"
        else str(item["output"])
        if item["type"] == "function_call_output"
        else item_text(item)
        for item in items
    )


class NearDuplicates:
    """Remembers what was kept, by task.

    Args:
        threshold: Least similarity of near duplicates, in (0, 1].

    Raises:
        InvalidConfig: If the threshold is out of its range.
    """

    def __init__(self, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise InvalidConfig(f"a similarity must be above 0 and at most 1, not {threshold}")
        self._needed = threshold * len(_FUNCTIONS)
        self._kept: defaultdict[str, list[array[int]]] = defaultdict(list)

    def add(self, task_id: str, text: str) -> bool:
        """Keep `text`; false, and not kept, where it is a near duplicate."""
        signature = _signature(text)
        for earlier in self._kept[task_id]:
            same = sum(a == b for a, b in zip(earlier, signature, strict=True))
            if same >= self._needed:
                return False
        self._kept[task_id].append(signature)
        return True


def _signature(text: str) -> array[int]:
    hashes = [
        int.from_bytes(blake2b(" ".join(run).encode("utf-8", "replace"), digest_size=7).digest())
        for run in set(_runs(text.split()))
    ]
    return array("Q", (min((a * each + b) % _PRIME for each in hashes) for a, b in _FUNCTIONS))


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + WORDS]) for at in range(max(len(words) - WORDS + 1, 1))]
