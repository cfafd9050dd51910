"""The tools of a session over MCP (streamable HTTP): JSON-RPC in, JSON-RPC out.

Each message is answered on its own and by its own response, as the specification allows for servers
that send nothing unasked: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports
"""

from __future__ import annotations

from typing import Any

import orjson

from gym_adapters import __version__
from gym_adapters.errors import RolloutError
from gym_adapters.serving.environment_session import EnvironmentSession
from gym_adapters.serving.http_errors import HttpError

__all__ = ["mcp_answer"]

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


async def mcp_answer(body: bytes, session: EnvironmentSession, name: str) -> dict[str, Any] | None:
    """What to answer to one message; ``None`` to one that wants no answer.

    Args:
        body: The message.
        session: Whose tools are called.
        name: What the server is called.
    """
    identity: Any = None
    try:
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _RpcError(PARSE_ERROR, f"the body is not valid JSON: {error}") from error
        if not isinstance(asked, dict) or asked.get("jsonrpc") != "2.0":
            raise _RpcError(INVALID_REQUEST, "one JSON-RPC 2.0 message is needed")
        identity, method = asked.get("id"), asked.get("method")
        if not isinstance(identity, str | int | None) or isinstance(identity, bool):
            identity = None
            raise _RpcError(INVALID_REQUEST, "an id is text or a whole number")
        if identity is None or not isinstance(method, str):
            # A notification, or an answer: we ask nothing.
            return None
        params = asked.get("params")
        told = await _told(method, params if isinstance(params, dict) else {}, session, name)
        return {"jsonrpc": "2.0", "id": identity, "result": told}
    except _RpcError as error:
        problem = {"code": error.code, "message": str(error)}
        return {"jsonrpc": "2.0", "id": identity, "error": problem}


async def _told(
    method: str, params: dict[str, Any], session: EnvironmentSession, name: str
) -> dict[str, Any]:
    if method == "initialize":
        version = params.get("protocolVersion")
        return {
            "protocolVersion": version if version in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {"listChanged": False}},
            "serverInfo": {"name": name, "version": __version__},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        tools = [
            {
                "name": tool["name"],
                "description": tool["description"],
                "inputSchema": tool["parameters"],
            }
            for tool in session.episode.tools
        ]
        return {"tools": tools}
    if method == "tools/call":
        return await _called(params, session)
    raise _RpcError(UNKNOWN_METHOD, f"no method {method[:100]!r}")


async def _called(params: dict[str, Any], session: EnvironmentSession) -> dict[str, Any]:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        raise _RpcError(INVALID_PARAMS, "a name and an object of arguments are needed")
    unknown = all(tool["name"] != name for tool in session.episode.tools)
    try:
        text = await session.call_tool(name, orjson.dumps(arguments or {}).decode())
    except (RolloutError, HttpError) as error:
        raise _RpcError(INTERNAL_ERROR, str(error)) from error
    return {"content": [{"type": "text", "text": text}], "isError": unknown}
