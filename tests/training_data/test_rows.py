"""Row files: everything wrong with them is told, by file, line, field and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters import InvalidConfig, InvalidRow, load_environment
from gym_adapters.training_data.rows import numbered_rows, row_problems, task_rows, validate_file

GOOD = {"responses_create_params": {"input": "hi"}}


def write(path: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, bytes) else orjson.dumps(row) for row in rows)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_all_problems_of_all_rows_are_told(tmp_path: Path) -> None:
    bad = {
        "responses_create_params": {
            "input": [
                {"role": "user", "content": "x"},
                {"role": "nobody", "content": "x"},
                {"type": "function_call", "name": "f"},
            ],
            "tools": [{"name": "f", "parameters": {}}, {"name": "g"}],
        },
        "agent_ref": "mcqa",
    }
    path = write(tmp_path / "rows.jsonl", GOOD, bad, b"{", b"", [1], {"x": 1}, GOOD)
    report = validate_file(path)
    assert (report.rows, report.bad, report.duplicates, report.more) == (6, 4, 1, 0)
    assert [(each.line, each.field) for each in report.problems] == [
        (2, "responses_create_params.input[1].role"),
        (2, "responses_create_params.input[2].call_id"),
        (2, "responses_create_params.tools[1]"),
        (2, "agent_ref"),
        (3, ""),
        (5, ""),
        (6, "responses_create_params"),
    ]
    assert all(each.fix and each.source == str(path) for each in report.problems)


def test_no_more_problems_are_kept_than_asked_for_but_all_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *[{"x": 1}] * 5)
    report = validate_file(path, limit=2)
    assert (len(report.problems), report.more, report.bad) == (2, 3, 5)


def test_an_environments_own_fields_are_checked_beside_bad_params() -> None:
    entry = load_environment("arithmetic_tools")
    row = {"responses_create_params": {"input": []}, "a": "x", "operator": "+", "b": 1}
    fields = [problem.field for problem in row_problems(row, entry)]
    assert fields == ["responses_create_params.input", "a", "expected_answer"]


def test_good_rows_of_an_environment_have_no_problems() -> None:
    entry = load_environment("arithmetic_tools")
    assert entry.example_path is not None
    assert validate_file(entry.example_path, entry).bad == 0


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra trl")
    datasets.disable_progress_bars()
    rows: list[dict[str, Any]] = [
        {"responses_create_params": {"input": "a", "tools": None}, "options": {"x": 1}},
        {"responses_create_params": {"input": "b", "tools": None}, "options": {"y": 2}},
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    read = [row for _, row in numbered_rows(tmp_path / "rows.parquet")]
    assert read == [
        {"responses_create_params": {"input": "a"}, "options": {"x": 1}},
        {"responses_create_params": {"input": "b"}, "options": {"y": 2}},
    ]


def test_parquet_params_may_be_json_text(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra trl")
    datasets.disable_progress_bars()
    texts = ['{"input": "a"}', "{"]
    table = datasets.Dataset.from_dict({"responses_create_params": texts})
    table.to_parquet(str(tmp_path / "rows.parquet"))
    (_, good), (_, bad) = numbered_rows(tmp_path / "rows.parquet")
    assert good == {"responses_create_params": {"input": "a"}}
    assert isinstance(bad, InvalidRow)
    assert (bad.field, bad.line) == ("responses_create_params", 2)


def test_task_rows_name_the_line_of_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, {"x": 1})
    with pytest.raises(InvalidRow, match=r"rows\.jsonl:2: "):
        list(task_rows(path))


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="there is no file"):
        numbered_rows(tmp_path / "none.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "responses_create_params": JSON
            | st.fixed_dictionaries({}, optional={"input": JSON, "tools": JSON}),
            "agent_ref": JSON,
        },
    )
)
def test_any_json_gets_a_verdict_that_agrees_with_the_task(row: dict[str, Any]) -> None:
    from gym_adapters import Task

    problems = row_problems(row)
    params_bad = any(each.field.startswith("responses_create_params") for each in problems)
    try:
        Task.from_row(row)
    except InvalidRow:
        assert params_bad
    else:
        assert not params_bad


def test_tools_that_an_environment_does_not_have_are_told() -> None:
    entry = load_environment("arithmetic_tools")
    assert entry.example_path is not None
    row = next(row for _, row in numbered_rows(entry.example_path) if isinstance(row, dict))
    declared = [{"type": "function", "name": "whisper", "parameters": {}}]
    row["responses_create_params"] = {"input": "1 + 1?", "tools": declared}
    assert [problem.field for problem in row_problems(row, entry)] == [
        "responses_create_params.tools"
    ]
