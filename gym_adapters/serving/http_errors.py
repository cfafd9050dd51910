"""What goes wrong over HTTP: one body for all errors, and the status of each.

Every error body is ``{"error": {"type": ..., "message": ...}}``. A failed rollout has the boundary
at fault as its type. 503 and 504 may pass by themselves; 500 is a bug in an environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from gym_adapters.errors import Boundary, InvalidRow, LedgerError, RolloutError, UsageError
from gym_adapters.extras import require

require("fastapi", "serve", "serving")

from fastapi import Response  # noqa: E402 - after the check that names the extra

__all__ = ["HttpError", "error_of", "error_response", "json_bytes", "json_object", "json_response"]

STATUS_OF: Mapping[Boundary, int] = {
    Boundary.MODEL: 503,
    Boundary.ENVIRONMENT: 500,
    Boundary.TOOL: 503,
    Boundary.VERIFIER: 500,
    Boundary.JUDGE: 503,
    Boundary.SANDBOX: 503,
    Boundary.TIMEOUT: 504,
    Boundary.CANCELLED: 503,
}


class HttpError(Exception):
    """An answer that is not a success.

    Args:
        status: HTTP status.
        kind: The error's type, one word.
        message: What is wrong and what to do about it.
        headers: Further headers.
    """

    def __init__(
        self, status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.kind, self.message = status, kind, message
        self.headers = dict(headers or {})
        super().__init__(message)


def error_of(error: Exception) -> HttpError | None:
    """The answer that `error` means; ``None`` where it is none that this library raises."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, RolloutError):
        return HttpError(STATUS_OF[error.boundary], error.boundary.value, str(error))
    if isinstance(error, LedgerError):
        return HttpError(STATUS_OF[Boundary.MODEL], Boundary.MODEL.value, str(error))
    if isinstance(error, InvalidRow):
        return HttpError(422, "invalid_row", str(error))
    if isinstance(error, UsageError):
        return HttpError(422, "invalid_request", str(error))
    return None


def error_response(error: HttpError) -> Response:
    """The error as an answer."""
    body = {"error": {"type": error.kind, "message": error.message}}
    return json_response(body, status=error.status, headers=error.headers)


def json_bytes(value: Any) -> bytes:
    """`value` as JSON, whatever it holds: integers of more than 64 bits, sets, lone surrogates."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(to_jsonable_python(value, fallback=str)).encode()


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`value` as a JSON answer."""
    return Response(
        json_bytes(value),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that `body` is; an empty body is an empty object.

    Raises:
        HttpError: 400, if it is none.
    """
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, "invalid_json", f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise HttpError(
            400, "invalid_json", f"the body must be a JSON object, not {type(value).__name__}"
        )
    return value
