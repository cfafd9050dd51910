from __future__ import annotations

import re
from pathlib import Path

import pytest

from gym_adapters.adapters.capabilities import Adapter, markdown_table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "nemo_rl.md"


def test_the_table_is_the_matrix() -> None:
    table = markdown_table((Adapter.NEMO_RL, Adapter.NEMO_RL_NATIVE))
    assert table in PAGE.read_text(encoding="utf-8")


def test_the_code_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 1000
    names["tasks"] = list(names["entry"].environment.generate_tasks(2, seed=1, difficulty=0.0))  # type: ignore[attr-defined]
    exec(blocks[1], names)
    assert len(names["rows"]) == 2  # type: ignore[arg-type]
