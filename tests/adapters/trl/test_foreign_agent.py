"""An agent that is not ours, trained through the gateway: LangGraph's prebuilt one."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra trl")
pytest.importorskip("fastapi", reason="needs the extra serve")

from gym_adapters import InvalidConfig, Task, Transcript, Unsupported, load_environment
from gym_adapters.adapters.trl import rollout_function, trl_spec
from gym_adapters.agents.tool_agent import AgentLimits
from gym_adapters.rollout import Rollout
from gym_adapters.serving.gateway_agent import GatewayAgent
from gym_adapters.testing.tiny_model import TinyPolicy

PAGE = Path(__file__).resolve().parents[3] / "docs" / "serving.md"


def example(marker: str) -> str:
    """The example of the docs that has `marker`."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [each for each in blocks if marker in each]
    return str(block)


@pytest.fixture
def langgraph_url(tmp_path: Path) -> Iterator[str]:
    """The example's service, in a process of its own."""
    pytest.importorskip("langgraph", reason="needs langgraph")
    pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    (tmp_path / "agent.py").write_text(example("create_react_agent"), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "agent.log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, str(tmp_path / "agent.py"), str(port)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert service.poll() is None, (tmp_path / "agent.log").read_text()
            assert time.monotonic() < deadline, "the agent does not listen"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        service.kill()
        service.wait()


class Drawn(load_environment("arithmetic_tools").environment):  # type: ignore[misc]
    """Rewards by lot, so that each group has an advantage to learn from."""

    async def verify(self, transcript: Transcript) -> float:
        return self.rng.random()


def test_langgraphs_prebuilt_agent_is_trained(
    make_trainer: Any,
    record: Any,
    policy: TinyPolicy,
    sums: list[Task],
    langgraph_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollouts: list[Rollout] = []
    run = GatewayAgent.run

    async def recorded(*arguments: Any, **options: Any) -> Rollout:
        rollouts.append(await run(*arguments, **options))
        return rollouts[-1]

    monkeypatch.setattr(GatewayAgent, "run", recorded)
    made: list[Any] = []

    def trainer_of(**arguments: Any) -> Any:
        trainer = make_trainer(policy, arguments, max_steps=2, temperature=0.5)
        made.append(record(trainer))
        return trainer

    names: dict[str, Any] = {}
    exec(compile(example("GatewayAgent(url"), "docs/serving.md", "exec"), names)
    names["GRPOTrainer"] = trainer_of
    trainer = names["trained"](Drawn, sums, langgraph_url)

    assert trainer.state.global_step == 2
    assert [str(rollout.outcome.failure) for rollout in rollouts] == ["None"] * 16
    trained = [row for batch in range(2) for row in made[0].rows(batch)]
    sampled = [
        (list(segment.prompt_ids), list(segment.completion_ids), list(segment.mask))
        for rollout in rollouts
        for segment in rollout.segments
    ]
    assert sorted(trained) == sorted(sampled)
    # It has been taught to call the tool, and so two turns are one sample, in most of them.
    assert any(rollout.usage.turns > 1 for rollout in rollouts)
    assert any("<tool_response>" in policy.tokenizer.decode(row[1]) for row in trained)
    log = trainer.state.log_history
    rewards = [entry["reward"] for entry in log if "reward" in entry]
    by_step = [rollouts[:8], rollouts[8:]]
    assert rewards == pytest.approx([fmean(r.reward for r in step) for step in by_step], abs=1e-4)
    assert all(float(entry["grad_norm"]) > 0 for entry in log if "grad_norm" in entry)


def test_the_limits_of_the_default_agent_are_not_those_of_another() -> None:
    with pytest.raises(InvalidConfig, match="agent_limits"):
        rollout_function(
            "arithmetic_tools",
            agent=GatewayAgent(url="http://127.0.0.1:1/"),
            agent_limits=AgentLimits(),
        )


def test_an_environment_that_replies_is_refused_before_anything_is_sampled() -> None:
    agent = GatewayAgent(url="http://127.0.0.1:1/")
    for make in (rollout_function, trl_spec):
        with pytest.raises(Unsupported, match="blackjack replies to messages"):
            make("blackjack", agent=agent)  # type: ignore[operator]
