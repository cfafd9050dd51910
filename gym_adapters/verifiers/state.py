"""Comparing the state an attempt left behind with the state it should have left.

A state is a set of named tables; a table is a sequence of rows; a row maps columns to values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import TypeAlias

__all__ = ["Row", "differences"]

Row: TypeAlias = Mapping[str, object]


def differences(
    actual: Mapping[str, Sequence[Row]],
    expected: Mapping[str, Sequence[Row]],
    *,
    case_sensitive: Collection[str] = (),
    most: int = 10,
) -> list[str]:
    """How `actual` differs from `expected`, in words; empty where the two states are the same.

    Rows are compared in order. What is the same object on both sides is not looked into, so that
    comparing two states that share most of their rows costs little.

    Args:
        actual: Tables by name.
        expected: Tables by name.
        case_sensitive: Columns in which upper and lower case differ; in others they don't.
        most: Stop after so many differences.
    """
    found = (
        difference
        for name in dict.fromkeys((*expected, *actual))
        for difference in _table_differences(
            name, actual.get(name, ()), expected.get(name, ()), case_sensitive
        )
    )
    return list(islice(found, most))


def _table_differences(
    name: str, actual: Sequence[Row], expected: Sequence[Row], case_sensitive: Collection[str]
) -> Iterator[str]:
    if actual is expected:
        return
    if len(actual) != len(expected):
        yield f"{name}: {len(actual)} rows, not {len(expected)}"
    for position, (have, want) in enumerate(zip_longest(actual, expected)):
        if have is want:
            continue
        if have is None or want is None:
            kind, row = ("an extra", have) if want is None else ("a missing", want)
            yield f"{name}: {kind} row {dict(row or {})}"
            continue
        for column in dict.fromkeys((*want, *have)):
            left, right = have.get(column), want.get(column)
            if _folded(left, column, case_sensitive) != _folded(right, column, case_sensitive):
                yield f"{name}: row {position}: {column} is {left!r}, not {right!r}"


def _folded(value: object, column: str, case_sensitive: Collection[str]) -> object:
    return value.lower() if isinstance(value, str) and column not in case_sensitive else value
