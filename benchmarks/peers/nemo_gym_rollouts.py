"""Rollouts through NeMo Gym's own servers, for benchmarks/collection.py; run by its interpreter.

Tools, agent and model server as NeMo Gym 0.4 ships them, on ports of this machine and in this one
process, so that its CPU time is that of a whole rollout. Prints CPU seconds and the seconds of each
rollout; takes the endpoint's address, a number of rollouts, how many at once, and what to run:
"single" (a turn) or "tool" (two model calls and a tool call).
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import uvicorn
from nemo_gym.config_types import BaseServerConfig
from nemo_gym.server_utils import (
    GlobalAIOHTTPAsyncClientConfig,
    ServerClient,
    set_global_aiohttp_client,
)
from omegaconf import OmegaConf
from resources_servers.example_single_tool_call.app import (
    SimpleWeatherResourcesServer,
    SimpleWeatherResourcesServerConfig,
)
from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig
from responses_api_models.openai_model.app import SimpleModelServer, SimpleModelServerConfig

SERVERS = {
    "tools": (
        "resources_servers",
        SimpleWeatherResourcesServer,
        SimpleWeatherResourcesServerConfig,
    ),
    "agent": ("responses_api_agents", SimpleAgent, SimpleAgentConfig),
    "model": ("responses_api_models", SimpleModelServer, SimpleModelServerConfig),
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def settings(url: str) -> dict[str, dict[str, object]]:
    own: dict[str, dict[str, object]] = {
        "tools": {"domain": "agent"},
        "agent": {
            "resources_server": {"type": "resources_servers", "name": "tools"},
            "model_server": {"type": "responses_api_models", "name": "model"},
        },
        "model": {"openai_base_url": url, "openai_api_key": "none", "openai_model": "m"},
    }
    shared = {"host": "127.0.0.1", "entrypoint": "app.py"}
    return {name: {**shared, "port": free_port(), **each} for name, each in own.items()}


async def main(url: str, count: int, concurrency: int, what: str) -> None:
    set_global_aiohttp_client(GlobalAIOHTTPAsyncClientConfig())
    given = settings(url)
    config = OmegaConf.create({name: {SERVERS[name][0]: {name: given[name]}} for name in given})
    client = ServerClient(
        head_server_config=BaseServerConfig(host="127.0.0.1", port=1), global_config_dict=config
    )
    servers = []
    for name, (_, server, server_config) in SERVERS.items():
        made = server(config=server_config(**given[name], name=name), server_client=client)
        options = {"log_level": "error", "access_log": False, "port": given[name]["port"]}
        servers.append(uvicorn.Server(uvicorn.Config(made.setup_webserver(), **options)))
    running = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):  # noqa: ASYNC110 - it tells no other way
        await asyncio.sleep(0.05)
    slots, seconds = asyncio.Semaphore(concurrency), []

    async def one(number: int) -> None:
        async with slots:
            began = time.perf_counter()
            prompt = {"role": "user", "content": f"What is 1 + 2? ({number})"}
            params = {"input": [prompt], **({"tools": [WEATHER]} if what == "tool" else {})}
            answer = await client.post("agent", "/run", json={"responses_create_params": params})
            body = json.loads(await answer.read())
            calls = sum(each["type"] == "function_call" for each in body["response"]["output"])
            if body["reward"] != 1.0 or calls != (what == "tool"):
                raise RuntimeError(f"a rollout came to {body}")
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*map(one, range(concurrency)))
    seconds.clear()
    began = time.process_time()
    await asyncio.gather(*map(one, range(count)))
    print(json.dumps([time.process_time() - began, seconds]))
    for server in servers:
        server.should_exit = True
    await asyncio.wait(running, timeout=5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
