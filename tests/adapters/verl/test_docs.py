from __future__ import annotations

import re
from pathlib import Path

import pytest

from gym_adapters.adapters.capabilities import Adapter, markdown_table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "verl.md").read_text(encoding="utf-8")


def test_the_table_of_the_docs_is_the_matrix() -> None:
    assert markdown_table((Adapter.VERL, Adapter.VERL_REWARD)) in PAGE


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/verl.md", "exec"), {})
    assert (tmp_path / "train.parquet").exists()
