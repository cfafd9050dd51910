from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")

from typer.testing import CliRunner, Result

from gym_adapters.cli.app import app
from gym_adapters.errors import UsageError

WITHOUT_GOLD = """
from gym_adapters import Environment, Task


class Guess(Environment[Task]):
    async def verify(self, transcript):
        return float(self.rng.random() < 0.5)
"""


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "140"})


def test_a_table_of_cases_and_trainers_with_reasons_below() -> None:
    result = check("arithmetic_tools", "--trainers", "offline")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any("what is played" in line and "offline" in line for line in lines)
    assert any("gold answers" in line and line.rstrip().endswith("ok") for line in lines)
    assert any("images" in line and "refused [1]" in line for line in lines)
    assert any(line.startswith("[1] ") and "text only" in line for line in lines)
    assert "no difference" in lines[-1]


def test_json_holds_the_same_cells() -> None:
    result = check("arithmetic_tools", "--trainers", "offline", "--no-shapes", "--json")
    assert result.exit_code == 0
    told = orjson.loads(result.stdout)
    assert told["same"] is True
    assert {cell["part"] for cell in told["cells"]} == {"arithmetic_tools"}
    assert {cell["verdict"] for cell in told["cells"]} == {"same"}
    assert told["cells"][0]["case"] == "gold answers"


def test_an_environment_of_ones_own_with_rows_and_randomness_and_without_gold(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "guess"
    folder.mkdir()
    (folder / "environment.py").write_text(WITHOUT_GOLD, encoding="utf-8")
    with pytest.raises(UsageError, match="ships no example rows"):
        CliRunner().invoke(app, ["check", str(folder)], catch_exceptions=False)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'{"responses_create_params": {"input": "heads or tails?"}}\n')
    given = ["--input", str(rows), "--trainers", "offline", "--no-shapes"]
    result = check(str(folder), *given)
    assert result.exit_code == 0, result.output
    assert "nonsense" in result.stdout
    assert "gold answers" not in result.stdout


def test_a_difference_is_shown_with_its_place_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from gym_adapters.adapters.offline import parity

    read = parity._received

    def forgetful(rollouts: Any, rows: list[dict[str, list[int]]]) -> Any:
        return read(rollouts, [{**row, "labels": row["input_ids"]} for row in rows])

    monkeypatch.setattr(parity, "_received", forgetful)
    result = check("arithmetic_tools", "--trainers", "offline", "--no-shapes")
    assert result.exit_code == 1
    assert "offline, gold answers:" in result.stdout
    assert "task 0, attempt 0: prompt_ids[0] is nothing, and should be" in result.stdout
    assert "How to read this" in result.stdout


def test_a_trainer_asked_for_by_name_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEMO_RL_CHECKOUT", raising=False)
    result = check("arithmetic_tools", "--trainers", "nemo-rl", "--no-shapes")
    assert "not checked [1]" in result.stdout
    assert "give NEMO_RL_CHECKOUT" in result.stdout
    assert result.exit_code == 1


def test_an_unknown_trainer_is_told_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="no trainer 'tinker'"):
        CliRunner().invoke(
            app, ["check", "arithmetic_tools", "--trainers", "tinker"], catch_exceptions=False
        )


def test_an_environment_whose_verifier_always_fails_is_not_called_good(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    text = WITHOUT_GOLD.replace("self.rng.random() < 0.5", "self.task.no_such_field")
    (folder / "environment.py").write_text(text, encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b'{"responses_create_params": {"input": "heads or tails?"}}\n')
    given = [str(folder), "--input", str(rows), "--trainers", "offline", "--no-shapes"]
    result = check(*given)
    assert result.exit_code == 1
    assert "every rollout of" in result.stderr
    assert (
        "verifier: verify of Guess: AttributeError: 'Task' object has no attribute" in result.stderr
    )
    assert "no_such_field" in orjson.loads(check(*given, "--json").stdout)["unscored"]
