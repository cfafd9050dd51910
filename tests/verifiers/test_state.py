"""Comparing end states."""

from __future__ import annotations

from gym_adapters.verifiers.state import differences


def test_equal_states_have_no_differences_and_case_counts_only_where_asked() -> None:
    assert differences({"t": [{"name": "Ada"}]}, {"t": [{"name": "ADA"}]}) == []
    assert differences(
        {"t": [{"name": "Ada"}]}, {"t": [{"name": "ADA"}]}, case_sensitive={"name"}
    ) == ["t: row 0: name is 'Ada', not 'ADA'"]


def test_missing_extra_and_changed_rows_are_told_apart() -> None:
    actual = {"t": [{"id": "1"}, {"id": "2"}]}
    assert differences(actual, {"t": [{"id": "1"}]}) == [
        "t: 2 rows, not 1",
        "t: an extra row {'id': '2'}",
    ]
    assert differences({"t": []}, {"t": [{"id": None}]}) == [
        "t: 0 rows, not 1",
        "t: a missing row {'id': None}",
    ]
    assert differences({}, actual, most=1) == ["t: 0 rows, not 2"]


def test_columns_on_either_side_count() -> None:
    assert differences({"t": [{"a": 1, "b": 2}]}, {"t": [{"a": 1}]}) == [
        "t: row 0: b is 2, not None"
    ]
