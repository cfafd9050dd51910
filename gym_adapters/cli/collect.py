"""``gym-adapters collect``: run episodes and keep them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.rollouts.metrics import Metrics
    from gym_adapters.rollouts.run import RunSettings

__all__ = ["collect_command", "run_and_show"]

TASKS, SAMPLING, RUN, OUTPUT = "Tasks", "Sampling and budgets", "Running", "Output"


def collect_command(
    environments: Annotated[
        list[str],
        typer.Argument(
            metavar="ENV...",
            help="Names from [bold]gym-adapters envs[/], folders, or module:Class. Several make "
            "one run; ENV=WEIGHT gives one more or fewer of the tasks.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="SPEC",
            help="The policy: transformers:PATH, openai:NAME@URL (any compatible endpoint, or "
            "several: @URL,URL; key from OPENAI_API_KEY), replay:FILE (what was said before), "
            "tiny, scripted:gold (the best attempt), scripted:empty or scripted:garbage. A wrong "
            "one lists all there are.",
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="ROWS.JSONL",
            rich_help_panel=TASKS,
            help="File of tasks; by default the environment's example rows. Of several "
            "environments: ENV=ROWS.JSONL, for each.",
        ),
    ] = None,
    num_tasks: Annotated[
        int | None,
        typer.Option(
            "--num-tasks",
            "-n",
            min=1,
            rich_help_panel=TASKS,
            help="Generate so many tasks instead, where the environment can; several share them "
            "by weight.",
        ),
    ] = None,
    difficulty: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, rich_help_panel=TASKS, help="Of generated tasks."),
    ] = 0.5,
    limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=TASKS, help="Take only the first tasks.")
    ] = None,
    num_repeats: Annotated[
        int,
        typer.Option(
            "--num-repeats", "-k", min=1, rich_help_panel=TASKS, help="Attempts at each task."
        ),
    ] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            rich_help_panel=TASKS,
            help="Setting of the environment; may be given often. Of several: ENV.KEY=VALUE.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, rich_help_panel=SAMPLING, help="0 is greedy. Default: the row's, or 1."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, rich_help_panel=SAMPLING, help="Default: the row's, or 1."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=SAMPLING,
            help="Most tokens of one turn. Default: the row's, or the environment's budget.",
        ),
    ] = None,
    max_turns: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=SAMPLING,
            help="Most model calls of one rollout. Default: the environment's budget.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            rich_help_panel=SAMPLING,
            help="After this long a rollout takes no further turn.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", "-c", min=1, rich_help_panel=RUN, help="Episodes at once."),
    ] = 64,
    seed: Annotated[
        int, typer.Option(rich_help_panel=RUN, help="Seed of tasks, environments, sampling.")
    ] = 0,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", rich_help_panel=RUN, help="Run the episodes in workers on a Ray cluster."
        ),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=RUN,
            help="The cluster for --ray, e.g. auto; by default one is started on this machine.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, rich_help_panel=RUN, help="How many workers --ray starts.")
    ] = 2,
    worker_cpus: Annotated[
        float,
        typer.Option(
            min=0.0, rich_help_panel=RUN, help="Cores that each worker takes of its node."
        ),
    ] = 1.0,
    worker_gpus: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel=RUN,
            help="GPUs that each worker takes of its node, for a model that it loads.",
        ),
    ] = 0.0,
    group_deadline: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            rich_help_panel=RUN,
            help="Where rewards compare the attempts at a task: how long the first one waits for "
            "the last. What is missing then has no reward.",
        ),
    ] = 1800.0,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            rich_help_panel=RUN,
            help="Further attempts where model, tool, judge or sandbox failed.",
        ),
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Folder for rollouts, failures, manifest and metrics; by default nothing "
            "is written.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=OUTPUT,
            help="Go on with the run in the folder: skip what is done, try failures again.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", rich_help_panel=OUTPUT, help="Throw away the run in the folder."
        ),
    ] = False,
    compress: Annotated[
        str | None,
        typer.Option(
            metavar="zstd",
            rich_help_panel=OUTPUT,
            help="Compress the rollouts as they are written.",
        ),
    ] = None,
    pass_threshold: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Reward that counts as a pass. Default: the most the environment gives.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel=OUTPUT, help="Print the metrics as JSON on stdout."),
    ] = False,
) -> None:
    """Run episodes of an environment with a model, and keep every rollout.

    For example

      [bold]gym-adapters collect arithmetic_tools -m scripted:gold[/]
      Does the environment work? Its own best attempts must score the maximum.

      [bold]gym-adapters collect arithmetic_tools -m transformers:./model -n 200 -k 8 -o run/[/]
      8 attempts at each of 200 generated tasks, kept in run/ with tokens and log-probabilities.

      [bold]gym-adapters collect mcqa -m transformers:./model -i rows.jsonl -o run/ --resume[/]
      Go on where the run stopped, whatever stopped it.

      [bold]gym-adapters collect mcqa=3 calendar=1 -m openai:m@http://a/v1,http://b/v1 -o run/[/]
      Two environments in one run, three tasks to one, over two endpoints.

    Exit codes: 0 done, 1 no rollout could be scored, 2 wrongly asked, 130 interrupted.
    """
    from math import isfinite

    from gym_adapters.agents.tool_agent import AgentLimits
    from gym_adapters.cli.blend import run_parts
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.rollouts.compressed import Compression
    from gym_adapters.rollouts.ray import RayOptions
    from gym_adapters.rollouts.row_sampling import RowSampling
    from gym_adapters.rollouts.run import RunSettings
    from gym_adapters.rollouts.run_folder import OnExisting

    if resume and overwrite:
        raise InvalidConfig("--resume and --overwrite contradict each other: give one of them")
    if output is None and (resume or overwrite):
        raise InvalidConfig("--resume and --overwrite need the folder of a run: give --output")
    if pass_threshold is not None and not isfinite(pass_threshold):
        raise InvalidConfig(f"--pass-threshold must be a number, not {pass_threshold}")
    try:
        compression = Compression(compress) if compress is not None else None
    except ValueError:
        raise InvalidConfig(f"--compress knows zstd, not {compress!r}") from None
    parts, total = run_parts(
        environments,
        rows=rows or (),
        num_tasks=num_tasks,
        difficulty=difficulty,
        seed=seed,
        limit=limit,
        settings=settings or (),
        sampling=RowSampling(temperature, top_p, max_tokens),
        max_turns=max_turns,
        pass_threshold=pass_threshold,
    )
    first = parts[0]
    on_existing = (
        OnExisting.RESUME if resume else OnExisting.OVERWRITE if overwrite else OnExisting.REFUSE
    )
    run_and_show(
        RunSettings(
            entry=first.entry,
            config=first.config,
            model=model,
            tasks=first.tasks,
            input=first.input,
            output=output,
            on_existing=on_existing,
            num_repeats=num_repeats,
            concurrency=concurrency,
            seed=seed,
            sampling=first.sampling,
            episode_limits=first.episode_limits,
            agent_limits=AgentLimits(time_limit=time_limit),
            retries=retries,
            pass_threshold=first.pass_threshold,
            weight=first.weight,
            more=parts[1:],
            limit=limit,
            ray=RayOptions(workers, ray_address, worker_cpus, worker_gpus)
            if ray or ray_address
            else None,
            group_deadline=group_deadline,
            compression=compression,
        ),
        total=total * num_repeats,
        as_json=as_json,
    )


def run_and_show(settings: RunSettings, *, total: int, as_json: bool) -> None:
    """Run `settings`, show how it goes and what it came to, and exit where that is a failure.

    Args:
        settings: The run.
        total: Rollouts it takes, for the bar.
        as_json: Print the metrics as JSON in place of the table.
    """
    from gym_adapters.cli.failing import tell
    from gym_adapters.cli.next_steps import tell_failures, tell_how_to_resume
    from gym_adapters.cli.progress import run_progress
    from gym_adapters.cli.signals import Stopped, run_until_signal
    from gym_adapters.cli.streams import stdout_for_results
    from gym_adapters.rollouts.run import run

    # Bars of libraries would cross ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with stdout_for_results(as_json), run_progress(total) as progress:
            metrics = run_until_signal(run(settings, progress))
    except Stopped as stop:
        tell_how_to_resume("stopped", settings.output)
        raise typer.Exit(stop.exit_code) from None
    except OSError as error:
        tell(error)
        tell_how_to_resume("stopped", settings.output)
        raise typer.Exit(1) from None
    _show(metrics, settings, as_json)
    if metrics.failures:
        tell_failures(metrics, settings)
    if metrics.rollouts and not metrics.scored:
        tell(RuntimeError("no rollout could be scored"))
        raise typer.Exit(1)


def _show(metrics: Metrics, settings: RunSettings, as_json: bool) -> None:
    import orjson
    from rich.console import Console

    from gym_adapters.cli.metrics_table import metrics_tables

    if as_json:
        print(orjson.dumps(metrics.to_json(), option=orjson.OPT_INDENT_2).decode())
        return
    names = [part.entry.name for part in settings.parts]
    for table in metrics_tables(metrics, names, settings.model):
        Console().print(table)
    if settings.output is not None:
        print(f"kept in {settings.output}")
