"""``gym-adapters validate``: is every row of some files one that an environment can use?

``gym-adapters data validate`` is the same where the environment is an option.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.training_data.rows import FileReport

__all__ = ["Json", "Limit", "tell_rows", "validate_command"]

SHOWN = 100

Limit = Annotated[int, typer.Option(min=1, help="Most problems to show of a file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def validate_command(
    environment: Annotated[str, typer.Argument(metavar="ENV", help="The environment.")],
    rows: Annotated[
        list[Path], typer.Argument(metavar="ROWS...", help="JSONL or Parquet files to check.")
    ],
    limit: Limit = SHOWN,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with some rows: file, line, field and fix.

    For example

      [bold]gym-adapters validate mcqa rows.jsonl[/]

    Exit codes: 0 all rows are good, 1 some are not, 2 wrongly asked.
    """
    tell_rows(rows, environment, limit, as_json)


def tell_rows(
    files: Sequence[Path], environment: str | None, limit: int = SHOWN, as_json: bool = False
) -> None:
    """Print what is wrong with the rows of `files`.

    Raises:
        typer.Exit: With code 1, where a row is bad or a file has none.
        UsageError: If there is no such file or environment.
    """
    from gym_adapters.registry import load_environment
    from gym_adapters.training_data.rows import validate_file

    entry = None if environment is None else load_environment(environment)
    reports = [validate_file(path, entry, limit=limit) for path in files]
    if as_json:
        _print_json(reports)
    else:
        for report in reports:
            _print_report(report)
    if any(report.bad or not report.rows for report in reports):
        raise typer.Exit(1)


def _print_report(report: FileReport) -> None:
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.more:
        print(f"... and {report.more} more problems", file=sys.stderr)
    if not report.rows:
        print(f"{report.path}: there are no rows in it", file=sys.stderr)
    again = f", {report.duplicates} repeat an earlier one" if report.duplicates else ""
    print(f"{report.path}: {report.rows} rows, {report.bad} bad{again}")


def _print_json(reports: Sequence[FileReport]) -> None:
    import orjson

    facts = [
        {
            "file": str(report.path),
            "rows": report.rows,
            "bad": report.bad,
            "duplicates": report.duplicates,
            "problems": [
                {
                    "line": each.line,
                    "field": each.field,
                    "problem": each.problem,
                    "fix": each.fix,
                }
                for each in report.problems
            ],
            "more_problems": report.more,
        }
        for report in reports
    ]
    print(orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode())
