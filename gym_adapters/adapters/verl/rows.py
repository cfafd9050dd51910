"""Tasks as verl's dataset rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.adapters.capabilities import Adapter, refuse_unsupported
from gym_adapters.adapters.prompt_messages import prompt_messages
from gym_adapters.adapters.verl.plugin import AGENT_NAME
from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.extras import require
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.task import Task

__all__ = ["GYM", "RowIdentity", "verl_rows", "write_verl_rows"]

GYM = "gym"
"""Key of ``extra_info`` whose JSON text says which environment a row is for, and holds its task."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowIdentity:
    """What a dataset row of ours says, besides its prompt.

    Attributes:
        environment: Name that the registry resolves, in every process of the run.
        overrides: ``key=value`` settings of the environment.
        components: Names of reward components to report, the same for every row of a dataset.
        row: The task's row.
    """

    environment: str
    overrides: tuple[str, ...]
    components: tuple[str, ...]
    row: Mapping[str, Any]

    def to_text(self) -> str:
        """As JSON text: Arrow would give every row the fields of all the others."""
        return orjson.dumps(
            {
                "environment": self.environment,
                "overrides": list(self.overrides),
                "components": list(self.components),
                "row": dict(self.row),
            }
        ).decode()

    @classmethod
    def of_extra_info(cls, extra_info: object) -> RowIdentity:
        """What the ``extra_info`` of a dataset row says.

        Raises:
            InvalidRow: If it is not one of ours.
        """
        text = extra_info.get(GYM) if isinstance(extra_info, Mapping) else None
        try:
            data = orjson.loads(text if isinstance(text, str) else "")
            return cls(
                data["environment"],
                tuple(data["overrides"]),
                tuple(data["components"]),
                data["row"],
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise InvalidRow(
                "the dataset row does not say which environment and task it is for.",
                field=f"extra_info.{GYM}",
                fix="make the dataset with `gym-adapters export verl-rows`, or with verl_rows().",
            ) from error


def verl_rows(
    environment: str,
    tasks: Iterable[Task],
    *,
    overrides: Sequence[str] = (),
    components: Sequence[str] = (),
    split: str = "train",
) -> list[Row]:
    """One row a task, as verl's ``RLHFDataset`` reads them.

    Rows for several environments may stand in one file, when all have the same `components`.

    Args:
        environment: A name; workers on other machines must be able to resolve it too.
        tasks: The tasks.
        overrides: ``key=value`` settings of the environment.
        components: Reward components that validation reports by name. verl needs every sample to
            have the same ones, so they are named here; one that a reward lacks is reported as NaN.
        split: Kept in ``extra_info``.

    Raises:
        InvalidRow: If there are no tasks.
        InvalidConfig: If an override is wrong.
        Unsupported: If verl can't carry the environment or one of the tasks.
    """
    entry = load_environment(environment)
    entry.config(overrides)
    asked = list(tasks)
    if not asked:
        raise InvalidRow("there are no tasks.", fix="give at least one.")
    refuse_unsupported(Adapter.VERL, entry.environment, asked)
    name = _portable_name(environment)
    identities = [
        RowIdentity(name, tuple(overrides), tuple(components), task.to_row()) for task in asked
    ]
    return [
        _row(entry, task, identity, index, split)
        for index, (task, identity) in enumerate(zip(asked, identities, strict=True))
    ]


def write_verl_rows(rows: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Write `rows` as Parquet or JSONL, by the ending of `path`.

    Raises:
        InvalidConfig: If the ending is neither ``.parquet`` nor ``.jsonl``.
        MissingExtra: If Parquet is asked for without pyarrow.
    """
    target = Path(path)
    if target.suffix not in (".parquet", ".jsonl"):
        raise InvalidConfig(f"{target}: verl reads .parquet and .jsonl files. Name one of those.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".jsonl":
        lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        target.write_bytes(b"".join(lines))
        return
    arrow = require("pyarrow", "verl", "a Parquet file for verl")
    parquet = require("pyarrow.parquet", "verl", "a Parquet file for verl")
    parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), str(target))


def _row(entry: EnvironmentEntry, task: Task, identity: RowIdentity, index: int, split: str) -> Row:
    return {
        "data_source": entry.environment.name,
        "prompt": prompt_messages(task.input),
        "ability": entry.card.domain if entry.card else "gym",
        # verl's reward managers read a ground truth; ours is the task itself.
        "reward_model": {"style": "rule", "ground_truth": task.task_id},
        "extra_info": {"index": index, "split": split, GYM: identity.to_text()},
        "agent_name": AGENT_NAME,
    }


def _portable_name(name: str) -> str:
    """`name`, made absolute where it is a folder: Ray workers have another working directory."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if (folder / "environment.py").is_file() else name
