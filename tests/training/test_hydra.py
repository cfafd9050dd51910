from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from gym_adapters.training.hydra import flat, joined, nearest_problem, override


def test_nested_arguments_become_dotted_keys() -> None:
    nested = {"a": {"b": {"c": 1}, "+d": 2}, "e": {}, "++f": None}
    assert list(flat(nested)) == [("a.b.c", 1), ("+a.d", 2), ("e", {}), ("++f", None)]


def test_the_last_of_a_key_wins_and_stands_once() -> None:
    assert joined(["a=1", "b=1"], ["a=2"]) == ["b=1", "a=2"]
    # What the first adds is not there to be changed by the second.
    assert joined(["+a=1"], ["a=2"]) == ["++a=2"]


def test_the_first_key_that_is_not_there_is_named_with_the_nearest_of_its_section() -> None:
    known = {"actor": {"optim": {"lr": 1}, "clip": 1}, "rollout": {"n": 1}}
    assert nearest_problem(["actor.optim.lr=1", "+actor.new=2", "hydra.run.dir=x"], known) is None
    told = nearest_problem(["actor.optm.lr=1"], known)
    assert told == "there is no key 'actor.optm.lr'. Did you mean 'actor.optim.lr'?"


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    # YAML has 1e-6 for text, and nobody means that.
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).filter(
        lambda text: text.lstrip("+-").isdigit() or not is_number(text)
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_hydra_reads_back_what_was_written(value: Any) -> None:
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    (read,) = parser.OverridesParser.create().parse_overrides([override("key", value)])
    assert plain(read.value()) == value


def plain(value: Any) -> Any:
    """Hydra keeps the quotes of a text beside it."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return getattr(value, "text", value)
