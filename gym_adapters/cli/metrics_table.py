"""The metrics of a run as a table for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from gym_adapters.rollouts.metric_rows import metric_rows
from gym_adapters.rollouts.metrics import Metrics

__all__ = ["metrics_table"]


def metrics_table(metrics: Metrics, title: str) -> Table:
    """What a run came to, one quantity a row."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in metric_rows(metrics):
        table.add_row(escape(name), escape(value))
    return table
