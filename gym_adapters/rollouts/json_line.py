"""Rollouts as JSON lines that every reader can read, whatever an environment put into them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic_core import PydanticSerializationError, to_jsonable_python

__all__ = ["json_line"]

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
DEEPEST = 100


def json_line(data: Mapping[str, Any]) -> bytes:
    """`data` as one line of UTF-8 JSON with its newline; never raises.

    What JSON can't hold (odd objects, integers beyond 64 bits, halves of surrogate pairs, nesting
    deeper than 100) is replaced by its nearest text.
    """
    try:
        return orjson.dumps(data, default=_plain, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(_clean(data, 0), option=_OPTIONS)


def _plain(value: object) -> Any:
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, RecursionError):
        return _text(value)


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {
            str(_clean(str(key), depth)): _clean(each, depth + 1) for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(each, depth + 1) for each in value]
    plain = _plain(value)
    return _text(plain) if type(plain) is type(value) else _clean(plain, depth + 1)


def _text(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an object may do anything in its repr
        text = f"<{type(value).__name__}>"
    return text[:1000].encode("utf-8", "replace").decode()
