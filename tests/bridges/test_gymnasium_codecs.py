from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium")

from gym_adapters import InvalidEnvironment, ToolError  # noqa: E402
from gym_adapters.bridges.gymnasium_codecs import derived_codec, plain_text  # noqa: E402

spaces = gymnasium.spaces
PLACE = spaces.Dict({"x": spaces.Discrete(3), "v": spaces.Box(-1.0, 1.0, (2,))})
SPACES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-1.0, 1.0, (2, 2)),
    spaces.Box(0, 255, (2,), dtype="uint8"),
    spaces.Text(5),
    PLACE,
    spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,)))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_an_action_written_as_an_observation_is_read_back(space: Any) -> None:
    codec = derived_codec(spaces.Discrete(2), space)
    space.seed(3)
    for _ in range(20):
        action = space.sample()
        read = codec.action(f"I think so.\n{plain_text(action)}" if not is_text(space) else action)
        assert space.contains(read)
        assert plain_text(read) == plain_text(action)


def is_text(space: Any) -> bool:
    return isinstance(space, spaces.Text)


@pytest.mark.parametrize("space", SPACES, ids=str)
@given(text=st.text(max_size=50) | st.sampled_from(["[[", "null", "1e999", "[NaN]", "[" * 9999]))
def test_whatever_a_model_writes_is_an_action_or_told(space: Any, text: str) -> None:
    codec = derived_codec(spaces.Discrete(2), space)
    try:
        action = codec.action(text)
    except ToolError:
        return
    assert space.contains(action)


@pytest.mark.parametrize("text", ["[300, 1]", "[-1, 1]", "[1.5, 1]", "[1]", '{"a": 1}'])
def test_what_does_not_fit_is_not_made_to_fit(text: str) -> None:
    codec = derived_codec(spaces.Discrete(2), spaces.Box(0, 255, (2,), dtype="uint8"))
    with pytest.raises(ToolError, match="a list of 2 numbers from 0 to 255"):
        codec.action(text)


def test_the_model_is_told_what_an_action_is() -> None:
    told = derived_codec(spaces.Discrete(2), PLACE, instructions="Drive.").instructions()
    assert told.splitlines()[0] == "Drive."
    assert '"x": a whole number from 0 to 2' in told
    assert '"v": a list of 2 numbers from -1.0 to 1.0' in told


def test_observations_are_short_json() -> None:
    import numpy as np

    seen = {"x": np.int64(1), "v": np.array([0.123456789, 1.0]), "t": (True, "a")}
    assert plain_text(seen) == '{"x": 1, "v": [0.1235, 1.0], "t": [true, "a"]}'
    assert plain_text("as it is") == "as it is"


def test_a_space_without_text_is_refused() -> None:
    with pytest.raises(InvalidEnvironment, match="Sequence"):
        derived_codec(spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2))
