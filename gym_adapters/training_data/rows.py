"""Task rows from JSONL and Parquet files, and everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.extras import require
from gym_adapters.items import check_items
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.task import Task, check_params, json_row
from gym_adapters.training_data.id_set import IdSet

__all__ = ["FileReport", "Row", "numbered_rows", "row_problems", "task_rows", "validate_file"]

Row = dict[str, Any]
PARAMS = "responses_create_params"
PARQUET_BATCH = 256


@dataclass(slots=True)
class FileReport:
    """What is in a file of rows.

    Attributes:
        path: The file.
        rows: Number of rows, the bad ones included.
        bad: Rows with at least one problem.
        duplicates: Rows whose task an earlier row has.
        problems: The problems, at most as many as were asked for.
        more: Problems beyond those.
    """

    path: Path
    rows: int = 0
    bad: int = 0
    duplicates: int = 0
    problems: list[InvalidRow] = field(default_factory=list)
    more: int = 0


def numbered_rows(path: Path) -> Iterator[tuple[int, Row | InvalidRow]]:
    """The rows of a file with their 1-based numbers; one that can't be read comes as its error.

    ``.parquet`` is read in batches: nested fields that are null are left out there, since Parquet
    gives every row the fields of all the others, and a text in ``responses_create_params`` is read
    as JSON. Every other file is read as JSONL; numbers are then those of its lines.

    Raises:
        InvalidConfig: If there is no such file.
        MissingExtra: For Parquet, without datasets.
    """
    if not path.is_file():
        raise InvalidConfig(f"there is no file {path}")
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def task_rows(path: Path) -> Iterator[tuple[int, Row, str]]:
    """Number, row and task id of each row of a file.

    Raises:
        InvalidRow: If a row is no JSON object or has no usable ``responses_create_params``.
        InvalidConfig: If there is no such file.
    """
    for number, row in numbered_rows(path):
        if isinstance(row, InvalidRow):
            raise row
        yield number, row, Task.from_row(row, source=str(path), line=number).task_id


def validate_file(
    path: Path, entry: EnvironmentEntry | None = None, *, limit: int = 100
) -> FileReport:
    """Check every row of a file, and go on after a bad one.

    Args:
        path: The file.
        entry: The environment the rows are for; without, only what all rows share is checked.
        limit: Most problems to keep.

    Raises:
        InvalidConfig: If there is no such file.
    """
    report = FileReport(path)
    seen = IdSet()
    for number, row in numbered_rows(path):
        report.rows += 1
        problems = [row] if isinstance(row, InvalidRow) else row_problems(row, entry)
        if problems:
            report.bad += 1
            room = max(limit - len(report.problems), 0)
            report.problems += [problem.at(str(path), number) for problem in problems[:room]]
            report.more += max(len(problems) - room, 0)
        elif not isinstance(row, InvalidRow):
            report.duplicates += not seen.add(Task.from_row(row).task_id)
    return report


def row_problems(row: Mapping[str, Any], entry: EnvironmentEntry | None = None) -> list[InvalidRow]:
    """All that is wrong with a row, each with its field and fix."""
    problems = [*_params_problems(row), *_agent_problems(row)]
    if entry is None:
        return problems
    # With good params, what the environment's own fields lack is told too.
    params = {"input": "-"} if problems else row[PARAMS]
    try:
        task = entry.environment.task_type.model_validate({**row, PARAMS: params})
    except ValidationError as error:
        return problems + _field_problems(error, entry.environment.task_type)
    except InvalidRow as error:
        return [*problems, error]
    if not problems:
        try:
            entry.environment(task, config=entry.config()).available_tools()
        except InvalidRow as error:
            problems.append(error)
        except Exception:  # noqa: BLE001 - tools that are made in start() can't be asked for here
            return problems
    return problems


def _params_problems(row: Mapping[str, Any]) -> Iterator[InvalidRow]:
    params = row.get(PARAMS)
    if not isinstance(params, dict):
        yield InvalidRow(
            "the field is missing." if PARAMS not in row else "it must be an object.",
            field=PARAMS,
            fix='add "responses_create_params": {"input": [{"role": "user", "content": "..."}]}.',
        )
        return
    given = params.get("input")
    if isinstance(given, list) and given:
        for position, item in enumerate(given):
            try:
                check_items([item], f"{PARAMS}.input")
            except InvalidRow as error:
                yield _moved(error, f"{PARAMS}.input", position)
    else:
        yield from _problem_of({key: value for key, value in params.items() if key == "input"})
    tools = params.get("tools")
    if isinstance(tools, list):
        for position, declared in enumerate(tools):
            for problem in _problem_of({"input": "-", "tools": [declared]}):
                yield _moved(problem, f"{PARAMS}.tools", position)
    else:
        yield from _problem_of({"input": "-", "tools": tools})


def _problem_of(params: dict[str, Any]) -> list[InvalidRow]:
    try:
        check_params(params)
    except InvalidRow as error:
        return [error]
    return []


def _moved(error: InvalidRow, field_name: str, position: int) -> InvalidRow:
    """The error of the first item of a list, told of the item at `position`."""
    moved = error.field.replace(f"{field_name}[0]", f"{field_name}[{position}]", 1)
    return InvalidRow(error.problem, field=moved, fix=error.fix)


def _agent_problems(row: Mapping[str, Any]) -> Iterator[InvalidRow]:
    agent = row.get("agent_ref")
    if agent is not None and not (isinstance(agent, dict) and isinstance(agent.get("name"), str)):
        yield InvalidRow(
            "an agent is named by type and name.",
            field="agent_ref",
            fix='write {"type": "responses_api_agents", "name": "..."}.',
        )


def _field_problems(error: ValidationError, task_type: type[Task]) -> list[InvalidRow]:
    return [
        InvalidRow(
            "the field is missing." if problem["type"] == "missing" else f"{problem['msg']}.",
            field=".".join(map(str, problem["loc"])),
            fix=f"give it as {task_type.__name__} declares it.",
        )
        for problem in error.errors(include_url=False, include_input=False)
    ]


def _json_rows(path: Path) -> Iterator[tuple[int, Row | InvalidRow]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parsed(line, str(path), number)


def _parsed(line: bytes | str, source: str, number: int) -> Row | InvalidRow:
    try:
        return json_row(line if isinstance(line, bytes) else line.encode())
    except InvalidRow as error:
        return error.at(source, number)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row | InvalidRow]]:
    require("datasets", "trl", "reading Parquet")  # it brings pyarrow
    parquet = import_module("pyarrow.parquet")
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=PARQUET_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, _from_columns(row, str(path), number)


def _from_columns(row: Row, source: str, number: int) -> Row | InvalidRow:
    kept = {key: _without_nulls(value) for key, value in row.items() if value is not None}
    params = kept.get(PARAMS)
    if isinstance(params, str):
        read = _parsed(params, source, number)
        if isinstance(read, InvalidRow):
            return InvalidRow(
                read.problem, field=PARAMS, fix="write it as JSON.", source=source, line=number
            )
        kept[PARAMS] = read
    return kept


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
