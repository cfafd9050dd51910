"""Tasks as TRL's dataset rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from gym_adapters.adapters.prompt_messages import prompt_messages
from gym_adapters.errors import InvalidRow
from gym_adapters.extras import require
from gym_adapters.task import Task

__all__ = [
    "ENVIRONMENT",
    "ROW",
    "blended_dataset",
    "environment_of_prompt",
    "prompt_messages",
    "row_of_columns",
    "row_of_prompt",
    "trl_dataset",
]

ROW = "gym_row"
"""Column, or key of a prompt's first message, that holds a task's row as JSON text."""

ENVIRONMENT = "environment"
"""Column that names a row's environment where a dataset has rows of several; TRL's own name."""

_IN_PROMPT = "gym_environment"

# What TRL passes to a reward function besides the dataset's columns.
_NOT_COLUMNS = frozenset(
    {
        "prompts",
        "completions",
        "completion_ids",
        "trainer_state",
        "log_extra",
        "log_metric",
        "environments",
    }
)

Message = dict[str, Any]


def trl_dataset(tasks: Iterable[Task], *, row_in_prompt: bool = False) -> Any:
    """A ``datasets.Dataset`` with the columns ``prompt`` and `ROW`.

    The row travels as JSON text: Arrow would give every row the fields of all the others.

    Args:
        tasks: The tasks.
        row_in_prompt: Put the row into the prompt's first message, for `rollout_function`, which
            TRL shows prompts only. Chat templates don't render it.

    Raises:
        InvalidRow: If there are no tasks.
        MissingExtra: Without datasets.
    """
    return _dataset([("", task) for task in tasks], row_in_prompt)


def blended_dataset(rows: Iterable[tuple[str, Task]], *, row_in_prompt: bool = False) -> Any:
    """As `trl_dataset`, of several environments: the column ``environment`` names each row's.

    Args:
        rows: Names of environments, and their tasks.
        row_in_prompt: As in `trl_dataset`; the prompt then tells its environment too.

    Raises:
        InvalidRow: If there are no tasks.
        MissingExtra: Without datasets.
    """
    return _dataset(rows, row_in_prompt)


def _dataset(rows: Iterable[tuple[str, Task]], row_in_prompt: bool) -> Any:
    datasets = require("datasets", "trl", "a dataset for TRL")
    columns: dict[str, list[Any]] = {"prompt": [], ROW: [], ENVIRONMENT: []}
    for environment, task in rows:
        row = orjson.dumps(task.to_row()).decode()
        messages = prompt_messages(task.input)
        if row_in_prompt:
            named = {_IN_PROMPT: environment} if environment else {}
            messages[0] = {**messages[0], **named, ROW: row}
        columns["prompt"].append(messages)
        columns[ROW].append(row)
        columns[ENVIRONMENT].append(environment)
    if not columns["prompt"]:
        raise InvalidRow("there are no tasks.", fix="give at least one.")
    if row_in_prompt:
        del columns[ROW]
    if not any(columns[ENVIRONMENT]):
        del columns[ENVIRONMENT]
    return datasets.Dataset.from_dict(columns)


def row_of_prompt(prompt: Sequence[Mapping[str, Any]] | str) -> dict[str, Any]:
    """The row that a prompt of `trl_dataset` carries.

    Raises:
        InvalidRow: If it carries none.
    """
    texts = [] if isinstance(prompt, str) else [message.get(ROW) for message in prompt]
    for text in texts:
        if isinstance(text, str):
            return _parsed(text)
    raise InvalidRow(
        "the prompt does not say which task it belongs to.",
        field=f"prompt[0].{ROW}",
        fix="make the dataset with trl_dataset(tasks, row_in_prompt=True), or use trl_spec.",
    )


def environment_of_prompt(prompt: Sequence[Mapping[str, Any]] | str) -> str | None:
    """The environment that a prompt of `blended_dataset` names; ``None`` where it names none."""
    named = [] if isinstance(prompt, str) else [message.get(_IN_PROMPT) for message in prompt]
    return next((name for name in named if isinstance(name, str)), None)


def row_of_columns(
    columns: Mapping[str, Any], index: int, prompt: Sequence[Mapping[str, Any]] | str
) -> dict[str, Any]:
    """The row of sample `index` from the keyword arguments of a reward function.

    Either the `ROW` column holds it, or the dataset's columns are its fields; where those lack
    ``responses_create_params``, the prompt is its input.
    """
    texts = columns.get(ROW)
    if texts is not None:
        return _parsed(texts[index])
    row = {
        name: values[index]
        for name, values in columns.items()
        if name not in _NOT_COLUMNS and isinstance(values, list) and len(values) > index
    }
    if row.get("responses_create_params") is None:
        row["responses_create_params"] = {"input": _input(prompt)}
    return row


def _input(prompt: Sequence[Mapping[str, Any]] | str) -> str | list[Message]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _parsed(text: str) -> dict[str, Any]:
    row = orjson.loads(text)
    if not isinstance(row, dict):
        raise InvalidRow("the row is not a JSON object.", field=ROW, fix="write one object a row.")
    return row
