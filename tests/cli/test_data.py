"""``gym-adapters data``, run as users run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

from click.testing import Result
from typer.testing import CliRunner

from gym_adapters import InvalidConfig, UsageError
from gym_adapters.cli.app import app


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(path: Path, *inputs: str, **fields: Any) -> Path:
    rows = ({"responses_create_params": {"input": each}, **fields} for each in inputs)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def inputs(path: Path) -> list[str]:
    return [
        orjson.loads(line)["responses_create_params"]["input"]
        for line in path.read_bytes().splitlines()
    ]


def test_validate_tells_every_file_and_fails_where_rows_are_bad(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", "a", "b", "a")
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"x": 1}\n{\n')
    assert cli("data", "validate", good).exit_code == 0
    done = cli("data", "validate", good, bad, "--limit", 1)
    assert done.exit_code == 1
    assert f"{good}: 3 rows, 0 bad, 1 repeat an earlier one" in done.stdout
    assert "2 rows, 2 bad" in done.stdout
    assert "bad.jsonl:1: field 'responses_create_params'" in done.stderr
    assert "1 more problems" in done.stderr
    told = orjson.loads(cli("data", "validate", bad, "--json").stdout)
    assert [(each["line"], each["field"]) for each in told[0]["problems"]] == [
        (1, "responses_create_params"),
        (2, ""),
    ]


def test_collate_blends_each_task_once_and_writes_a_card(tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", "a", "b", "a", "c", "d")
    second = write(tmp_path / "second.jsonl", "x", "b")
    out = tmp_path / "out.jsonl"
    command = ["data", "collate", f"{first}=2", second, "-o", out, "--agent", "tool_agent"]
    assert cli(*command).exit_code == 0
    assert inputs(out) == ["a", "b", "x", "c", "d"]
    assert orjson.loads(out.read_bytes().splitlines()[0])["agent_ref"]["name"] == "tool_agent"
    card = orjson.loads((tmp_path / "out.jsonl.card.json").read_bytes())
    assert (card["rows"], [each["rows_read"] for each in card["sources"]]) == (5, [5, 2])
    with pytest.raises(UsageError, match="--overwrite"):
        cli(*command)
    cli(*command, "--overwrite", "--rows", 2)
    assert inputs(out) == ["a", "b"]
    with pytest.raises(InvalidConfig, match="--profile"):
        cli(*command, "--overwrite", "--min-pass-rate", 0.5)


def test_a_profiled_run_labels_and_selects_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    example = Path(__file__).parents[2] / "environments/arithmetic_tools/data/example.jsonl"
    rows.write_bytes(b"".join(example.read_bytes().splitlines(keepends=True)[:2]))
    run = tmp_path / "run"
    cli("collect", "arithmetic_tools", "-m", "scripted:gold", "-i", rows, "-o", run, "-k", 2)
    out = tmp_path / "out.jsonl"
    command = ["data", "collate", rows, "-o", out, "--profile", run]
    assert "2 rows of 2" in cli(*command).stdout
    labels = [orjson.loads(line)["_ng_profile"] for line in out.read_bytes().splitlines()]
    assert [(each["attempts"], each["band"]) for each in labels] == [(2, "always")] * 2
    with pytest.raises(UsageError, match="no row is left"):
        cli(*command, "--overwrite", "--max-pass-rate", 0.9)
    assert "difficulty: always 2" in cli("data", "stats", out).stdout


def test_stats_print_json_alone_on_stdout(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", "a", "bcd", level=2)
    stats = orjson.loads(cli("data", "stats", rows, "--json").stdout)
    assert (stats["rows"], stats["prompt_characters"]["mean"]) == (2, 2.0)
    assert "level" in cli("data", "stats", rows).stdout


def test_split_writes_all_parts_and_loses_nothing(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *map(str, range(50)))
    folder = tmp_path / "parts"
    cli("data", "split", rows, "-o", folder, "--parts", "train=0.8,validation=0.1,test=0.1")
    parts = {path.stem: inputs(path) for path in folder.glob("*.jsonl")}
    assert {name: len(found) for name, found in parts.items()} == {
        "train": 40,
        "validation": 5,
        "test": 5,
    }
    assert sorted(each for found in parts.values() for each in found) == sorted(map(str, range(50)))
