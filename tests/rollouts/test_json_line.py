"""Whatever an environment leaves in a rollout becomes one line that a strict reader can read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from gym_adapters.rollouts.json_line import json_line


class Rude:
    """Raises in its repr."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@dataclass
class Point:
    x: int


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("text", "text"),
        ("\ud800 half", "? half"),
        ({"\udfff": 1}, {"?": 1}),
        (2**70, str(2**70)),
        (float("nan"), None),
        ({1, 2}, [1, 2]),
        ({"a": (1, None, True)}, {"a": [1, None, True]}),
        (Point(3), {"x": 3}),
        (Rude(), "<Rude>"),
        ([Rude(), "\ud800"], ["<Rude>", "?"]),
    ],
)
def test_values_that_json_lacks_become_their_nearest(value: Any, read: Any) -> None:
    assert orjson.loads(json_line({"info": value}))["info"] == read


def test_cycles_and_deep_nesting_end() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    assert "..." in json_line({"info": cycle}).decode()
    assert orjson.loads(json_line({"info": nested(5000)}))


def test_a_line_has_one_newline_at_its_end() -> None:
    assert json_line({"text": "a\nb\u2028"}).count(b"\n") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_any_json_like_value_can_be_written_and_read_by_every_reader(data: Any) -> None:
    line = json_line(data)
    assert line.endswith(b"\n")
    assert orjson.loads(line) == json.loads(line, parse_constant=pytest.fail)
