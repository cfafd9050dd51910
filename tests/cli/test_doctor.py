from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("torch", reason="needs the extra transformers")

from typer.testing import CliRunner

from gym_adapters import InvalidConfig
from gym_adapters.cli.app import app
from gym_adapters.testing.tiny_model import tiny_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


def doctor(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_policy().model_path, folder)
    return folder


@pytest.fixture
def bad_model(model: Path) -> Path:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 10}))
    return model


def test_the_table_says_what_to_do_and_counts(bad_model: Path) -> None:
    code, told = doctor("--model", str(bad_model))
    assert code == 1
    assert "resize_token_embeddings" in told
    counts = re.search(r"(\d+) ok, (\d+) warn, (\d+) fail", told)
    assert counts is not None
    assert int(counts[3]) == 1
    assert told.count("→") == int(counts[2]) + int(counts[3])


def test_json_is_all_there_is_on_stdout(model: Path) -> None:
    code, told = doctor("--model", str(model), "--env", "arithmetic_tools", "--json")
    findings = json.loads(told)
    assert code == 0
    assert {"part", "subject", "level", "what", "fix"} == set(findings[0])
    assert {finding["level"] for finding in findings} <= {"ok", "warn"}
    assert {"machine", "trainers", "chat template", "memory"} <= {f["part"] for f in findings}


def test_a_recipe_is_looked_at_with_its_changes(model: Path) -> None:
    words = ("--recipe", "trl/grpo", f"model={model}", "arguments.max_completion_length=100000")
    code, told = doctor(*words)
    assert code == 1
    assert "the last tokens" in " ".join(told.split())


def test_changes_without_a_recipe_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="--recipe"):
        doctor("model=here")


def test_commands_of_the_page_run_as_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[:2] == ["gym-adapters", "doctor"]
        code, told = doctor(*words[2:])
        assert code == 0, told


def test_code_of_the_page_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, "docs/doctor.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("ok", "warn", "fail")
