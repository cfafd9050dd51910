"""Tools in the two shapes TRL wants them: a method it can list, and a schema it can show."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gym_adapters.items import FunctionTool
from gym_adapters.tokens.chat_messages import template_tools

__all__ = ["ShownTool", "method_of"]

_TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


class ShownTool(dict[str, Any]):
    """A tool that is its own schema.

    Chat templates read the dict: the very schema of the environment, where one derived from a
    signature would lose enums, bounds and nested properties. TRL calls it with the arguments.

    Args:
        tool: The declaration.
        call: Runs it on the arguments and gives the result as the model reads it.
    """

    def __init__(self, tool: FunctionTool, call: Callable[[Mapping[str, Any]], str]) -> None:
        shown = template_tools([tool]) or []
        super().__init__(shown[0])
        self.__name__ = tool["name"]
        self._call = call

    def __call__(self, /, **arguments: Any) -> str:
        """Run the tool; what the model got wrong is its result."""
        return self._call(arguments)


def method_of(tool: FunctionTool) -> Callable[..., str]:
    """A method of the tool's name, signature and docstring, by which TRL finds the tool.

    TRL lists the functions of an instance's class, and then takes what the instance holds under
    their names: there, a `ShownTool`.
    """

    def method(self: object, /, **arguments: Any) -> str:
        shown: ShownTool = vars(self)[tool["name"]]
        return shown(**arguments)

    properties: Mapping[str, Any] = tool["parameters"].get("properties", {})
    hints = {name: _hint(schema) for name, schema in properties.items()}
    method.__name__ = method.__qualname__ = tool["name"]
    method.__doc__ = _docstring(tool, properties)
    method.__annotations__ = {**hints, "return": str}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint)
        for name, hint in hints.items()
        if name.isidentifier()
    ]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [first, *keywords], return_annotation=str
    )
    return method


def _hint(schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else list(kind or ())
    hint: Any = next((_TYPES[name] for name in kinds if name in _TYPES), Any)
    return hint | None if "null" in kinds and hint is not Any else hint


def _docstring(tool: FunctionTool, properties: Mapping[str, Any]) -> str:
    lines = [tool.get("description") or tool["name"]]
    if properties:
        lines += ["", "Args:"]
        lines += [
            f"    {name}: {schema.get('description') or name}"
            for name, schema in properties.items()
        ]
    return "\n".join(lines)
