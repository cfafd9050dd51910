"""``gym-adapters doctor``: what would go wrong, before GPU time is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.doctor import Finding

__all__ = ["doctor_command"]

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor_command(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A folder, or a model in the Hub's cache.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="An environment; may be given several times."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="A recipe's name, or its YAML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what would go wrong in a run, before GPU time is spent; nothing is downloaded.

    Looked at: machine and packages, versions of trainers, the environment's episodes, the chat
    template against the environment's conversations, tool calls rendered and read back, stop
    tokens, prompts and budgets against the context, tokens and memory.

    For example

      [bold]gym-adapters doctor[/]                                       machine and trainers

      [bold]gym-adapters doctor --model ./model --env arithmetic_tools[/]

      [bold]gym-adapters doctor --recipe trl/grpo model=./model[/]

    Exit codes: 0 nothing fails, 1 something does, 2 wrongly asked.
    """
    from gym_adapters.cli.failing import quiet_libraries
    from gym_adapters.doctor import Asked, Level, examine, worst
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.extras import require
    from gym_adapters.training.recipe import load_recipe

    if overrides and recipe is None:
        raise InvalidConfig("KEY=VALUE changes a recipe. Fix: give one with --recipe")
    loaded = load_recipe(_path_or_name(recipe), overrides or []) if recipe is not None else None
    if model is not None or loaded is not None:
        require("transformers", "tokens", "looking at a model")
        quiet_libraries()
    asked = Asked(model=model, environments=tuple(environment or ()), recipe=loaded)
    findings = list(examine(asked))
    if as_json:
        _print_json(findings)
    else:
        _print_table(findings)
    if worst(findings) is Level.FAIL:
        raise typer.Exit(1)


def _path_or_name(recipe: str) -> Path | str:
    return Path(recipe) if recipe.endswith((".yaml", ".yml")) else recipe


def _print_json(findings: Sequence[Finding]) -> None:
    from dataclasses import asdict

    import orjson

    print(
        orjson.dumps([asdict(finding) for finding in findings], option=orjson.OPT_INDENT_2).decode()
    )


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "what", "finding"):
        table.add_column(heading)
    part = ""
    for finding in findings:
        if finding.part != part:
            part = finding.part
            table.add_section()
            table.add_row("", Text(part, "bold"), "")
        told = Text(finding.what)
        if finding.fix:
            told.append(f"\n→ {finding.fix}", "cyan")
        level = finding.level.value
        table.add_row(Text(level, COLOURS[level]), f"  {finding.subject}", told)
    console.print(table)
    counts = {level: sum(f.level.value == level for f in findings) for level in COLOURS}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()), highlight=False)
