"""Where tasks come from, and what is said when they can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from gym_adapters import Environment, EnvironmentEntry, InvalidConfig, InvalidRow, Task, tool
from gym_adapters.rollouts.task_input import TaskInput


class WordTask(Task):
    """Say `word`."""

    word: str


class Say(Environment[WordTask]):
    """Says."""

    @tool
    async def shout(self) -> str:
        """Shout."""
        return "!"

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[WordTask]:
        for number in range(count):
            yield WordTask.from_row(row(f"{seed}-{difficulty}-{number}"))


def row(word: str) -> dict[str, object]:
    return {"responses_create_params": {"input": word}, "word": word}


def write(path: Path, *rows: object) -> Path:
    path.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in rows))
    return path


@pytest.fixture
def entry(tmp_path: Path) -> EnvironmentEntry:
    return EnvironmentEntry("say", Say, tmp_path)


def words(tasks: TaskInput) -> list[str]:
    return [task.to_row()["word"] for task in tasks()]


def test_rows_of_a_file_in_order_and_up_to_a_limit(entry: EnvironmentEntry, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row("a"), row("b"), row("c"))
    assert words(TaskInput(entry, path)) == ["a", "b", "c"]
    assert words(TaskInput(entry, path, limit=2)) == ["a", "b"]
    assert TaskInput(entry, path, limit=2).count() == 2
    assert TaskInput(entry, path, limit=9).count() == 3


def test_examples_are_the_default(entry: EnvironmentEntry, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"--input.*--num-tasks"):
        TaskInput(entry)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "example.jsonl", row("example"))
    assert words(TaskInput(entry)) == ["example"]


def test_generated_tasks_are_the_same_each_time(entry: EnvironmentEntry) -> None:
    tasks = TaskInput(entry, generate=2, difficulty=1.0, seed=7)
    assert words(tasks) == words(tasks) == ["7-1.0-0", "7-1.0-1"]
    assert tasks.description == "generated: 2, difficulty 1.0, seed 7"
    assert TaskInput(entry, generate=2, limit=1).description.endswith(", the first 1 of them")


def test_senseless_inputs_are_refused(entry: EnvironmentEntry, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row("a"))
    with pytest.raises(InvalidConfig, match="not both"):
        TaskInput(entry, path, generate=1)
    with pytest.raises(InvalidConfig, match="there is no file"):
        TaskInput(entry, tmp_path / "absent.jsonl")
    with pytest.raises(InvalidConfig, match="at least 1, not 0"):
        TaskInput(entry, path, limit=0)
    with pytest.raises(InvalidConfig, match="there are no tasks"):
        TaskInput(entry, write(tmp_path / "empty.jsonl")).count()


def test_counting_finds_a_bad_row_before_anything_runs(
    entry: EnvironmentEntry, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", row("a"), {"responses_create_params": {"input": "b"}})
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:2: field 'word'"):
        TaskInput(entry, path).count()


def test_what_is_no_file_of_rows_is_told_from_one_that_is_absent(
    entry: EnvironmentEntry, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match=r"is a folder, not a file of rows.*one JSON object"):
        TaskInput(entry, path=tmp_path)
    for name in ("rows.jsonl.gz", "rows.parquet"):
        path = tmp_path / name
        path.write_bytes(b"\x1f\x8b")
        with pytest.raises(InvalidConfig, match=f"rows are not read from {path.suffix} files"):
            TaskInput(entry, path=path)
    with pytest.raises(InvalidConfig, match=r"there is no file .*absent\.jsonl"):
        TaskInput(entry, path=tmp_path / "absent.jsonl")
