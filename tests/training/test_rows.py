from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gym_adapters import InvalidConfig, Task, load_environment
from gym_adapters.training import Recipe, load_recipe
from gym_adapters.training.rows import main, row_files, settings_of, write_rows


def recipe(trainer: str, *overrides: str) -> Recipe:
    return load_recipe(
        f"{trainer}/grpo",
        ["environments.arithmetic_tools.generate=60", "held_out=0.25", *overrides],
    )


def ids_of(path: Path) -> list[str]:
    task_type = load_environment("arithmetic_tools").environment.task_type
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [task_type.from_row(row).task_id for row in rows]


def test_a_task_is_on_one_side_and_every_task_is_on_one(tmp_path: Path) -> None:
    asked = recipe("trl")
    written = write_rows(asked, tmp_path)
    files = row_files(asked, tmp_path)
    (train_file,), (held_out_file,) = files.train, files.held_out
    train, held_out = ids_of(train_file), ids_of(held_out_file)
    assert written == {train_file: len(train), held_out_file: len(held_out)}
    assert not set(train) & set(held_out)
    environment = load_environment("arithmetic_tools").environment
    made = environment.generate_tasks(60, seed=0, difficulty=0.5)
    assert {*train, *held_out} == {task.task_id for task in made}
    assert 5 <= len(held_out) <= 25


def test_more_tasks_leave_those_there_are_on_their_side(tmp_path: Path) -> None:
    write_rows(recipe("trl"), tmp_path / "few")
    write_rows(recipe("trl", "environments.arithmetic_tools.generate=120"), tmp_path / "many")
    few, many = (set(ids_of(tmp_path / name / "held_out.jsonl")) for name in ("few", "many"))
    assert few & set(ids_of(tmp_path / "many" / "train.jsonl")) == set()
    assert few & many


def test_every_trainer_gets_the_same_tasks_in_its_own_format(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for trainer in ("trl", "verl", "nemo_rl"):
        write_rows(recipe(trainer), tmp_path / trainer)
    expected = ids_of(tmp_path / "trl" / "held_out.jsonl")
    verl = parquet.read_table(tmp_path / "verl" / "held_out.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in verl] == expected
    assert {row["extra_info"]["split"] for row in verl} == {"validation"}
    lines = (tmp_path / "nemo_rl" / "held_out.jsonl").read_bytes().splitlines()
    nemo = [orjson.loads(line) for line in lines]
    assert [row["agent_ref"]["gym_task_id"] for row in nemo] == expected
    assert {row["gym_split"] for row in nemo} == {"validation"}


def test_environments_are_blended_by_weight(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    import pyarrow.parquet as parquet

    asked = load_recipe(
        "verl/grpo_blend",
        [
            "held_out=0",
            "evaluate_every=null",
            "environments={arithmetic_tools: {generate: 40, weight: 3}, calendar: {generate: 40}}",
        ],
    )
    write_rows(asked, tmp_path)
    sources = [
        row["data_source"] for row in parquet.read_table(tmp_path / "train.parquet").to_pylist()
    ]
    assert sources[:8].count("arithmetic_tools") == 6
    assert sources[:8].count("calendar") == 2
    assert sources.count("calendar") == 40


def test_trl_gets_a_file_for_each_environment_as_long_as_its_weight_allows(tmp_path: Path) -> None:
    asked = load_recipe(
        "trl/grpo_blend",
        [
            "held_out=0",
            "evaluate_every=null",
            "environments={arithmetic_tools: {generate: 40, weight: 3}, calendar: {generate: 40}}",
        ],
    )
    written = write_rows(asked, tmp_path)
    assert {path.name: number for path, number in written.items()} == {
        "train.arithmetic_tools.jsonl": 40,
        "train.calendar.jsonl": 13,
    }


def test_a_side_without_tasks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no task left to evaluate on"):
        write_rows(recipe("trl", "environments.arithmetic_tools.generate=2"), tmp_path)


def test_rows_of_a_file_are_taken(tmp_path: Path) -> None:
    environment = load_environment("arithmetic_tools").environment
    tasks: list[Task] = list(environment.generate_tasks(3, seed=1, difficulty=0.0))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(orjson.dumps(task.to_row()) + b"\n" for task in [*tasks, tasks[0]]))
    asked = load_recipe(
        "trl/grpo",
        [
            f"environments={{arithmetic_tools: {{rows: {path}}}}}",
            "held_out=0",
            "evaluate_every=null",
        ],
    )
    write_rows(asked, tmp_path / "data")
    assert ids_of(tmp_path / "data" / "train.jsonl") == [task.task_id for task in tasks]
    assert row_files(asked, tmp_path).held_out == ()


def test_settings_are_written_as_the_registry_reads_them() -> None:
    asked = recipe("trl", "environments.arithmetic_tools.settings={a: 1, b: true, c: [x, 2]}")
    assert settings_of(asked.environments["arithmetic_tools"]) == ["a=1", "b=true", "c=[x, 2]"]


def test_the_command_tells_what_it_wrote_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["trl/grpo", "environments.arithmetic_tools.generate=30", "held_out=0.25"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    assert f"tasks in {tmp_path / 'train.jsonl'}" in capsys.readouterr().out
    assert main(["trl/gpro", "--output", str(tmp_path)]) == 2
    assert "Did you mean 'trl/grpo'?" in capsys.readouterr().err
