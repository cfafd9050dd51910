"""Tasks as NeMo RL's dataset rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.errors import InvalidRow
from gym_adapters.registry import load_environment
from gym_adapters.task import Task

__all__ = ["GYM", "RowIdentity", "nemo_rl_rows", "write_nemo_rl_rows"]

GYM = "gym"
"""Key of a row that holds, as JSON text, which environment it is for, and its task."""

SPLIT = "gym_split"
"""Key of a row that says what it is for; rollouts of `VALIDATION` are kept apart."""
VALIDATION = "validation"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowIdentity:
    """What a dataset row of ours says, besides its prompt.

    The task's row travels as text: NeMo RL stamps sampling settings and a row number on the row
    that it is given, and a task is known by its content.

    Attributes:
        environment: Name that the registry resolves, in every process of the run.
        overrides: ``key=value`` settings of the environment.
        row: The task's row.
    """

    environment: str
    overrides: tuple[str, ...]
    row: Mapping[str, Any]

    def to_text(self) -> str:
        """As JSON text."""
        return orjson.dumps(
            {
                "environment": self.environment,
                "overrides": list(self.overrides),
                "row": dict(self.row),
            }
        ).decode()

    @classmethod
    def of_row(cls, row: object) -> RowIdentity:
        """What a row that NeMo RL passes on says.

        Raises:
            InvalidRow: If it is not one of ours.
        """
        text = row.get(GYM) if isinstance(row, Mapping) else None
        try:
            data = orjson.loads(text if isinstance(text, str) else "")
            return cls(data["environment"], tuple(data["overrides"]), data["row"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidRow(
                "the dataset row does not say which environment and task it is for.",
                field=GYM,
                fix="make the dataset with write_nemo_rl_rows().",
            ) from error


def nemo_rl_rows(
    environment: str,
    tasks: Iterable[Task],
    *,
    overrides: Sequence[str] = (),
    native: bool = False,
    split: str = "train",
) -> list[Row]:
    """One row a task, for NeMo RL's ``NemoGymDataset`` or, `native`, for our ``GymDataset``.

    Rows for several environments may stand in one file.

    Args:
        environment: A name; workers on other machines must be able to resolve it too.
        tasks: The tasks.
        overrides: ``key=value`` settings of the environment.
        native: For the native path, which carries less.
        split: ``train`` or ``validation``.

    Raises:
        InvalidRow: If there are no tasks.
        InvalidConfig: If an override is wrong.
        Unsupported: If NeMo RL can't carry the environment or one of the tasks.
    """
    entry = load_environment(environment)
    entry.config(overrides)
    asked = list(tasks)
    if not asked:
        raise InvalidRow("there are no tasks.", fix="give at least one.")
    adapter = Adapter.NEMO_RL_NATIVE if native else Adapter.NEMO_RL
    refuse_unsupported(adapter, entry.environment, asked)
    name = _portable_name(entry.name)
    return [{**_row(name, entry.environment.name, task, overrides), SPLIT: split} for task in asked]


def write_nemo_rl_rows(rows: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write `rows` as JSONL."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    target.write_bytes(b"".join(lines))


def _row(name: str, label: str, task: Task, overrides: Sequence[str]) -> Row:
    identity = RowIdentity(name, tuple(overrides), task.to_row())
    return {
        "responses_create_params": {"input": list(task.input)},
        # What NeMo RL keeps of a row all the way to the advantages is its agent_ref.
        "agent_ref": {
            "type": "responses_api_agents",
            "name": label,
            "gym_task_id": task.task_id,
        },
        GYM: identity.to_text(),
    }


def _portable_name(name: str) -> str:
    """`name`, made absolute where it is a folder: Ray workers have another working directory."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if (folder / "environment.py").is_file() else name
