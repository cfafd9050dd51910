"""``gym-adapters report``: what a run came to, on the terminal and as a page."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.rollouts.report import TokenText

__all__ = ["report_command"]

LARGE_PAGE = 50_000_000


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that stands alone."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=0, help="Rollouts to read in the page: worst, best, failed and any, each."
        ),
    ] = 50,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Show the tokens in the page as text, by this model's tokenizer."
        ),
    ] = None,
    pass_threshold: Annotated[
        float | None,
        typer.Option(help="Reward that counts as a pass. Default: that of the run."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the metrics as JSON on stdout.")
    ] = False,
) -> None:
    """Show the metrics of a run, and write a page with rollouts to read.

    For example

      [bold]gym-adapters report run/[/]

      [bold]gym-adapters report run/ --html report.html[/]
    """
    from math import isfinite

    import orjson
    from rich.console import Console

    from gym_adapters.cli.metrics_table import metrics_tables, named
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.rollouts.manifest import Manifest
    from gym_adapters.rollouts.metrics import RolloutMetrics
    from gym_adapters.rollouts.recorded import (
        MANIFEST,
        final_rollouts,
        recorded_metrics,
        recorded_thresholds,
    )
    from gym_adapters.rollouts.report import RolloutSample, html_report

    if pass_threshold is not None and not isfinite(pass_threshold):
        raise InvalidConfig(f"--pass-threshold must be a number, not {pass_threshold}")
    manifest = Manifest.read(run / MANIFEST)
    threshold, by_environment = recorded_thresholds(run)
    if pass_threshold is not None:
        threshold, by_environment = pass_threshold, dict.fromkeys(by_environment, pass_threshold)
    metrics = recorded_metrics(run, RolloutMetrics(threshold, by_environment))
    names = list(manifest.blend) if manifest.blend else [manifest.environment]
    if as_json:
        print(orjson.dumps(metrics.to_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        for table in metrics_tables(metrics, names, manifest.model):
            Console().print(table)
    if html is not None:
        sample = RolloutSample(samples)
        for rollout in final_rollouts(run):
            sample.add(rollout)
        several = named(names) != manifest.environment
        facts = [
            ("run", str(run)),
            ("begun", manifest.sessions[0] if manifest.sessions else ""),
            ("environment", "" if several else manifest.environment),
            ("version", "" if several else manifest.environment_version),
            ("model", manifest.model),
            ("seed", str(manifest.seed)),
            ("input", manifest.input),
            ("library", manifest.library_version),
        ]
        html.parent.mkdir(parents=True, exist_ok=True)
        text = None if tokenizer is None else _token_text(tokenizer)
        page = html_report(f"{named(names)}, {manifest.model}", facts, metrics, sample, text=text)
        html.write_text(page, encoding="utf-8", errors="replace")
        if len(page) > LARGE_PAGE:
            size = f"{html} has {len(page) / 1e6:,.0f} MB, which browsers take long to open"
            print(f"{size}: give a smaller --samples", file=sys.stderr)
        if not as_json:
            print(f"written to {html}")


def _token_text(path: str) -> TokenText:
    from gym_adapters.extras import require
    from gym_adapters.rollouts.local_source import found_model

    transformers = require("transformers", "tokens", "tokens as text")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        found_model(path, "tokens"), local_files_only=True
    )
    return partial(tokenizer.decode, clean_up_tokenization_spaces=False)
