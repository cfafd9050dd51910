"""Tools: what a model may call, with a strict JSON schema made from type hints and the docstring.

A tool is a method of an `Environment` marked ``@tool``. Its schema is strict (every property is
required, no others are allowed); a parameter with a default is shown as nullable, and ``null`` or
its absence means the default.

Whatever a model gets wrong comes back to it as a result of one shape::

    {"error": {"type": "invalid_arguments", "message": "count: Input should be a valid integer"}}

`type` is one of ``invalid_json``, ``invalid_arguments``, ``unknown_tool``, ``tool_error`` (the tool
raised `ToolError`) and ``exception`` (it raised anything else).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints, overload

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python

from gym_adapters.errors import InvalidEnvironment, RolloutError, ToolError, UsageError
from gym_adapters.items import FunctionTool, valid_text

__all__ = ["Tool", "error_result", "tool"]

ErrorType = Literal["invalid_json", "invalid_arguments", "unknown_tool", "tool_error", "exception"]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
MOST_PROBLEMS_TOLD = 5
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def error_result(kind: ErrorType, text: str) -> str:
    """The JSON text a model reads when a call went wrong."""
    return _json_text({"error": {"type": kind, "message": text}})


@dataclass(frozen=True, slots=True)
class Tool:
    """A function a model may call.

    Attributes:
        name: What the model calls it.
        description: What the model reads about it.
        parameters: JSON schema of its arguments.
        function: Called with the arguments by keyword; may be async.
        arguments_model: Validates the arguments; ``None`` passes the parsed object as it is.
        blocking: Run a plain function in a thread, because it may block.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]
    arguments_model: type[BaseModel] | None = None
    blocking: bool = False
    nullable: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_function(
        cls, function: Callable[..., Any], *, name: str | None = None, blocking: bool = False
    ) -> Tool:
        """A tool from a function's signature, type hints and Google-style docstring.

        Raises:
            InvalidEnvironment: If the name is none that a model can call, a parameter can't be
                given by name or has no type hint, a hint has no JSON schema, or the docstring does
                not say what the tool does.
        """
        return _from_function(function, name or function.__name__, blocking)

    @classmethod
    def from_declaration(cls, declaration: FunctionTool, function: Callable[..., Any]) -> Tool:
        """A tool declared by a row or a remote server; `function` gets the arguments by keyword."""
        return cls(
            name=declaration["name"],
            description=declaration.get("description") or "",
            parameters=declaration["parameters"],
            function=function,
        )

    def declaration(self) -> FunctionTool:
        """The tool as the Responses API declares it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
            "strict": self.arguments_model is not None,
        }

    async def call(self, arguments: str) -> str:
        """Run the tool on the JSON text a model wrote; whatever the model got wrong is the result.

        Raises:
            RolloutError: If the tool raised one: the failure is not the model's.
            UsageError: If the tool raised one: nor is a missing package, say.
        """
        try:
            parsed = orjson.loads(arguments) if arguments.strip() else {}
        except orjson.JSONDecodeError as error:
            return error_result("invalid_json", f"arguments are not valid JSON: {error}")
        if not isinstance(parsed, dict):
            return error_result("invalid_arguments", "arguments must be a JSON object")
        try:
            keywords = self._validated(parsed)
        except ValidationError as error:
            return error_result("invalid_arguments", _validation_text(error))
        try:
            result = await self._run(keywords)
        except ToolError as error:
            return error_result("tool_error", str(error))
        except (RolloutError, UsageError):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model reads what it broke
            return error_result("exception", f"{type(error).__name__}: {error}")
        return valid_text(result) if isinstance(result, str) else _json_text(result)

    def _validated(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.arguments_model is None:
            return arguments
        given = {k: v for k, v in arguments.items() if not (v is None and k in self.nullable)}
        model = self.arguments_model.model_validate(given)
        return {
            spec.alias or attribute: getattr(model, attribute)
            for attribute, spec in type(model).model_fields.items()
        }

    async def _run(self, keywords: dict[str, Any]) -> Any:
        if self.blocking:
            import asyncio  # costs more to import than all of this module; most tools don't block

            return await asyncio.to_thread(self.function, **keywords)
        result = self.function(**keywords)
        return await result if isinstance(result, Awaitable) else result


@dataclass(frozen=True, slots=True)
class ToolMark:
    """What ``@tool`` leaves on a method."""

    name: str | None
    blocking: bool


@overload
def tool(function: FunctionT, /) -> FunctionT: ...
@overload
def tool(
    *, name: str | None = None, blocking: bool = False
) -> Callable[[FunctionT], FunctionT]: ...
def tool(
    function: FunctionT | None = None, /, *, name: str | None = None, blocking: bool = False
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Mark a method of an `Environment` as a tool.

    The first paragraph of its docstring is the tool's description, the ``Args:`` section describes
    the parameters, type hints give the schema. It may return anything JSON can hold; a string
    reaches the model as it is. Raise `ToolError` to tell the model why a call can't be done.

    Args:
        function: The method, when used without parentheses.
        name: What the model calls it, by default the method's name.
        blocking: Set it for a plain function that may block; it then runs in a thread.
    """

    def mark(target: FunctionT) -> FunctionT:
        if isinstance(target, property):
            raise InvalidEnvironment("a tool must be a method of the instance, not a property")
        if not callable(target) and not isinstance(target, classmethod):
            raise InvalidEnvironment(
                f'@tool({target!r}) marks nothing. Fix: name a tool with @tool(name="...")'
            )
        target.__tool__ = ToolMark(name, blocking)  # type: ignore[attr-defined]
        return target

    return mark if function is None else mark(function)


def tool_mark(member: object) -> ToolMark | None:
    """The mark that ``@tool`` left on `member`, if any."""
    mark = getattr(member, "__tool__", None)
    return mark if isinstance(mark, ToolMark) else None


def _no_docstring(name: str) -> str:
    if sys.flags.optimize > 1:
        return (
            f"tool {name} has no docstring: python -OO leaves them out, and models read them. "
            "Fix: run without -OO and PYTHONOPTIMIZE=2"
        )
    return f"tool {name} needs a docstring: its first paragraph is what the model reads"


def _from_function(function: Callable[..., Any], name: str, blocking: bool) -> Tool:
    if not _NAME.fullmatch(name):
        raise InvalidEnvironment(
            f"tool {name!r}: a name is 1 to 64 letters without accents, digits, _ and -. "
            'Fix: give it another with @tool(name="...")'
        )
    if blocking and inspect.iscoroutinefunction(function):
        raise InvalidEnvironment(f"tool {name}: an async function can't be blocking=True")
    description, argument_docs = parse_docstring(function.__doc__ or "")
    if not description:
        raise InvalidEnvironment(_no_docstring(name))
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:
        # Hints are code, and written as text they are run here: they may fail in any way.
        raise InvalidEnvironment(
            f"tool {name}: a type hint can't be resolved ({type(error).__name__}: {error}); "
            "import it at module level, or correct it"
        ) from error
    fields: dict[str, Any] = {}
    nullable = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidEnvironment(f"tool {name}: *{parameter.name} has no JSON schema")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidEnvironment(
                f"tool {name}: {parameter.name} can't be given by name, and models give all "
                "arguments so. Fix: take the / out of the signature"
            )
        if parameter.name not in hints:
            raise InvalidEnvironment(f"tool {name}: parameter {parameter.name} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        if default is not ...:
            nullable.add(parameter.name)
        text = argument_docs.get(parameter.name, "")
        # The name is an alias, because pydantic reserves some: schema, copy, model_*, _private.
        fields[f"argument_{len(fields)}"] = (
            hints[parameter.name],
            Field(default, alias=parameter.name, description=text),
        )
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        parameters = strict_schema(model.model_json_schema(), frozenset(nullable))
    except PydanticUserError as error:
        raise InvalidEnvironment(
            f"tool {name}: no JSON schema for its parameters: {error}"
        ) from error
    return Tool(name, description, parameters, function, model, blocking, frozenset(nullable))


def strict_schema(schema: dict[str, Any], nullable: frozenset[str]) -> dict[str, Any]:
    """`schema` as OpenAI's strict mode wants it: all properties required, no others allowed."""
    closed = _closed(schema)
    properties = closed.get("properties", {})
    for name in nullable & properties.keys():
        properties[name] = _or_null(properties[name])
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **({"$defs": closed["$defs"]} if "$defs" in closed else {}),
    }


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(child) for child in node]
    if not isinstance(node, dict):
        return node
    # "title" is pydantic's own decoration, but a property may be called title.
    closed = {
        key: {name: _closed(child) for name, child in value.items()}
        if key in ("properties", "$defs")
        else _closed(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }
    if closed.get("type") == "object" and "properties" in closed:
        closed["required"] = list(closed["properties"])
        closed["additionalProperties"] = False
    return closed


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    default = schema.pop("default", None)
    if default is not None:
        note = f"Default: {json.dumps(default, ensure_ascii=False)}."
        schema["description"] = f"{schema.get('description', '')} {note}".strip()
    if isinstance(kind := schema.get("type"), str):
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return {**schema, "type": [kind, "null"]}
    if "anyOf" in schema:
        has_null = {"type": "null"} in schema["anyOf"]
        return schema if has_null else {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    text = schema.pop("description", "")
    return {"anyOf": [schema, {"type": "null"}], **({"description": text} if text else {})}


_ARGUMENT = re.compile(r"^(\w+)(?: \([^)]*\))?:\s*(.*)$")


def parse_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """First paragraph and the ``Args:`` section of a Google-style docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    summary: list[str] = []
    for line in lines:
        if not line.strip():
            break
        summary.append(line.strip())
    arguments: dict[str, str] = {}
    current = ""
    in_section = False
    indent = 0
    for line in lines:
        if line.strip() in ("Args:", "Arguments:"):
            in_section, indent = True, 0
            continue
        if not in_section or not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            in_section = False
            continue
        indent = indent or depth
        match = _ARGUMENT.match(line.strip()) if depth == indent else None
        if match:
            current = match[1]
            arguments[current] = match[2]
        elif current:
            arguments[current] = f"{arguments[current]} {line.strip()}".strip()
    return " ".join(summary), arguments


def _validation_text(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    told = "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}"
        for problem in problems[:MOST_PROBLEMS_TOLD]
    )
    more = len(problems) - MOST_PROBLEMS_TOLD
    return f"{told}; and {more} more" if more > 0 else told


def _json_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # Besides sets, models and the like, orjson refuses what a model's own arguments can add up
        # to: integers of more than 64 bits, halves of surrogate pairs.
        plain = to_jsonable_python(value, inf_nan_mode="null")
        return json.dumps(plain, separators=(",", ":"))
