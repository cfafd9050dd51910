"""What ``collect`` gives for the best attempt and for the emptiest, in every environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import environment_names, load_environment

pytest.importorskip("typer", reason="needs the extra cli")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"it connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("model", "bound"), [("scripted:empty", 0), ("scripted:gold", 1)])
@pytest.mark.parametrize("name", environment_names())
def test_gold_scores_the_most_and_nothing_the_least_as_the_card_comes(
    name: str, model: str, bound: int, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from gym_adapters.cli.app import app

    folder = tmp_path / "run"
    command = ["collect", name, "--model", model, "--limit", "3", "-o", str(folder)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    metrics = orjson.loads((folder / "metrics.json").read_bytes())
    assert metrics["failures"] == {}
    assert metrics["scored"] == 3
    assert metrics["reward_std"] == 0.0
    card = load_environment(name).card
    assert card is not None
    assert metrics["reward_mean"] == card.reward_range[bound]
    assert len((folder / "rollouts.jsonl").read_bytes().splitlines()) == 3
