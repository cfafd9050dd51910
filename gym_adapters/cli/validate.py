"""``gym-adapters validate``: is every row of a file one that an environment can use?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["validate_command"]

SHOWN = 20


def validate_command(
    environment: Annotated[str, typer.Argument(metavar="ENV", help="The environment.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS.JSONL", help="The file to check.")],
) -> None:
    """Check every row of a file and say what is wrong, where, and how to put it right.

    For example

      [bold]gym-adapters validate mcqa rows.jsonl[/]

    Exit codes: 0 all rows are good, 1 some are not, 2 wrongly asked.
    """
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.task_input import check_rows

    report = check_rows(load_environment(environment), rows)
    for problem in report.problems[:SHOWN]:
        print(problem, file=sys.stderr)
    if report.bad > SHOWN:
        print(f"... and {report.bad - SHOWN} more", file=sys.stderr)
    if not report.rows:
        print(f"{rows}: there are no rows in it", file=sys.stderr)
    again = f", {report.duplicates} of them repeat an earlier one" if report.duplicates else ""
    print(f"{report.rows} rows, {report.bad} bad{again}")
    if report.bad or not report.rows:
        raise typer.Exit(1)
