from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel
from transformers.utils import get_json_schema

from gym_adapters.adapters.trl.tool_schema import ShownTool, method_of
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tools import Tool


class Place(BaseModel):
    x: int
    y: int


async def go(place: Place, pace: Literal["walk", "run"], times: int = 1) -> str:
    """Go somewhere.

    Args:
        place: Where to.
        pace: How fast.
        times: How often.
    """
    return f"{place} {pace} {times}"


DECLARED = Tool.from_function(go).declaration()


def test_the_model_is_shown_the_environments_own_schema() -> None:
    shown = ShownTool(DECLARED, lambda arguments: "")
    parameters = shown["function"]["parameters"]
    assert shown["type"] == "function"
    assert parameters == DECLARED["parameters"]
    assert parameters["properties"]["pace"]["enum"] == ["walk", "run"]
    assert parameters["$defs"]["Place"]["required"] == ["x", "y"]


def test_a_chat_template_takes_it_as_a_schema() -> None:
    text = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "hi"}],
        tools=[ShownTool(DECLARED, lambda arguments: "")],
        tokenize=False,
    )
    assert "Tools: go(place, pace, times)" in text


def test_it_is_called_with_whatever_the_model_wrote() -> None:
    calls: list[Mapping[str, Any]] = []
    shown = ShownTool(DECLARED, lambda arguments: calls.append(arguments) or "done")  # type: ignore[func-returns-value]
    assert shown(self=1, nonsense=[2]) == "done"
    assert calls == [{"self": 1, "nonsense": [2]}]


def test_the_listed_method_has_name_signature_and_docstring() -> None:
    method = method_of(DECLARED)
    assert method.__name__ == "go"
    assert list(inspect.signature(method).parameters) == ["self", "place", "pace", "times"]
    derived = get_json_schema(method)["function"]
    assert derived["description"] == "Go somewhere."
    assert derived["parameters"]["properties"]["times"]["nullable"] is True
    assert derived["parameters"]["properties"]["pace"]["description"] == "How fast."
