"""``gym-adapters check``: does every trainer receive exactly what the rollouts were?"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from gym_adapters.testing.parity import Cell, ParityCase

__all__ = ["check_command"]

SHOWN = 5


def check_command(
    environment: Annotated[
        str, typer.Argument(metavar="ENV", help="A name, a folder, or module:Class.")
    ],
    trainers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="trl, trl-async, verl, offline, nemo-rl. Default: all."
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="ROWS.JSONL", help="Its rows. Default: the examples it ships."
        ),
    ] = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many of the rows to use.")] = 2,
    shapes: Annotated[
        bool,
        typer.Option(help="Check the library's own shapes of rollouts too, refused ones included."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    verbose: Annotated[bool, typer.Option(help="Show what the trainers print.")] = False,
) -> None:
    """Play scripted rollouts of an environment through every trainer, and compare to the token.

    No model and no GPU is needed. What is compared: prompt and completion ids, mask, logprobs,
    reward and its components, stop reason, failures, and the advantages beside failures.

    For example

      [bold]gym-adapters check arithmetic_tools[/]

      [bold]gym-adapters check ./my_env --trainers trl,verl --no-shapes[/]

      [bold]NEMO_RL_CHECKOUT=~/RL gym-adapters check arithmetic_tools --trainers nemo-rl[/]

    Exit codes: 0 all is the same, or refused as documented; 1 something differs, no rollout has a
    reward, or a trainer asked for by name can't be checked here; 2 wrongly asked.
    """
    from itertools import islice

    from gym_adapters.cli.failing import quiet_libraries, tell
    from gym_adapters.errors import GymAdaptersError
    from gym_adapters.registry import load_environment
    from gym_adapters.testing.parity import (
        TRAINERS,
        Verdict,
        environment_cases,
        parity_driver,
        parity_shapes,
        why_none_is_scored,
    )

    names = [name.strip() for name in trainers.split(",")] if trainers else list(TRAINERS)
    for name in names:
        parity_driver(name)
    own = None
    if rows is not None:
        own = list(islice(load_environment(environment).read_tasks(rows), tasks))
    quiet_libraries()
    parts = {environment: environment_cases(environment, tasks=own, at_most=tasks)}
    if shapes:
        parts["shapes of rollouts"] = parity_shapes()
    cells = _checked(parts, names, verbose)
    differs = any(cell.verdict is Verdict.DIFFERENT for cell in cells[environment])
    unscored = None if differs else why_none_is_scored(parts[environment])
    if as_json:
        _print_json(environment, cells, unscored)
    else:
        _print_table(parts, cells)
    if unscored is not None:
        why = f"every rollout of {environment} failed, so nothing was compared: {unscored}"
        tell(GymAdaptersError(why))
    verdicts = [cell.verdict for cells_of in cells.values() for cell in cells_of]
    missed = trainers is not None and Verdict.NOT_CHECKED in verdicts
    if missed or unscored is not None or Verdict.DIFFERENT in verdicts:
        raise typer.Exit(1)


Cells = dict[str, "list[Cell]"]
"""The cells of each part of the table."""


def _checked(parts: dict[str, list[ParityCase]], trainers: Sequence[str], verbose: bool) -> Cells:
    from rich.console import Console

    from gym_adapters.testing.parity import TRAINERS, check_parity

    done = 0
    whole = sum(map(len, parts.values())) * len(trainers)
    cells: Cells = {part: [] for part in parts}
    with Console(stderr=True).status("importing trainers ...") as status:

        def told(cell: Cell) -> None:
            nonlocal done
            done += 1
            status.update(f"{done}/{whole} {cell.trainer}: {cell.case}")

        with contextlib.nullcontext() if verbose else _silence():
            for trainer in sorted(trainers, key=TRAINERS.index):
                for part, cases in parts.items():
                    cells[part] += check_parity(cases, [trainer], told=told)
    return cells


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Trainers log each rollout that is made to fail here, as they should in a run."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _print_table(parts: dict[str, list[ParityCase]], cells: Cells) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    trainers = list(dict.fromkeys(cell.trainer for part in cells.values() for cell in part))
    notes: dict[str, int] = {}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what is played")
    for trainer in trainers:
        table.add_column(trainer)
    for part, cases in parts.items():
        table.add_row(Text(part, "bold"))
        for case in cases:
            row = {cell.trainer: cell for cell in cells[part] if cell.case == case.name}
            table.add_row(f"  {case.name}", *(_shown(row[trainer], notes) for trainer in trainers))
        table.add_section()
    console.print(table)
    for note, number in notes.items():
        console.print(f"[{number}] {note}", markup=False, highlight=False)
    _print_differences(console, [cell for part in cells.values() for cell in part])


def _shown(cell: Cell, notes: dict[str, int]) -> Text:
    from rich.text import Text

    from gym_adapters.testing.parity import Verdict

    if cell.verdict is Verdict.SAME:
        return Text("ok", "green")
    if cell.verdict is Verdict.DIFFERENT:
        count = len(cell.differences)
        return Text(f"{count} differ" if count else "ERROR", "bold red")
    number = notes.setdefault(cell.detail, len(notes) + 1)
    return Text(f"{cell.verdict.value} [{number}]", "yellow")


def _print_differences(console: Any, cells: Sequence[Cell]) -> None:
    from gym_adapters.testing.parity import Verdict

    different = [cell for cell in cells if cell.verdict is Verdict.DIFFERENT]
    if not different:
        count = sum(cell.rollouts for cell in cells)
        samples = sum(cell.samples for cell in cells)
        console.print(
            f"{count} rollouts, {samples} training samples: no difference", highlight=False
        )
        return
    for cell in different:
        console.print(f"\n{cell.trainer}, {cell.case}:", style="bold red", highlight=False)
        lines = [cell.detail] if cell.detail else [str(each) for each in cell.differences]
        for line in lines[:SHOWN]:
            console.print(f"  {line}", markup=False, highlight=False)
        if len(lines) > SHOWN:
            console.print(f"  ... and {len(lines) - SHOWN} more")
    console.print(
        "\nHow to read this: name[i] is the first place of a sequence that differs, counted from 0 "
        "in one training sample; 'nothing' is past its end. ids are the tiny tokenizer's. See "
        "docs/parity.md.",
        markup=False,
        highlight=False,
    )


def _print_json(environment: str, cells: Cells, unscored: str | None) -> None:
    import orjson

    from gym_adapters.testing.parity import Verdict

    flat = [(part, cell) for part, of_part in cells.items() for cell in of_part]
    told = {
        "environment": environment,
        "same": all(cell.verdict is not Verdict.DIFFERENT for _, cell in flat),
        "unscored": unscored,
        "cells": [
            {
                "part": part,
                "case": cell.case,
                "trainer": cell.trainer,
                "verdict": cell.verdict.value,
                "detail": cell.detail,
                "rollouts": cell.rollouts,
                "samples": cell.samples,
                "differences": [
                    {
                        "task": each.attempt.task,
                        "attempt": each.attempt.index,
                        "sample": each.sample,
                        "what": each.what,
                        "index": each.index,
                        "expected": each.expected,
                        "received": each.received,
                    }
                    for each in cell.differences
                ],
            }
            for part, cell in flat
        ],
    }
    print(orjson.dumps(told, option=orjson.OPT_INDENT_2, default=str).decode())
