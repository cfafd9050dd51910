"""What the OpenAI-compatible APIs have in common on the wire, and what may go wrong there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from gym_adapters.errors import ModelError
from gym_adapters.generation.chat import ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import FunctionTool, Item

__all__ = ["Reply", "UnreadableReply", "Wire", "decoded", "encoded", "text_of", "whole_number"]


_HALF_OF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


class UnreadableReply(ModelError):
    """The endpoint answered with success and something that is not a turn."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        turn: The turn, as the agent sees it.
        history: The turn, as the next request repeats it: encoded entries.
    """

    turn: ModelTurn
    history: Sequence[bytes] = field(default_factory=list)


class Wire(Protocol):
    """One API's requests and answers. Holds no state."""

    @property
    def path(self) -> str:
        """Path below the base address."""
        ...

    @property
    def history_key(self) -> str:
        """Key of the request that holds the conversation."""
        ...

    def settings(
        self, model: str, tools: Sequence[FunctionTool], sampling: SamplingParams
    ) -> dict[str, Any]:
        """The request without the conversation: the same for all turns of a rollout."""
        ...

    def seed(self, seed: int) -> Mapping[str, Any]:
        """What asks for reproducible sampling; empty where the API has no such thing."""
        ...

    def entries(self, items: Sequence[Item]) -> list[bytes]:
        """Items of the conversation as encoded entries, each of them once in its life."""
        ...

    def reply(self, data: Mapping[str, Any], taken_ids: set[str]) -> Reply:
        """The answer that `data` holds.

        Args:
            data: The decoded body.
            taken_ids: Call ids of earlier turns; ids of this turn are made different and added.

        Raises:
            UnreadableReply: If it holds none.
            ModelError: If it says that generation failed.
        """
        ...


def encoded(value: Any) -> bytes:
    """`value` as JSON; text that UTF-8 can't hold is replaced."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_storable(value))


def decoded(content: bytes) -> Any:
    """The JSON of an answer; halves of surrogate pairs, which JSON may escape, are replaced.

    Raises:
        ValueError: If it is no JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        # This reader is slower, and takes them.
        if _HALF_OF_A_PAIR.search(content) is None:
            raise
        try:
            return _storable(json.loads(content))
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return value


def text_of(value: object) -> str:
    """A text field that may be absent, null, or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(
            part["text"]
            for part in value
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def whole_number(data: object, key: str) -> int:
    """A count of the usage block; 0 where the server does not tell."""
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def unique_call_id(given: object, taken_ids: set[str]) -> str:
    """`given`, unless it is no text or taken: then a new one. Adds it to the taken ones."""
    call_id = given if isinstance(given, str) and given else f"call_{len(taken_ids)}"
    while call_id in taken_ids:
        # Some servers count their ids from 0 in every turn.
        call_id = f"{call_id}_{len(taken_ids)}"
    taken_ids.add(call_id)
    return call_id


def arguments_text(given: object) -> str:
    """Arguments of a call as the text the model wrote, also where a server has parsed them."""
    if isinstance(given, str):
        return given
    return "" if given is None else encoded(given).decode()
