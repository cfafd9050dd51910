"""What the servers answer to, as an OpenAPI document, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from gym_adapters import __version__
from gym_adapters.extras import require
from gym_adapters.serving.http_errors import json_response

require("fastapi", "serve", "serving")

from fastapi import FastAPI, Request, Response  # noqa: E402 - after the check above

__all__ = ["Paths", "add_openapi", "operation"]

Paths = Mapping[str, Mapping[str, Any]]
"""Operations by path and method."""

ERROR = {
    "description": "What is wrong, and what to do about it.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["type", "message"],
                        "properties": {
                            "type": {"type": "string"},
                            "message": {"type": "string"},
                        },
                    }
                },
            }
        }
    },
}
ANYTHING: Mapping[str, Any] = {}
SESSION = "X-NeMo-Gym-Session-Token"


def operation(
    summary: str,
    *,
    body: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] = ANYTHING,
    answers: Iterable[str] = ("application/json",),
    parameters: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One operation; errors all have one body.

    Args:
        summary: What it does.
        body: JSON schema of the request; ``None`` for none.
        answer: JSON schema of a success.
        answers: Content types of a success.
        parameters: Of its path and headers.
    """
    told: dict[str, Any] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {
                "description": "Success.",
                "content": {kind: {"schema": dict(answer)} for kind in answers},
            },
            "default": ERROR,
        },
    }
    if body is not None:
        told["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": dict(body)}},
        }
    return told


def add_openapi(app: FastAPI, title: str, paths: Paths) -> None:
    """Answer ``GET /openapi.json`` with `paths`, and ``GET /docs`` with a page of them."""
    document = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {"/": {"get": operation("Whether the server is alive.")}, **paths},
    }
    page = _page(title, document["paths"]).encode()

    async def openapi(request: Request) -> Response:
        return json_response(document)

    async def docs(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    app.add_route("/openapi.json", openapi, methods=["GET"])
    app.add_route("/docs", docs, methods=["GET"])


def _page(title: str, paths: Any) -> str:
    """A page that loads nothing from elsewhere."""
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(told['summary'])}</td></tr>"
        for path, methods in paths.items()
        for method, told in methods.items()
    ]
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>"
        "<style>body{font:16px system-ui;margin:2em}td{padding:.3em 1em .3em 0}</style>"
        f"<h1>{escape(title)}</h1><p>Schemas: <a href=openapi.json>openapi.json</a></p>"
        f"<table>{''.join(rows)}</table>"
    )
