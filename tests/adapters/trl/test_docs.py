"""The code of docs/trl.md runs as it stands, with trainers that only note what they are given."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")
pytest.importorskip("vllm", reason="TRL's async trainer imports vLLM")

import orjson

from gym_adapters import load_environment

PAGE = Path(__file__).resolve().parents[3] / "docs" / "trl.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


class Trainer:
    """Notes what it is given."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **arguments: Any) -> None:
        Trainer.made.append(arguments)

    def train(self) -> None:
        pass


@pytest.mark.filterwarnings("default")
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import trl
    from trl.experimental import async_grpo

    on_cpu = {"use_cpu": True, "bf16": False}
    monkeypatch.setattr(trl, "GRPOConfig", partial(trl.GRPOConfig, **on_cpu))
    config = partial(async_grpo.AsyncGRPOConfig, **on_cpu)
    monkeypatch.setattr(async_grpo, "AsyncGRPOConfig", config)
    monkeypatch.setattr(trl, "GRPOTrainer", Trainer)
    monkeypatch.setattr(async_grpo, "AsyncGRPOTrainer", Trainer)
    monkeypatch.chdir(tmp_path)
    files = {"train": "arithmetic_tools", "sums": "arithmetic_tools", "questions": "mcqa"}
    for name, environment in files.items():
        rows = [task.to_row() for task in load_environment(environment).example_tasks()]
        Path(f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    Trainer.made.clear()
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(block, names)
    grpo, asynchronous = Trainer.made
    assert "rollout_func" in grpo
    assert "rollout_worker" in asynchronous
