"""Tasks: what an environment is asked to do, one JSON row each, in NeMo Gym's row format.

A row holds ``responses_create_params`` (OpenAI Responses ``input``, ``tools`` and sampling) beside
the environment's own fields. Fields nobody declared are kept and written back untouched.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Self, cast

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import to_jsonable_python

from gym_adapters.errors import InvalidRow
from gym_adapters.items import FunctionTool, Item, check_items, input_items, message

__all__ = ["ResponsesCreateParams", "Task", "json_row", "read_rows", "rows_of"]

# Keys that say where a row stands in a run, not what the task is.
_BOOKKEEPING = ("agent_ref", "skills_ref")


def check_params(params: dict[str, Any]) -> dict[str, Any]:
    """Refuse ``responses_create_params`` that can't start a conversation."""
    if "input" not in params:
        raise InvalidRow(
            "there is no input to start from.",
            field="responses_create_params.input",
            fix='add "input": "..." or a list of messages.',
        )
    if not isinstance(params["input"], str):
        if not isinstance(params["input"], list) or not params["input"]:
            raise InvalidRow(
                "the input must be text or a list of at least one item.",
                field="responses_create_params.input",
                fix='write "input": [{"role": "user", "content": "..."}].',
            )
        check_items(params["input"], "responses_create_params.input")
    instructions = params.get("instructions")
    if not isinstance(instructions, str | None):
        raise InvalidRow(
            f"the instructions must be text, not {type(instructions).__name__}.",
            field="responses_create_params.instructions",
            fix="give them as a string, or leave them out.",
        )
    tools = params.get("tools")
    if not isinstance(tools, list | None):
        raise InvalidRow(
            f"the tools must be a list, not {type(tools).__name__}.",
            field="responses_create_params.tools",
            fix="write a list of function tools, or leave it out.",
        )
    for index, declared in enumerate(tools or ()):
        well_formed = (
            isinstance(declared, dict)
            and isinstance(declared.get("name"), str)
            and isinstance(declared.get("parameters"), dict)
        )
        if not well_formed:
            raise InvalidRow(
                "a tool needs a name and parameters (a JSON schema).",
                field=f"responses_create_params.tools[{index}]",
                fix='write {"type": "function", "name": "...", "parameters": {...}}.',
            )
    return params


ResponsesCreateParams = Annotated[dict[str, Any], AfterValidator(check_params)]


class Task(BaseModel):
    """One row. Subclass it to declare the fields your environment reads.

    Attributes:
        responses_create_params: OpenAI Responses create params: ``input``, ``tools``, sampling.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    responses_create_params: ResponsesCreateParams
    _row: Mapping[str, Any] | None = PrivateAttr(default=None)

    @classmethod
    def from_row(
        cls, row: Mapping[str, Any], *, source: str | None = None, line: int | None = None
    ) -> Self:
        """A task from one row.

        Args:
            row: The row; kept, and given back by `to_row` as it was.
            source: The file it came from, for error messages.
            line: Its 1-based line in that file, for error messages.

        Raises:
            InvalidRow: Naming the file, line, field and fix.
        """
        try:
            task = cls.model_validate(row)
        except InvalidRow as error:
            raise error.at(source, line) from None
        except ValidationError as error:
            raise _invalid_row(error, cls, source, line) from None
        task._row = row
        return task

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """As pydantic's, at a fraction of the cost: a row's values are JSON.

        There is one for each rollout, and few of them are asked for their row.
        """
        memo = {} if memo is None else memo
        copied = self.__new__(type(self))
        extra, private = self.__pydantic_extra__, self.__pydantic_private__ or {}
        for name, value in (
            ("__dict__", _copied(self.__dict__, memo)),
            ("__pydantic_extra__", None if extra is None else _copied(extra, memo)),
            ("__pydantic_fields_set__", self.__pydantic_fields_set__.copy()),
            (
                "__pydantic_private__",
                {
                    key: _LentRow(each) if key == "_row" and each else _copied(each, memo)
                    for key, each in private.items()
                },
            ),
        ):
            object.__setattr__(copied, name, value)
        return copied

    def to_row(self) -> dict[str, Any]:
        """The row this task came from, or the one that would make it."""
        # Not self._row: pydantic finds private attributes at ten times the cost of this.
        row = (self.__pydantic_private__ or {}).get("_row")
        if row is None:
            return self.model_dump(exclude_unset=True)
        return _copied(dict(row), {}) if type(row) is _LentRow else dict(row)

    @cached_property
    def task_id(self) -> str:
        """A 16-digit hash of the row's content: the same in every run, file and process."""
        content = {
            key: value
            for key, value in self.to_row().items()
            if not key.startswith("_ng_") and key not in _BOOKKEEPING
        }
        try:
            packed = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # an integer of more than 64 bits, say
            packed = json.dumps(to_jsonable_python(content), sort_keys=True).encode()
        return blake2b(packed, digest_size=8).hexdigest()

    @property
    def input(self) -> list[Item]:
        """The conversation the row starts with; its ``instructions`` come first, as the system."""
        items = input_items(self.responses_create_params["input"])
        instructions = self.responses_create_params.get("instructions")
        return [message("system", instructions), *items] if instructions else items

    @property
    def tools(self) -> list[FunctionTool] | None:
        """The tools the row declares; ``None`` when it leaves them to the environment."""
        declared = self.responses_create_params.get("tools")
        return cast("list[FunctionTool]", declared) if declared is not None else None


class _LentRow(dict[str, Any]):
    """The row of another task, of which a task is a copy; what is in it is that one's."""


# What needs no copy: most values of a row are one of these.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """As `copy.deepcopy`, fast for JSON values."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return copy.deepcopy(value, memo)
    made = memo.get(id(value))
    if made is not None:
        return made
    if kind is list:
        made = memo[id(value)] = []
        for each in value:
            made.append(each if type(each) in _PLAIN else _copied(each, memo))
    else:
        made = memo[id(value)] = {}
        for key, each in value.items():
            made[key] = each if type(each) in _PLAIN else _copied(each, memo)
    return made


def _invalid_row(
    error: ValidationError, cls: type[Task], source: str | None, line: int | None
) -> InvalidRow:
    problems = error.errors(include_url=False)
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"])
    more = f" ({len(problems) - 1} more problems in this row.)" if len(problems) > 1 else ""
    if first["type"] == "missing":
        return InvalidRow(
            f"the field is missing.{more}",
            field=field,
            fix=f"add it: {cls.__name__} needs {', '.join(_required(cls))}.",
            source=source,
            line=line,
        )
    got = repr(first.get("input"))
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return InvalidRow(
        f"{message}, not {got if len(got) < 80 else got[:77] + '...'}.{more}",
        field=field,
        fix=f"give it a value that {cls.__name__} allows.",
        source=source,
        line=line,
    )


def _required(cls: type[Task]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required()]


def read_rows(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSONL file, one at a time, with 1-based line numbers; blank lines are skipped.

    Raises:
        InvalidRow: If a line is not a JSON object.
    """
    with Path(path).open("rb") as file:
        yield from rows_of(file, str(path))


def rows_of(
    lines: Iterable[bytes], source: str, *, torn_tail: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, of lines from anywhere.

    Args:
        lines: Lines with their ends.
        source: Where they come from, for errors.
        torn_tail: Leave out a last line that is only begun: its writer died.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json_row(line)
        except InvalidRow as error:
            if torn_tail and isinstance(error.__cause__, ValueError) and not line.endswith(b"\n"):
                return
            raise error.at(source, number) from error.__cause__
        yield number, row


# What may be an integer beyond 64 bits; orjson would read that as a float, and so another number.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def json_row(line: bytes) -> dict[str, Any]:
    """The JSON object that a line holds; a byte order mark before it does not count.

    Raises:
        InvalidRow: If it holds none, or an integer beyond 64 bits.
    """
    text = line.removeprefix(_BYTE_ORDER_MARK)
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRow(
            f"not valid JSON: {error}.", fix="write one JSON object a line."
        ) from error
    if not isinstance(row, dict):
        raise InvalidRow(
            f"a row must be a JSON object, not {type(row).__name__}.",
            fix="write one JSON object a line.",
        )
    if _LONG_NUMBER.search(text):
        _refuse_long_integers(text)
    return row


def _refuse_long_integers(text: bytes) -> None:
    """Refuse integers beyond 64 bits in a JSON text."""
    try:
        # Digits are kept as text, since Python limits how many it turns into a number.
        waiting: list[tuple[str, Any]] = [("", json.loads(text, parse_int=_Digits))]
    except RecursionError as error:
        raise InvalidRow("it is nested too deep.", fix="write nested JSON as text.") from error
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, _Digits) and (len(value) > 20 or not -(2**63) <= int(value) < 2**64):
            raise InvalidRow(
                f"the integer {value[:40]} has more than 64 bits.",
                field=field,
                fix="write it as text.",
            )
        parts: Iterable[tuple[object, Any]] = ()
        if isinstance(value, dict):
            parts = value.items()
        elif isinstance(value, list):
            parts = enumerate(value)
        waiting += [(f"{field}.{key}" if field else str(key), part) for key, part in parts]


class _Digits(str):
    """An integer as it was written."""

    __slots__ = ()
