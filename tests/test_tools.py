"""Tools: schemas from signatures, and every mistake of a model as a result it can read."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from enum import StrEnum
from typing import Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from gym_adapters.errors import InvalidEnvironment, MissingExtra, SandboxError, ToolError
from gym_adapters.tools import Tool, error_result, parse_docstring, tool, tool_mark


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


async def search(
    query: str,
    limit: int = 10,
    colour: Colour | None = None,
    mode: Literal["fast", "exact"] = "fast",
    at: Point | None = None,
    tags: list[str] | None = None,
) -> dict[str, Any]:
    """Look things up, over
    two lines.

    More that the model does not read.

    Args:
        query: What to look for,
            in words.
        limit (int): How many.
        mode: How.

    Returns:
        What it found.
    """
    return {"query": query, "limit": limit, "colour": colour, "mode": mode, "at": at, "tags": tags}


def test_the_declaration_of_a_function() -> None:
    declared = Tool.from_function(search).declaration()
    assert declared["type"] == "function"
    assert declared["name"] == "search"
    assert declared["description"] == "Look things up, over two lines."
    assert declared["strict"] is True
    schema = declared["parameters"]
    assert jsonschema_rs.meta.is_valid(schema)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["query", "limit", "colour", "mode", "at", "tags"]
    properties = schema["properties"]
    assert properties["query"] == {
        "description": "What to look for, in words.",
        "type": "string",
    }
    assert properties["limit"] == {
        "description": "How many. Default: 10.",
        "type": ["integer", "null"],
    }
    assert properties["mode"]["enum"] == ["fast", "exact", None]
    assert schema["$defs"]["Point"]["required"] == ["x", "y"]
    assert schema["$defs"]["Point"]["additionalProperties"] is False
    assert "title" not in json.dumps(schema)


def test_the_schema_takes_what_the_tool_takes() -> None:
    validator = jsonschema_rs.validator_for(dict(Tool.from_function(search).parameters))
    everything = {
        "query": "x",
        "limit": None,
        "colour": "red",
        "mode": None,
        "at": {"x": 1, "y": 2},
        "tags": None,
    }
    assert validator.is_valid(everything)
    assert not validator.is_valid({**everything, "colour": "green"})
    assert not validator.is_valid({**everything, "more": 1})


async def test_null_or_absence_means_the_default() -> None:
    found = Tool.from_function(search)
    expected = {
        "query": "x",
        "limit": 10,
        "colour": None,
        "mode": "fast",
        "at": None,
        "tags": None,
    }
    assert json.loads(await found.call('{"query": "x"}')) == expected
    assert json.loads(await found.call('{"query": "x", "limit": null, "mode": null}')) == expected
    given_all = '{"query":"x","limit":3,"colour":"red","mode":"exact","at":{"x":1},"tags":["a"]}'
    assert json.loads(await found.call(given_all)) == {
        "query": "x",
        "limit": 3,
        "colour": "red",
        "mode": "exact",
        "at": {"x": 1, "y": 0},
        "tags": ["a"],
    }


def reserved(schema: str, copy: int, model_dump: str, json: bool, _private: int = 3) -> list[Any]:
    """Names that pydantic keeps for itself."""
    return [schema, copy, model_dump, json, _private]


async def test_parameters_may_have_any_name() -> None:
    found = Tool.from_function(reserved)
    assert found.declaration()["parameters"]["required"] == [
        "schema",
        "copy",
        "model_dump",
        "json",
        "_private",
    ]
    arguments = '{"schema": "s", "copy": 1, "model_dump": "m", "json": true}'
    assert await found.call(arguments) == '["s",1,"m",true,3]'
    assert read_error(await found.call(arguments[:-1] + ', "argument_0": "s"}')) == (
        "invalid_arguments",
        "argument_0: Extra inputs are not permitted",
    )


def read_error(result: str) -> tuple[str, str]:
    """Type and message of an error result, which has nothing else."""
    error = json.loads(result)
    assert list(error) == ["error"]
    assert sorted(error["error"]) == ["message", "type"]
    return error["error"]["type"], error["error"]["message"]


def add(count: int) -> int:
    """Add."""
    if count == 1:
        raise ToolError("not one")
    if count == 2:
        raise KeyError("two")
    return count


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ("{", "invalid_json", "arguments are not valid JSON"),
        ("[" * 5000, "invalid_json", "arguments are not valid JSON"),
        ('"\ud800"', "invalid_json", "arguments are not valid JSON"),
        ("[1]", "invalid_arguments", "must be a JSON object"),
        ("5", "invalid_arguments", "must be a JSON object"),
        ("{}", "invalid_arguments", "count: Field required"),
        ("", "invalid_arguments", "count: Field required"),
        ('{"count": "abc"}', "invalid_arguments", "count: Input should be a valid integer"),
        ('{"count": 1.5}', "invalid_arguments", "count: Input should be a valid integer"),
        ('{"count": 1, "by": 2}', "invalid_arguments", "by: Extra inputs are not permitted"),
        ('{"count": null}', "invalid_arguments", "count: Input should be a valid integer"),
        ('{"count": 1}', "tool_error", "not one"),
        ('{"count": 2}', "exception", "KeyError: 'two'"),
    ],
)
async def test_what_a_model_gets_wrong_comes_back_in_one_shape(
    arguments: str, kind: str, message: str
) -> None:
    got_kind, got_message = read_error(await Tool.from_function(add).call(arguments))
    assert got_kind == kind
    assert message in got_message


async def test_a_long_list_of_mistakes_is_cut() -> None:
    def total(numbers: list[int]) -> int:
        """Add up."""
        return sum(numbers)

    result = await Tool.from_function(total).call(json.dumps({"numbers": ["x"] * 10_000}))
    assert len(result) < 1000
    assert "and 9995 more" in result


@given(arguments=st.text(st.characters(), max_size=200))
async def test_no_text_makes_a_call_raise(arguments: str) -> None:
    result = await Tool.from_function(add).call(arguments)
    assert result.isdigit() or read_error(result)


async def test_a_rollout_error_is_not_a_result() -> None:
    def down() -> None:
        """Fail."""
        raise SandboxError("down")

    with pytest.raises(SandboxError, match="down"):
        await Tool.from_function(down).call("{}")


async def test_exit_in_a_tool_is_a_result_and_ends_nothing() -> None:
    def parse() -> None:
        """Parse."""
        raise SystemExit(2)

    result = json.loads(await Tool.from_function(parse).call("{}"))
    assert result == {"error": {"type": "exception", "message": "SystemExit: 2"}}


async def test_a_missing_package_is_not_a_result() -> None:
    def search() -> None:
        """Search."""
        raise MissingExtra("verifiers", package="regex", needed_for="search")

    with pytest.raises(MissingExtra):
        await Tool.from_function(search).call("{}")


class Model(BaseModel):
    a: int = 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a":[1,2.5,true]}'),
        ({1: 2}, '{"1":2}'),
        ({3}, "[3]"),
        (Model(), '{"a":1}'),
        (2**70, "1180591620717411303424"),
        ({"name": "é"}, '{"name":"é"}'),
    ],
)
async def test_what_a_tool_returns_reaches_the_model_as_json(value: Any, text: str) -> None:
    def give() -> Any:
        """Give it."""
        return value

    assert await Tool.from_function(give).call("{}") == text


async def test_a_blocking_tool_runs_in_a_thread_and_a_plain_one_does_not() -> None:
    def where() -> bool:
        """Say whether this is the main thread."""
        return threading.current_thread() is threading.main_thread()

    assert await Tool.from_function(where).call("{}") == "true"
    assert await Tool.from_function(where, blocking=True).call("{}") == "false"


def undocumented(a: int) -> None: ...


def unhinted(a) -> None:  # type: ignore[no-untyped-def]
    """Fail."""


def starred(*args: int) -> None:
    """Fail."""


def keywords(**kwargs: int) -> None:
    """Fail."""


def unresolved(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Fail."""


def unfinished(a: "int |") -> None:  # type: ignore[syntax]  # noqa: F722
    """Fail."""


def nonsense(a: 3 + []) -> None:  # type: ignore[valid-type]
    """Fail."""


def positional(a: int, /) -> None:
    """Fail."""


def größe(a: int) -> None:
    """Fail."""


def schemaless(a: threading.Thread) -> None:
    """Fail."""


async def asynchronous() -> None:
    """Fail."""


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (undocumented, "needs a docstring"),
        (unhinted, "parameter a needs a type hint"),
        (starred, r"\*args has no JSON schema"),
        (keywords, r"\*kwargs has no JSON schema"),
        (unresolved, "type hint can't be resolved"),
        (unfinished, "type hint can't be resolved"),
        (nonsense, "type hint can't be resolved"),
        (positional, "a can't be given by name.*take the / out"),
        (größe, "letters without accents"),
        (schemaless, "no JSON schema for its parameters"),
    ],
)
def test_a_function_without_a_schema_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(InvalidEnvironment, match=f"{function.__name__}.*{problem}"):
        Tool.from_function(function)


def test_docstrings_that_python_left_out_are_not_the_authors_fault() -> None:
    program = """
from gym_adapters.errors import InvalidEnvironment
from gym_adapters.tools import Tool

def documented() -> None:
    'Do.'

try:
    Tool.from_function(documented)
except InvalidEnvironment as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-OO", "-B", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "run without -OO" in done.stdout


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, "drop;table"])
def test_a_name_that_no_model_can_call_is_refused(name: str) -> None:
    def fine() -> None:
        """Do."""

    with pytest.raises(InvalidEnvironment, match="1 to 64 letters"):
        Tool.from_function(fine, name=name or " ")


def test_a_name_in_parentheses_is_told_how_to_write_it() -> None:
    with pytest.raises(InvalidEnvironment, match=r'@tool\(name="..."\)'):
        tool("search")  # type: ignore[call-overload]


def test_a_default_of_any_size_is_told_to_the_model() -> None:
    def count(to: int = 2**70, word: str = "é") -> None:
        """Count."""

    properties = Tool.from_function(count).parameters["properties"]
    assert properties["to"]["description"] == f"Default: {2**70}."
    assert properties["word"]["description"] == 'Default: "é".'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\ud800b", "a\ufffdb"),
        ({"a": "\ud800"}, '{"a":"\\ud800"}'),
        ({"a": float("nan")}, '{"a":null}'),
        ({"a": float("nan"), "b": 2**70}, f'{{"a":null,"b":{2**70}}}'),
    ],
)
async def test_a_result_is_text_that_every_tokenizer_takes(value: Any, text: str) -> None:
    def give() -> Any:
        """Give."""
        return value

    said = await Tool.from_function(give).call("{}")
    assert said == text
    said.encode()


def test_an_async_function_cannot_be_blocking() -> None:
    with pytest.raises(InvalidEnvironment, match="can't be blocking"):
        Tool.from_function(asynchronous, blocking=True)


async def test_a_declared_tool_gets_the_arguments_as_they_are() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    declared = Tool.from_declaration(
        {"type": "function", "name": "f", "parameters": parameters}, lambda **given: given
    )
    assert await declared.call('{"a": "x", "b": null}') == '{"a":"x","b":null}'
    assert declared.declaration() == {
        "type": "function",
        "name": "f",
        "description": "",
        "parameters": parameters,
        "strict": False,
    }


def test_the_mark_keeps_the_function_as_it_is() -> None:
    marked = tool(name="other", blocking=True)(add)
    try:
        assert marked is add
        mark = tool_mark(add)
        assert mark is not None
        assert (mark.name, mark.blocking) == ("other", True)
    finally:
        del add.__tool__  # type: ignore[attr-defined]
    assert tool_mark(add) is None


def test_an_error_result_holds_any_text() -> None:
    assert read_error(error_result("tool_error", 'a "b" \n é')) == ("tool_error", 'a "b" \n é')
    assert read_error(error_result("exception", "\ud800"))[1] == "\ud800"


def test_a_docstring_without_arguments() -> None:
    assert parse_docstring("") == ("", {})
    assert parse_docstring("Do it.") == ("Do it.", {})
    assert parse_docstring("Do it.\n\n    Returns:\n        x: y\n") == ("Do it.", {})
