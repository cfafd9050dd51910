"""NeMo Gym itself, from PyPI, in a virtual environment of its own, bridged by its address."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs the extra remote")

from gym_adapters import Episode, Task
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.bridges.nemo_gym import NemoGymConfig, NemoGymResources
from gym_adapters.bridges.nemo_gym_steps import NemoGymSteps
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import function_call
from gym_adapters.rollout import Rollout
from gym_adapters.testing import ScriptedChatModel

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]

# One of its servers, as its own launcher would start it, without its head server and Ray.
SERVER = """
import importlib, sys
import uvicorn
from omegaconf import OmegaConf
from nemo_gym.server_utils import BaseServerConfig, ServerClient
from nemo_gym.base_resources_server import BaseResourcesServerConfig

name, kind, port = sys.argv[1:]
module = importlib.import_module(f"resources_servers.{name}.app")
server = getattr(module, kind)
config = server.model_fields["config"].annotation(
    host="127.0.0.1", port=int(port), entrypoint="app.py", name=f"{name}_resources_server",
    domain="agent",
)
client = ServerClient(
    head_server_config=BaseServerConfig(host="127.0.0.1", port=1),
    global_config_dict=OmegaConf.create({}),
)
app = server(config=config, server_client=client).setup_webserver()
uvicorn.run(app, host="127.0.0.1", port=int(port))
"""


@pytest.fixture(scope="module")
def nemo_gym(make_venv: Any) -> str:
    return str(make_venv("nemo-gym==0.4.0", python="python3.12"))


async def played(kind: type[NemoGymResources], url: str, row: Any, turns: Any) -> Rollout:
    config = NemoGymConfig(url=url)
    async with open_episode_resources(kind, config) as client:
        episode = Episode(kind, Task.from_row(row), config=config, resources=client)
        return await ToolAgent().run(episode, ScriptedChatModel(list(turns)))


def rows_of(python: str, name: str) -> list[Any]:
    where = "import resources_servers.gymnasium as m; print(m.__path__[0])"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True)
    file = Path(found.stdout.strip()).parent / name / "data" / "example.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def add(count: int) -> list[Any]:
    return [function_call("increment_counter", json.dumps({"count": count}), f"c{count}")]


async def test_a_resources_server_gives_its_verdicts(
    nemo_gym: str, run_server: Any, free_port: int, tmp_path: Path
) -> None:
    name = "example_session_state_mgmt"
    kind = "StatefulCounterResourcesServer"
    (row, *_) = rows_of(nemo_gym, name)
    assert (row["initial_count"], row["expected_count"]) == (3, 6)
    command = [nemo_gym, "-c", SERVER, name, kind, str(free_port)]
    with run_server(command, tmp_path, free_port) as url:
        right, wrong = await asyncio.gather(
            played(NemoGymResources, url, row, [add(1), add(2), "6"]),
            played(NemoGymResources, url, row, [add(1), [function_call("nope", "{}", "n")], "4"]),
        )
    assert (right.outcome.failure, wrong.outcome.failure) == (None, None)
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert json.loads(right.output[1]["output"]) == {"success": True}


async def test_a_gymnasium_style_server_is_stepped(
    nemo_gym: str, run_server: Any, free_port: int, tmp_path: Path
) -> None:
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": "capital of France?"}]},
        "verifier_metadata": {"follow_ups": ["and again?"], "expected_answer": "Paris"},
    }
    flat = {**row, **row["verifier_metadata"]}
    command = [nemo_gym, "-c", SERVER, "example_multi_turn_gymnasium", "ExampleMultiTurnEnv"]
    with run_server([*command, str(free_port)], tmp_path, free_port) as url:
        right = await played(NemoGymSteps, url, flat, ["London", "Paris."])
        wrong = await played(NemoGymSteps, url, flat, ["London", "London"])
    assert (right.outcome.failure, wrong.outcome.failure) == (None, None)
    assert right.output[1]["content"] == "and again?"
    assert (right.reward, wrong.reward) == (1.0, 0.0)
