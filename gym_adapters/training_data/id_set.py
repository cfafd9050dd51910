"""A set of task ids for files of any length."""

from __future__ import annotations

from array import array

__all__ = ["IdSet"]

_FIRST_SIZE = 1024


class IdSet:
    """Task ids (16 hex digits each), in slots of 8 bytes; 10 to 20 bytes an id, all told."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SIZE))
        self._count = 0
        self._has_zero = False

    def __len__(self) -> int:
        return self._count + self._has_zero

    @property
    def size_in_bytes(self) -> int:
        """Of the slots."""
        return 8 * len(self._slots)

    def add(self, task_id: str) -> bool:
        """Add an id; false where it was in already.

        Raises:
            ValueError: If it is not made of at most 16 hex digits.
        """
        number = int(task_id, 16)
        if number == 0:
            was_new, self._has_zero = not self._has_zero, True
            return was_new
        if not _place(self._slots, number):
            return False
        self._count += 1
        if self._count * 5 > len(self._slots) * 4:
            self._grow()
        return True

    def _grow(self) -> None:
        wider = array("Q", bytes(16 * len(self._slots)))
        for number in self._slots:
            if number:
                _place(wider, number)
        self._slots = wider


def _place(slots: array[int], number: int) -> bool:
    """Put `number` into its slot; ids are hashes already, so their low bits say which."""
    at = number % len(slots)
    while slots[at]:
        if slots[at] == number:
            return False
        at = (at + 1) % len(slots)
    slots[at] = number
    return True
