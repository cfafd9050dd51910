"""The operations of an environment server, for its OpenAPI document."""

from __future__ import annotations

from typing import Any

from gym_adapters.environment import Environment
from gym_adapters.serving.openapi import SESSION, operation

__all__ = ["environment_paths"]

ITEMS = {"type": "array", "items": {"type": "object"}}
ROW: dict[str, Any] = {
    "type": "object",
    "description": "A row: the prompt, and the environment's own fields.",
    "required": ["responses_create_params"],
    "properties": {
        "responses_create_params": {
            "type": "object",
            "required": ["input"],
            "properties": {"input": {"anyOf": [{"type": "string"}, ITEMS]}},
        }
    },
}
RESPONSE = {
    "type": "object",
    "description": "What the model answered, as the Responses API has it.",
    "required": ["output"],
    "properties": {"output": ITEMS},
}
WITH_RESPONSE = {
    **ROW,
    "required": ["responses_create_params", "response"],
    "properties": {**ROW["properties"], "response": RESPONSE},
}
STEP = {"type": "object", "required": ["response"], "properties": {"response": RESPONSE}}
STEPPED = {
    "type": "object",
    "required": ["observation", "reward", "terminated", "truncated", "info"],
}
JSON_RPC = {
    "type": "object",
    "required": ["jsonrpc", "method"],
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer"]},
        "method": {"type": "string"},
        "params": {"type": "object"},
    },
}


def environment_paths(environment: type[Environment[Any]], prefix: str) -> dict[str, Any]:
    """Operations by path.

    Args:
        environment: Whose tools are called.
        prefix: Path in front of all of them.
    """
    session = [
        {
            "name": SESSION,
            "in": "header",
            "required": False,
            "description": "The session; its cookie does as well.",
            "schema": {"type": "string"},
        }
    ]
    rewarded = {"type": "object", "required": ["reward"]}
    results = {
        "type": "object",
        "required": ["verify_responses"],
        "properties": {"verify_responses": ITEMS},
    }
    posts = {
        "seed_session": operation("Open a session for a row.", body=ROW),
        "verify": operation(
            "The verdict on a response.", body=WITH_RESPONSE, answer=rewarded, parameters=session
        ),
        "reset": operation("Begin an episode that is stepped.", body=ROW),
        "step": operation(
            "Take a turn of the assistant.", body=STEP, answer=STEPPED, parameters=session
        ),
        "close": operation(
            "End a session.",
            body={"type": "object", "properties": {"session_id": {"type": "string"}}},
            answer={"type": "object", "required": ["closed"]},
            parameters=session,
        ),
        "aggregate_metrics": operation("Statistics of verdicts.", body=results),
        "mcp": operation(
            "The session's tools over MCP: one JSON-RPC message.",
            body=JSON_RPC,
            parameters=session,
        ),
    }
    for tool in environment.class_tools.values():
        posts[tool.name] = operation(
            tool.description,
            body=tool.parameters,
            parameters=session,
            answers=("application/json", "text/plain"),
        )
    paths: dict[str, Any] = {f"{prefix}/{name}": {"post": told} for name, told in posts.items()}
    mode = {"enum": ["stateless", "unknown"]}
    told = operation("Whether a verdict needs row and response alone.", answer=mode)
    paths[f"{prefix}/reverify_mode"] = {"get": told}
    return paths
