"""What the page on training data says to type works as typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("trl", reason="needs the extra trl")

from typer.testing import CliRunner

from gym_adapters import Rollout, Segment, load_environment
from gym_adapters.cli.app import app
from gym_adapters.task import read_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_data.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_run: Callable[..., Path],
    make_rollout: Callable[..., Rollout],
) -> Path:
    """A folder with the files that the page speaks of."""
    import datasets

    datasets.disable_progress_bars()
    tokens = [Segment([1], [2], [1], [-1.0])]
    make_run(
        make_rollout("a", 0, 1.0, "yes!", segments=tokens),
        make_rollout("a", 1, 0.0, "nope"),
        name="run",
    )
    example = load_environment("mcqa").example_path
    assert example is not None
    rows = [row for _, row in read_rows(example)]
    # Arrow has no columns of mixed types, so the rows' own params travel as text.
    texts = [
        {**row, "responses_create_params": orjson.dumps(row["responses_create_params"]).decode()}
        for row in rows
    ]
    datasets.Dataset.from_list(texts).to_parquet(str(tmp_path / "validation.parquet"))
    for name in ("math", "mcqa", "rows"):
        (tmp_path / f"{name}.jsonl").write_bytes(example.read_bytes())
    (tmp_path / "train.jsonl").write_bytes(example.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run_as_written(folder: Path) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(lines) == 12
    for line in lines:
        if " collect " in line:
            line = line.replace("transformers:./model", "scripted:gold")
        if "--profile" in line:
            line = line.replace("--max-pass-rate 0.9", "--max-pass-rate 1")
        if "--output train.jsonl" in line:
            (folder / "train.jsonl").unlink()
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception}"


def test_code_runs_as_written(folder: Path, make_rollout: Callable[..., Rollout]) -> None:
    sft, buffer, curriculum, trl = blocks("python")
    compile(sft, "sft", "exec")  # it loads a model from the Hub; test_trl.py trains on such rows
    rows = [row for _, row in read_rows(folder / "rows.jsonl")]
    names: dict[str, Any] = {
        "rollouts": [make_rollout("a", 0, 1.0), make_rollout("a", 1, 0.0)],
        "step": 3,
        "mcqa_rows": rows[:2],
        "math_rows": rows[2:],
        "to_row": lambda drawn: {"task_id": drawn.task_id},
        "task_id": "0",
        "rewards": [1.0],
    }
    exec("from gym_adapters import Task\nfrom gym_adapters.adapters.trl import *", names)
    for block in (buffer, curriculum, trl):
        exec(block, names)
    assert (folder / "replay" / "000000003.jsonl").exists()
    first = next(iter(names["arguments"]["train_dataset"]))
    assert {"prompt", "task_id"} <= set(first)
