"""What stands between gymnasium's spaces and text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gym_adapters.errors import InvalidEnvironment, ToolError
from gym_adapters.extras import require

gymnasium = require("gymnasium", "gymnasium", "the gymnasium bridge")

__all__ = ["DiscreteCodec", "JsonCodec", "SpokenCodec", "TextCodec", "derived_codec", "plain_text"]

LONGEST_ACTION = 100_000


class TextCodec(Protocol):
    """What stands between a gymnasium environment and a language model."""

    def instructions(self) -> str:
        """What the model is told first, before the first observation."""
        ...

    def observation_text(self, observation: Any) -> str:
        """An observation as the model reads it."""
        ...

    def action(self, text: str) -> Any:
        """The action that the model's message asks for.

        Raises:
            ToolError: If it asks for none; the model reads why, and the environment takes no step.
        """
        ...


class DiscreteCodec:
    """Names for the actions of a discrete space; the model's last word that is a name counts.

    Args:
        names: A name for each action, in order.
        instructions: What the model is told first.
        observation_text: Writes an observation; by default ``str``.
        first: Number of the first action.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        instructions: str,
        observation_text: Callable[[Any], str] = str,
        first: int = 0,
    ) -> None:
        self._actions = {name.casefold(): index for index, name in enumerate(names, start=first)}
        self._names, self._instructions = tuple(names), instructions
        self._observation_text = observation_text

    def instructions(self) -> str:
        """What the model is told first, and the names."""
        return f"{self._instructions}\nAnswer with one of: {', '.join(self._names)}.".strip()

    def observation_text(self, observation: Any) -> str:
        """The observation as text."""
        return self._observation_text(observation)

    def action(self, text: str) -> int:
        """The index of the last name in `text`."""
        for word in reversed(text.casefold().split()):
            if (index := self._actions.get(word.strip(".,;:!?\"'`*()[]"))) is not None:
                return index
        raise ToolError(f"answer with one of: {', '.join(self._names)}")


class JsonCodec:
    """Actions of any space, as the JSON value that the model's message ends with.

    Args:
        space: Of the actions.
        instructions: What the model is told first.
    """

    def __init__(self, space: Any, *, instructions: str = "") -> None:
        self._space, self._instructions = space, instructions

    def instructions(self) -> str:
        """What the model is told first, and what an action looks like."""
        told = f"Answer with an action as JSON in the last line: {_described(self._space)}."
        return f"{self._instructions}\n{told}".strip()

    def observation_text(self, observation: Any) -> str:
        """The observation as JSON, or as the text that it is."""
        return plain_text(observation)

    def action(self, text: str) -> Any:
        """The action in the last line of `text`."""
        line = text.strip().rpartition("\n")[2][:LONGEST_ACTION].strip("` ")
        try:
            action = _of_space(json.loads(line), self._space)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            action = None
        if action is None or not self._space.contains(action):
            raise ToolError(self.instructions().rpartition("\n")[2])
        return action


class SpokenCodec(JsonCodec):
    """Actions that are text: the model's message itself."""

    def instructions(self) -> str:
        """What the model is told first."""
        return self._instructions

    def action(self, text: str) -> str:
        """The message, where the space has it."""
        said = text.strip()
        if not self._space.contains(said):
            raise ToolError(f"answer with {_described(self._space)}")
        return said


def derived_codec(observations: Any, actions: Any, *, instructions: str = "") -> TextCodec:
    """A codec for an environment with these spaces.

    A few discrete actions go by their numbers, text is said as it is, and all else is JSON.

    Args:
        observations: Space of the observations.
        actions: Space of the actions.
        instructions: What the model is told first.

    Raises:
        InvalidEnvironment: If a space holds what has no text: graphs, say, or sequences.
    """
    spaces = gymnasium.spaces
    for space in (observations, actions):
        _check_has_text(space)
    if isinstance(actions, spaces.Discrete):
        first, count = int(actions.start), int(actions.n)
        names = [str(number) for number in range(first, first + count)]
        return DiscreteCodec(
            names, instructions=instructions, observation_text=plain_text, first=first
        )
    if isinstance(actions, spaces.Text):
        return SpokenCodec(actions, instructions=instructions)
    return JsonCodec(actions, instructions=instructions)


def plain_text(observation: Any) -> str:
    """An observation as JSON, its numbers rounded to 4 digits; text as it is."""
    plain = _plain(observation)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def _check_has_text(space: Any) -> None:
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Tuple):
        for each in space.spaces:
            _check_has_text(each)
    elif isinstance(space, spaces.Dict):
        for each in space.spaces.values():
            _check_has_text(each)
    elif not isinstance(space, _simple()):
        raise InvalidEnvironment(
            f"no codec can be derived for {type(space).__name__}: write a TextCodec"
        )


def _simple() -> tuple[Any, ...]:
    spaces = gymnasium.spaces
    return (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box, spaces.Text)


def _of_space(value: Any, space: Any) -> Any:
    """A parsed JSON value as the space holds its own."""
    import numpy as np

    spaces = gymnasium.spaces
    if isinstance(space, spaces.Tuple):
        if len(value) != len(space.spaces):
            raise ValueError(value)
        return tuple(_of_space(v, each) for v, each in zip(value, space.spaces, strict=True))
    if isinstance(space, spaces.Dict):
        return {key: _of_space(value[key], each) for key, each in space.spaces.items()}
    if isinstance(space, spaces.Discrete | spaces.Text):
        if isinstance(value, bool | float):
            raise TypeError(value)
        return value
    given = np.asarray(value)
    if given.dtype.kind not in "iuf" or (given.dtype.kind == "f" and space.dtype.kind != "f"):
        raise TypeError(value)
    # What does not fit into the type must not wrap around into one that does.
    if space.dtype.kind in "iu":
        limits = np.iinfo(space.dtype)
        if given.size and (given.min() < limits.min or given.max() > limits.max):
            raise ValueError(value)
    return given.astype(space.dtype)


def _described(space: Any) -> str:
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Dict):
        inner = ", ".join(f'"{key}": {_described(each)}' for key, each in space.spaces.items())
        return f"{{{inner}}}"
    if isinstance(space, spaces.Tuple):
        return f"[{', '.join(map(_described, space.spaces))}]"
    if isinstance(space, spaces.Discrete):
        return f"a whole number from {space.start} to {space.start + space.n - 1}"
    if isinstance(space, spaces.MultiDiscrete):
        counts = ", ".join(str(int(n) - 1) for n in space.nvec.flatten())
        return f"a list of whole numbers from 0 up to {counts}"
    if isinstance(space, spaces.MultiBinary):
        return f"a list of {space.n} numbers, each 0 or 1"
    if isinstance(space, spaces.Text):
        return f"text of {space.min_length} to {space.max_length} characters"
    shape = " by ".join(map(str, space.shape)) or "single"
    low, high = plain_text(space.low.min()), plain_text(space.high.max())
    return f"a list of {shape} numbers from {low} to {high}"
