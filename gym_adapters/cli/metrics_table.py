"""The metrics of a run as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from gym_adapters.rollouts.metric_rows import ENVIRONMENT_COLUMNS, environment_rows, metric_rows
from gym_adapters.rollouts.metrics import Metrics

__all__ = ["metrics_table", "metrics_tables", "named"]

# Of more environments, one table has a row for each.
MOST_TABLES = 3


def named(environments: Sequence[str]) -> str:
    """Environments in a heading: their names, or how many they are."""
    if len(environments) > MOST_TABLES:
        return f"{len(environments)} environments"
    return ", ".join(environments)


def metrics_tables(metrics: Metrics, environments: Sequence[str], model: str) -> Iterator[Table]:
    """What a run came to: each of several environments, then the whole."""
    if len(metrics.environments) > MOST_TABLES:
        table = Table(title=escape(f"each, {model}"), title_justify="left")
        for column in ENVIRONMENT_COLUMNS:
            table.add_column(column, overflow="fold")
        for row in environment_rows(metrics):
            table.add_row(*map(escape, row))
        yield table
    else:
        for name, part in metrics.environments.items():
            yield metrics_table(part, f"{name}, {model}")
    yield metrics_table(metrics, f"{named(environments)}, {model}")


def metrics_table(metrics: Metrics, title: str) -> Table:
    """What a run came to, one quantity a row."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in metric_rows(metrics):
        table.add_row(escape(name), escape(value))
    return table
