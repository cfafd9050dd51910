"""Regular expressions that come from a row or a config, matched against what a model wrote.

Nobody has checked such a pattern, and it may backtrack without end. So it is matched by the package
``regex``, which can stop it, against the end of the text only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gym_adapters.errors import InvalidRow, VerifierError
from gym_adapters.extras import require

__all__ = ["captured_last", "check_pattern"]

# How much of the end of a text is searched, and for how many seconds.
WINDOW = 20_000
TIMEOUT = 1.0


def captured_last(text: str, pattern: str, *, ignore_case: bool = False) -> str | None:
    """What the last match of `pattern` captures, stripped; ``None`` without a match.

    The first group that holds anything counts, else the whole match. ``^`` and ``$`` match at
    lines, ``.`` also matches line ends; with `ignore_case` they don't, and letters match in either
    case.

    Raises:
        InvalidRow: If `pattern` is not a regular expression.
        VerifierError: If matching takes longer than a second.
        MissingExtra: Without the package ``regex``.
    """
    last = None
    try:
        matches = _compiled(pattern, ignore_case).finditer(
            text[-WINDOW:], timeout=TIMEOUT, concurrent=True
        )
        for match in matches:
            last = match
    except TimeoutError as error:
        raise VerifierError(
            f"the pattern {pattern!r} took longer than {TIMEOUT} s; it backtracks"
        ) from error
    if last is None:
        return None
    groups = [group.strip() for group in last.groups() if group is not None and group.strip()]
    return str(groups[0] if groups else last[0].strip())


def check_pattern(pattern: str, field: str) -> None:
    """Refuse a pattern that does not compile.

    Raises:
        InvalidRow: Naming `field`.
        MissingExtra: Without the package ``regex``.
    """
    try:
        _compiled(pattern, False)
    except InvalidRow as error:
        raise InvalidRow(error.problem, field=field, fix=error.fix) from None


@lru_cache(maxsize=512)
def _compiled(pattern: str, ignore_case: bool) -> Any:
    library = require("regex", "verifiers", "an answer pattern given by a row")
    try:
        flags = library.IGNORECASE if ignore_case else library.MULTILINE | library.DOTALL
        return library.compile(pattern, flags)
    except library.error as error:
        raise InvalidRow(
            f"{pattern!r} is not a regular expression: {error}.", fix="correct the pattern."
        ) from error
