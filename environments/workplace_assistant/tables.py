"""The office's tables: loaded or generated once, shared by all attempts, copied where written."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from gym_adapters import InvalidConfig

__all__ = ["COLUMNS", "Cell", "Database", "Office", "Row", "Table", "load_database"]

Cell: TypeAlias = str | bool | None
Row: TypeAlias = Mapping[str, Cell]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "emails": (
        "email_id",
        "inbox/outbox",
        "sender/recipient",
        "subject",
        "sent_datetime",
        "body",
    ),
    "calendar_events": (
        "event_id",
        "event_name",
        "participant_email",
        "event_start",
        "duration",
    ),
    "project_tasks": (
        "task_id",
        "task_name",
        "assigned_to_email",
        "list_name",
        "due_date",
        "board",
    ),
    "customer_relationship_manager_data": (
        "customer_id",
        "assigned_to_email",
        "customer_name",
        "customer_email",
        "customer_phone",
        "last_contact_date",
        "product_interest",
        "status",
        "follow_up_by",
        "notes",
    ),
    "analytics_data": (
        "date_of_visit",
        "visitor_id",
        "page_views",
        "session_duration_seconds",
        "traffic_source",
        "user_engaged",
    ),
}


@dataclass(frozen=True, slots=True)
class Database:
    """What every attempt starts from. Nobody writes to it.

    Attributes:
        emails, events, tasks, customers: Rows by id, in table order.
        visits: Website visits.
        directory: Email addresses of the company.
    """

    emails: Mapping[str, Row]
    events: Mapping[str, Row]
    tasks: Mapping[str, Row]
    customers: Mapping[str, Row]
    visits: Sequence[Row]
    directory: Sequence[str]


class Table:
    """Rows by id over a shared base; the first write copies the index, never the rows.

    Args:
        base: The shared rows.
        key: The column that holds the id.
    """

    __slots__ = ("_base", "_own", "key")

    def __init__(self, base: Mapping[str, Row], key: str) -> None:
        self._base = base
        self._own: dict[str, Row] | None = None
        self.key = key

    def __contains__(self, row_id: object) -> bool:
        return row_id in self.by_id

    def __iter__(self) -> Iterator[Row]:
        return iter(self.by_id.values())

    @property
    def by_id(self) -> Mapping[str, Row]:
        """The rows by id, in table order."""
        return self._base if self._own is None else self._own

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self._own is not None

    def get(self, row_id: str) -> Row | None:
        """The row, or ``None``."""
        return self.by_id.get(row_id)

    def last_id(self) -> str | None:
        """The greatest id as text; ``None`` in an empty table."""
        return max(self.by_id, default=None)

    def insert(self, row: Row) -> None:
        """Add `row` at the end."""
        self._writable()[str(row[self.key])] = row

    def update(self, row_id: str, column: str, value: Cell) -> None:
        """Set one cell of an existing row; a new id keeps the row's place."""
        own = self._writable()
        changed = {**own[row_id], column: value}
        if column != self.key:
            own[row_id] = changed
            return
        self._own = {
            str(value) if at == row_id else at: changed if at == row_id else row
            for at, row in own.items()
        }

    def delete(self, row_id: str) -> None:
        """Remove an existing row."""
        del self._writable()[row_id]

    def _writable(self) -> dict[str, Row]:
        if self._own is None:
            self._own = dict(self._base)
        return self._own


@dataclass(slots=True)
class Office:
    """One attempt's private view of the database."""

    database: Database
    plots: list[str] = field(default_factory=list)
    emails: Table = field(init=False)
    events: Table = field(init=False)
    tasks: Table = field(init=False)
    customers: Table = field(init=False)

    def __post_init__(self) -> None:
        self.emails = Table(self.database.emails, "email_id")
        self.events = Table(self.database.events, "event_id")
        self.tasks = Table(self.database.tasks, "task_id")
        self.customers = Table(self.database.customers, "customer_id")

    def state(self) -> dict[str, list[Row]]:
        """The tables that were written to, for comparison; an unwritten one is left out."""
        tables = {
            "emails": self.emails,
            "calendar": self.events,
            "project tasks": self.tasks,
            "customers": self.customers,
        }
        written = {name: list(table) for name, table in tables.items() if table.changed}
        if self.plots:
            written["plots"] = [{"file_path": path} for path in self.plots]
        return written

    def state_of(self, names: Sequence[str]) -> dict[str, list[Row]]:
        """The tables `names`, written or not."""
        tables = {
            "emails": self.emails,
            "calendar": self.events,
            "project tasks": self.tasks,
            "customers": self.customers,
        }
        return {
            name: list(tables[name])
            if name in tables
            else [{"file_path": path} for path in self.plots]
            for name in names
        }


def load_database(folder: Path) -> Database:
    """The database in `folder`: six CSV files, named and laid out as NeMo Gym's.

    Raises:
        InvalidConfig: If a file is absent or has not the columns it needs.
    """
    directory = _opened(folder / "email_addresses.csv").read_text(encoding="utf-8").split()
    return Database(
        emails=_keyed(folder, "emails"),
        events=_keyed(folder, "calendar_events"),
        tasks=_keyed(folder, "project_tasks"),
        customers=_keyed(folder, "customer_relationship_manager_data"),
        visits=[
            {**row, "user_engaged": row["user_engaged"] == "True"}
            for row in _rows(folder, "analytics_data")
        ],
        directory=directory,
    )


def _opened(path: Path) -> Path:
    if not path.is_file():
        raise InvalidConfig(f"database: {path} is absent; the folder needs all six tables")
    return path


def _rows(folder: Path, name: str) -> list[dict[str, Cell]]:
    path = _opened(folder / f"{name}.csv")
    columns = COLUMNS[name]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise InvalidConfig(f"database: {path} has no column {', '.join(missing)}")
        return [{column: row[column] or None for column in columns} for row in reader]


def _keyed(folder: Path, name: str) -> dict[str, Row]:
    rows = _rows(folder, name)
    key = COLUMNS[name][0]
    found: dict[str, Row] = {str(row[key]): row for row in rows}
    if len(found) != len(rows):
        raise InvalidConfig(f"database: {name}.csv has two rows of one {key}")
    return found
