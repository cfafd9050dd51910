"""Times as the tools read them, and pages of results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from gym_adapters import ToolError

from .tables import Row

__all__ = ["paged", "parsed_time"]

# Also hours of one digit, which fromisoformat refuses but models write.
_LOOSE = re.compile(r"(\d{4}-\d{1,2}-\d{1,2})(?:[ T](\d{1,2}):(\d{2})(?::(\d{2}))?)?")


def parsed_time(text: str) -> datetime | None:
    """`text` as a moment without a zone; ``None`` where it is no date or time."""
    stripped = text.strip()
    try:
        return datetime.fromisoformat(stripped).replace(tzinfo=None)
    except ValueError:
        match = _LOOSE.fullmatch(stripped)
    if match is None:
        return None
    year, month, day = (int(part) for part in match[1].split("-"))
    try:
        return datetime(  # noqa: DTZ001 - the office keeps local time
            year, month, day, int(match[2] or 0), int(match[3] or 0), int(match[4] or 0)
        )
    except ValueError:
        return None


def paged(rows: Sequence[Row], name: str, page: int, page_size: int) -> object:
    """One page of `rows` under `name` beside its place, or a sentence where there are none.

    A page past the last is the last.

    Raises:
        ToolError: If `page_size` is below 1.
    """
    if page_size < 1:
        raise ToolError("page_size must be at least 1")
    if not rows:
        return f"No {name} found."
    pages = -(-len(rows) // page_size)
    at = max(1, min(page, pages))
    return {
        name: [dict(row) for row in rows[(at - 1) * page_size : at * page_size]],
        "pagination": {
            f"total_{name}": len(rows),
            "page": at,
            "page_size": page_size,
            "total_pages": pages,
        },
    }
