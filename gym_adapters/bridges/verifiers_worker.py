"""The child's side of `gym_adapters.bridges.verifiers`: a program for an interpreter that has it.

It runs where this library is not installed, so it imports nothing of it. With ``--rows`` it writes
a row for each task and ends; else it answers JSON lines, as `gym_adapters.bridges.child_process`
describes. Tested with verifiers 0.4.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import itertools
import json
import os
import sys
from importlib import import_module
from typing import Any

Json = dict[str, Any]


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Tasks:
    """The taskset's tasks, loaded as far as they are asked for."""

    def __init__(self, name: str, config: Json) -> None:
        loaders = import_module("verifiers.v1.utils.loaders")
        settings = loaders.taskset_config_type(name).model_validate({**config, "id": name})
        self.taskset = loaders.load_taskset(settings)
        self.config = settings
        self._left = iter(self.taskset)
        self._loaded: list[Any] = []

    def at(self, index: int) -> Any:
        """The task of that index.

        Raises:
            Problem: If there is none.
        """
        wanted = index + 1 - len(self._loaded)
        if wanted > 0:
            self._loaded.extend(itertools.islice(self._left, wanted))
        if not 0 <= index < len(self._loaded):
            raise Problem("environment", f"the taskset has no task {index}")
        return self._loaded[index]

    def rows(self, count: int | None) -> Any:
        """Rows of the first `count` tasks; ``None`` for all of them."""
        for index in itertools.count() if count is None else range(count):
            try:
                task = self.at(index)
            except Problem:
                return
            place = {"idx": index, "key": task.key}
            yield {"responses_create_params": {"input": prompt_of(task)}, "verifiers": place}


def text_of(content: object) -> str:
    """Text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part if isinstance(part, dict) else part.model_dump() for part in content]  # type: ignore[attr-defined]
    if any(part.get("type") not in ("text", "input_text", "output_text") for part in parts):
        raise Problem("environment", "only text can be bridged, and the task has other content")
    return "".join(part["text"] for part in parts)


def prompt_of(task: Any) -> list[Json]:
    """What the model reads first."""
    said = task.data.prompt
    if said is None:
        raise Problem("environment", "the task has no prompt: its user opens the conversation")
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else []
    if not messages:
        messages = [{"role": each.role, "content": text_of(each.content)} for each in said]
    if task.data.system_prompt:
        messages.insert(0, {"role": "system", "content": task.data.system_prompt})
    if any(each["role"] not in ("system", "user") for each in messages):
        raise Problem("environment", "a prompt with the assistant's turns can't be bridged")
    return messages


class Attempt:
    """One attempt at one task."""

    def __init__(self, task: Any, taskset: Any, config: Any) -> None:
        vf = import_module("verifiers.v1")
        refuse_runtime(vf, task)
        self._task = task
        state = import_module("verifiers.v1.state").state_cls(type(task))
        self._trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            state=state(),
        )
        own, shared = type(task).toolsets(task.config), type(taskset).toolsets(config)
        self._servers = [(each, each in own) for each in [*own, *shared]]
        self._places: dict[str, tuple[Any, str]] = {}
        self._stack = contextlib.AsyncExitStack()

    async def tools(self) -> list[Json]:
        """Declarations of the tools, whose servers are set up here."""
        declared: list[Json] = []
        make = import_module("mcp.server.mcpserver").MCPServer
        for server, own in self._servers:
            await self._stack.enter_async_context(server._exit_stack)
            self._share_state(server)
            await server.setup()
            if own:
                await server.setup_task(self._task)
            mcp = make(server.server_name or type(server).__name__)
            server.register(mcp)
            prefix = f"{server.server_name}_" if server.server_name else ""
            for tool in await mcp.list_tools():
                name = prefix + tool.name
                self._places[name] = (mcp, tool.name)
                declared.append(
                    {
                        "type": "function",
                        "name": name,
                        "description": tool.description or "",
                        "parameters": tool.input_schema,
                        "strict": False,
                    }
                )
        return declared

    async def call(self, name: str, arguments: Json) -> str:
        """A tool's result, its errors too."""
        mcp, own = self._places[name]
        try:
            result = await mcp.call_tool(own, arguments)
        except Exception as error:  # noqa: BLE001 - the model reads what it broke
            return json.dumps({"error": {"type": "exception", "message": str(error)}})
        return "\n".join(getattr(part, "text", str(part)) for part in result.content)

    async def verify(self, prompt: list[Json], output: list[Json], stop: str) -> Json:
        """The verdict.

        Raises:
            Problem: If there is none.
        """
        graph = import_module("verifiers.v1.graph")
        for message, sampled in messages_of([*prompt, *output]):
            parent = len(self._trace.nodes) - 1 if self._trace.nodes else None
            node = graph.MessageNode(parent=parent, message=message, sampled=sampled)
            self._trace.nodes.append(node)
        self._trace.stop_condition = stop
        self._trace.is_completed = self._trace.ok = True
        try:
            await self._task.score(self._trace)
        except Exception as error:
            raise Problem("verifier", f"{type(error).__name__}: {error}") from error
        scores = {name: each for name, each in self._trace.rewards.items() if each is not None}
        if not scores:
            raise Problem("verifier", "the task gives no reward")
        return {
            "reward": float(sum(each.value for each in scores.values())),
            "components": {name: float(each.value) for name, each in scores.items()},
            "info": {"metrics": dict(self._trace.metrics)},
        }

    async def close(self) -> None:
        """Free what the tool servers hold."""
        await self._stack.aclose()

    def _share_state(self, server: Any) -> None:
        """One process has both ends of the channel by which servers and scoring share a state."""

        async def pull() -> Any:
            return self._trace.state

        async def push(before: bytes) -> None:
            return None

        server._pull_state, server._push_state = pull, push


def refuse_runtime(vf: Any, task: Any) -> None:
    """Refuse what needs a container or a workspace: nothing of that is here.

    Raises:
        Problem: Naming it.
    """
    needs = [hook for hook in ("setup", "finalize") if has_own(task, vf.Task, hook)]
    for kind in ("reward", "metric"):
        needs += [fn.__name__ for fn in task.hooks(kind) if wants_runtime(fn)]
    if type(task).NEEDS_CONTAINER or needs:
        what = ", ".join(needs) or "the task"
        raise Problem("environment", f"{what} needs a runtime of verifiers, and there is none here")


def has_own(task: Any, base: type, hook: str) -> bool:
    """Whether the task overrides a hook of `base`."""
    return getattr(type(task), hook) is not getattr(base, hook)


def wants_runtime(function: Any) -> bool:
    """Whether a scoring function can't do without a runtime."""
    parameter = inspect.signature(function).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def messages_of(items: list[Json]) -> list[tuple[Json, bool]]:
    """Responses items as chat messages, each with whether the policy wrote it."""
    messages: list[tuple[Json, bool]] = []
    for item in items:
        kind = item["type"]
        if kind == "function_call_output":
            told = {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
            messages.append((told, False))
        elif kind == "message" and item["role"] != "assistant":
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append(({"role": role, "content": item_text(item)}, False))
        else:
            add_to_turn(messages, item)
    return messages


def add_to_turn(messages: list[tuple[Json, bool]], item: Json) -> None:
    """Add one of the assistant's items to its turn."""
    if not messages or messages[-1][0]["role"] != "assistant":
        messages.append(({"role": "assistant", "content": None}, True))
    turn = messages[-1][0]
    if item["type"] == "function_call":
        call = {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
        turn.setdefault("tool_calls", []).append(call)
    else:
        field = "reasoning_content" if item["type"] == "reasoning" else "content"
        turn[field] = (turn.get(field) or "") + item_text(item)


def item_text(item: Json) -> str:
    """Text of an item."""
    content = item.get("content") or item.get("summary") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


class Worker:
    """Answers requests, each in a task of its own."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._attempts: dict[str, Attempt] = {}

    async def answer(self, method: str, params: Json) -> Any:
        """The result of one request.

        Raises:
            Problem: If there is none.
        """
        session = params["session"]
        if method == "start":
            return await self._start(session, params["row"])
        if method == "close":
            begun = self._attempts.pop(session, None)
            return None if begun is None else await begun.close()
        attempt = self._attempts[session]
        if method == "call_tool":
            return await attempt.call(params["name"], params["arguments"])
        if method == "verify":
            return await attempt.verify(params["prompt"], params["output"], params["stop_reason"])
        raise Problem("environment", f"there is no method {method!r} here")

    async def _start(self, session: str, row: Json) -> Json:
        place = row.get("verifiers") or {}
        if not isinstance(place.get("idx"), int):
            raise Problem("environment", "the row does not say which task: verifiers.idx")
        task = self._tasks.at(place["idx"])
        if place.get("key") not in (None, task.key):
            raise Problem("environment", f"task {place['idx']} is another one than the row's")
        attempt = Attempt(task, self._tasks.taskset, self._tasks.config)
        self._attempts[session] = attempt
        return {"prompt": prompt_of(task), "tools": await attempt.tools()}


async def serve(worker: Worker, out: Any) -> None:
    """Answer what comes on stdin until it ends."""
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()

    async def one(line: bytes) -> None:
        asked = json.loads(line)
        told: Json = {"id": asked["id"]}
        try:
            told["result"] = await worker.answer(asked["method"], asked["params"])
        except Problem as problem:
            told["error"] = {"type": problem.kind, "message": str(problem)}
        except Exception as error:  # noqa: BLE001 - an attempt fails, not the child
            message = f"{type(error).__name__}: {error}"
            told["error"] = {"type": "environment", "message": message}
        out.write(json.dumps(told) + "\n")
        out.flush()

    while line := await reader.readline():
        task = asyncio.create_task(one(line))
        running.add(task)
        task.add_done_callback(running.discard)


def main() -> None:
    """Read the arguments, and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("taskset")
    parser.add_argument("--config", default="{}", help="JSON object of the taskset's settings")
    parser.add_argument("--rows", type=int, metavar="COUNT", help="write rows; -1 for all")
    given = parser.parse_args()
    # What libraries print must not be taken for an answer.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks = Tasks(given.taskset, json.loads(given.config))
    if given.rows is None:
        asyncio.run(serve(Worker(tasks), out))
        return
    for row in tasks.rows(None if given.rows < 0 else given.rows):
        out.write(json.dumps(row) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
