"""Verdicts of NeMo Gym's resources servers, for benchmarks/verifiers.py; run by its interpreter.

Takes JSON on stdin, ``{"mcqa": [[row, text], ...], ...}``, and prints JSON of the same names: the
CPU milliseconds of a verdict, child processes included, and the rewards. A verdict is what a
request becomes once it has been parsed from JSON: validation and ``verify``, without HTTP.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import resource
import sys
import time
from contextlib import redirect_stdout
from typing import Any

ROUNDS = 1
MODULE = "resources_servers.{}.app"
CLASSES = {
    "calendar": ("CalendarResourcesServer", "CalendarVerifyRequest"),
    "math_with_judge": ("LibraryJudgeMathResourcesServer", "LibraryJudgeMathVerifyRequest"),
    "mcqa": ("MCQAResourcesServer", "MCQAVerifyRequest"),
    "structured_outputs": (
        "StructuredOutputsResourcesServer",
        "StructuredOutputsVerifyRequest",
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "math_with_judge": {
        "judge_model_server": {"type": "responses_api_models", "name": "judge"},
        "judge_responses_create_params": {"input": []},
        "should_use_judge": False,
    }
}


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def request_of(row: dict[str, Any], text: str) -> dict[str, Any]:
    message = {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    response = {
        "id": "resp",
        "object": "response",
        "created_at": 0,
        "model": "policy",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return {**row, "response": response}


async def measure(name: str, given: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    from nemo_gym.server_utils import ServerClient

    # A server is run in its own folder, and imports what lies there.
    package = importlib.import_module(f"resources_servers.{name}")
    sys.path[:0] = list(package.__path__)
    module = importlib.import_module(MODULE.format(name))
    server_name, request_name = CLASSES[name]
    server_type, request_type = getattr(module, server_name), getattr(module, request_name)
    config_type = server_type.model_fields["config"].annotation
    config = config_type.model_validate(
        {
            "name": name,
            "host": "127.0.0.1",
            "port": 1,
            "entrypoint": "app.py",
            **SETTINGS.get(name, {}),
        }
    )
    server = server_type(config=config, server_client=ServerClient.model_construct())
    server.setup_webserver()
    bodies = [request_of(row, text) for row, text in given]

    async def verdicts() -> list[float]:
        return [
            float((await server.verify(request_type.model_validate(body))).reward)
            for body in bodies
        ]

    rewards = await verdicts()
    began = cpu_seconds()
    for _ in range(ROUNDS):
        await verdicts()
    spent = (cpu_seconds() - began) / (ROUNDS * len(bodies)) * 1000
    return {"milliseconds": spent, "rewards": rewards}


async def all_of(asked: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, given in asked.items():
        try:
            found[name] = await measure(name, given)
        except Exception as error:  # noqa: BLE001 - a peer that fails is told, the others go on
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


def main() -> None:
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        found = asyncio.run(all_of(asked))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
