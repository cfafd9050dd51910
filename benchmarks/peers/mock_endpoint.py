"""A mock endpoint in a process of its own: both APIs, 50 ms a request, a tool call at first."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import orjson

__all__ = ["LATENCY", "mock_endpoint"]

LATENCY = 0.05
SAID = "The answer is 3."
# Theirs and ours: whoever offers the second tool is called with it.
ARGUMENTS = {"add": '{"first": 1, "second": 2}', "get_weather": '{"city": "Oslo"}'}


def _chat(message: dict[str, Any], finish: str) -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def _chat_call(name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ARGUMENTS[name]}
    call = {"id": "call_1", "type": "function", "function": function}
    return _chat({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


def _response(output: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "r",
        "object": "response",
        "created_at": 0,
        "model": "mock",
        "status": "completed",
        "output": [output],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 100,
            "output_tokens": 10,
            "total_tokens": 110,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _response_text() -> dict[str, Any]:
    content = [{"type": "output_text", "text": SAID, "annotations": []}]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    return _response({**message, "content": content})


def _response_call(name: str) -> dict[str, Any]:
    call = {"type": "function_call", "id": "f", "call_id": "call_1", "status": "completed"}
    return _response({**call, "name": name, "arguments": ARGUMENTS[name]})


def _http(body: object) -> bytes:
    return _packed(orjson.dumps(body), "application/json")


def _packed(content: bytes, kind: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: "
    return f"{head}{len(content)}\r\n\r\n".encode() + content


def _stream() -> bytes:
    """The text as a stream of events, for clients that ask for one."""
    whole = _chat({}, "stop")
    chunks: Sequence[dict[str, Any]] = (
        {"delta": {"role": "assistant", "content": SAID}, "finish_reason": None},
        {"delta": {}, "finish_reason": "stop"},
    )
    events = [
        {**whole, "object": "chat.completion.chunk", "choices": [{"index": 0, **chunk}]}
        for chunk in chunks
    ]
    lines = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
    return _packed(b"".join([*lines, b"data: [DONE]\n\n"]), "text/event-stream")


class MockEndpoint(asyncio.Protocol):
    """Just enough HTTP, so that the machine is left to what is measured."""

    chat = _http(_chat({"role": "assistant", "content": SAID}, "stop"))
    chat_call = _http(_chat_call("add"))
    stream = _stream()
    response = _http(_response_text())
    response_call = _http(_response_call("get_weather"))

    def __init__(self, latency: float) -> None:
        self._latency, self._read = latency, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._read = body[length:]
        if b"/responses" in head[:200]:
            asks = b'"get_weather"' in body and b'"function_call_output"' not in body
            answer = self.response_call if asks else self.response
        elif b'"stream":true' in body.replace(b" ", b""):
            answer = self.stream
        else:
            asks = b'"tools"' in body and b'"role":"tool"' not in body
            answer = self.chat_call if asks else self.chat
        asyncio.get_running_loop().call_later(self._latency, self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        if isinstance(self._transport, asyncio.Transport) and not self._transport.is_closing():
            self._transport.write(answer)


def _serve(port: Connection, latency: float) -> None:
    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: MockEndpoint(latency), "127.0.0.1", 0, backlog=4096
        )
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def mock_endpoint(latency: float = LATENCY) -> Iterator[str]:
    """Its base address; it answers after `latency` seconds."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, latency))
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()
