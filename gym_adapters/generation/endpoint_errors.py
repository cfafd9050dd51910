"""What a server says when it gives no turn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import orjson

__all__ = ["means_context", "problem_of", "retry_after"]

SHOWN_OF_A_BODY = 500


def problem_of(content: bytes, key: str | None) -> tuple[str, str]:
    """Code and message of an error body, whatever its shape, shortened.

    Args:
        content: The body.
        key: What the request was sent with; some servers repeat it, and what they say is recorded.
    """
    if key:
        content = content.replace(key.encode(), b"<key>")
    text = content[:SHOWN_OF_A_BODY].decode("utf-8", "replace").strip()
    try:
        data = orjson.loads(content)
    except orjson.JSONDecodeError:
        return "", text or "(no text)"
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return "", str(error)[:SHOWN_OF_A_BODY]
    message = error.get("message") or error.get("detail") or text
    return str(error.get("code") or error.get("type") or ""), str(message)[:SHOWN_OF_A_BODY]


def means_context(code: str, text: str) -> bool:
    """Whether a problem is that the conversation does not fit into the model's context."""
    if code == "context_length_exceeded":
        return True
    lowered = text.lower()
    return any(
        phrase in lowered
        for phrase in ("maximum context length", "context length", "context window", "context size")
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, as a number or a date; ``None`` where it does not."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        # A date without a zone is in UTC (RFC 9110, section 5.6.7), and not where this machine is.
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
