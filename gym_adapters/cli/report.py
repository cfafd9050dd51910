"""``gym-adapters report``: what a run came to, on the terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report_command"]


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that stands alone."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=0, help="Rollouts to show in the page: best, worst and failed, each."),
    ] = 10,
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
    import orjson
    from rich.console import Console

    from gym_adapters.cli.metrics_table import metrics_table
    from gym_adapters.rollouts.manifest import Manifest
    from gym_adapters.rollouts.metrics import RolloutMetrics
    from gym_adapters.rollouts.report import RolloutSample, html_report
    from gym_adapters.rollouts.run_folder import (
        MANIFEST,
        final_rollouts,
        recorded_metrics,
        recorded_thresholds,
    )

    manifest = Manifest.read(run / MANIFEST)
    threshold, by_environment = recorded_thresholds(run)
    if pass_threshold is not None:
        threshold, by_environment = pass_threshold, dict.fromkeys(by_environment, pass_threshold)
    metrics = recorded_metrics(run, RolloutMetrics(threshold, by_environment))
    title = f"{manifest.environment}, {manifest.model}"
    if as_json:
        print(orjson.dumps(metrics.to_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        for name, part in metrics.environments.items():
            Console().print(metrics_table(part, f"{name}, {manifest.model}"))
        Console().print(metrics_table(metrics, title))
    if html is not None:
        sample = RolloutSample(samples)
        for rollout in final_rollouts(run):
            sample.add(rollout)
        facts = [
            ("run", str(run)),
            ("environment", f"{manifest.environment} (version {manifest.environment_version})"),
            ("model", manifest.model),
            ("seed", str(manifest.seed)),
            ("input", manifest.input),
            ("library", manifest.library_version),
        ]
        html.write_text(html_report(title, facts, metrics, sample), encoding="utf-8")
        if not as_json:
            print(f"written to {html}")
