"""``gym-adapters data``: row files checked, blended, described and split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gym_adapters.cli.validate import Json, Limit, tell_rows

if TYPE_CHECKING:
    from gym_adapters.training_data.rows import Row

__all__ = ["data_app"]

data_app = typer.Typer(no_args_is_help=True, help="Check, blend, describe and split row files.")

Files = Annotated[list[Path], typer.Argument(metavar="ROWS...", help="JSONL or Parquet files.")]
Env = Annotated[
    str | None, typer.Option("--env", "-e", help="The environment, to check its own fields too.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@data_app.command("validate")
def validate_command(
    files: Files, environment: Env = None, limit: Limit = 100, as_json: Json = False
) -> None:
    """Say everything that is wrong with some rows: file, line, field and fix.

    For example

      [bold]gym-adapters data validate train.jsonl validation.jsonl -e mcqa[/]

    Exit codes: 0 all rows are good, 1 some are not, 2 wrongly asked.
    """
    tell_rows(files, environment, limit, as_json)


@data_app.command("collate")
def collate_command(
    files: Annotated[
        list[str],
        typer.Argument(metavar="ROWS[=WEIGHT]...", help="Files, each with a weight; 1 by default."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.JSONL")],
    environment: Env = None,
    agent: Annotated[
        str | None, typer.Option(help="NeMo Gym agent of the rows that name none.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--rows", min=1, help="Write so many rows.")] = None,
    stop_at_first_end: Annotated[
        bool,
        typer.Option(
            "--keep-proportions",
            help="End when the first file ends; else go on with the others.",
        ),
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep rows of a task that came before.")
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Label rows by how often this run solved them."),
    ] = None,
    min_pass_rate: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.0,
    max_pass_rate: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    pass_threshold: Annotated[
        float | None, typer.Option(help="Reward that counts as a pass. Default: that of the run.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="SPDX identifier, for the card.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Blend row files into one, each task once, in proportion to their weights.

    For example

      [bold]gym-adapters data collate math.jsonl=3 mcqa.jsonl=1 -o train.jsonl[/]
      Three rows of math to one of mcqa, evenly spread.

      [bold]gym-adapters data collate rows.jsonl -o train.jsonl --profile run/ --min-pass-rate 0.1
      --max-pass-rate 0.9[/]
      Only tasks that the run solved sometimes, each with its pass rate under _ng_profile.
    """
    from itertools import islice

    from gym_adapters.errors import InvalidConfig, UsageError
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.blend import blended
    from gym_adapters.training_data.collation import (
        agent_named,
        checked_rows,
        parsed_weights,
        unique,
    )
    from gym_adapters.training_data.profile import labelled, profile_of_run
    from gym_adapters.training_data.written_file import WrittenFile

    if profile is None and (min_pass_rate > 0.0 or max_pass_rate < 1.0):
        raise InvalidConfig("pass rates are those of a run: give --profile")
    entry = None if environment is None else load_environment(environment)
    weighted = parsed_weights(files)
    read = [0] * len(weighted)

    def counted(index: int) -> Iterator[tuple[Row, str]]:
        for row, task_id in checked_rows(weighted[index].path, entry):
            read[index] += 1
            yield row, task_id

    weights = [each.weight for each in weighted]
    sources = [counted(index) for index in range(len(weighted))]
    blend = blended(sources, weights, whole=not stop_at_first_end)
    rows: Iterator[tuple[Row, str]] = (row for _, row in blend)
    if not keep_duplicates:
        rows = unique(rows)
    if profile is not None:
        rows = labelled(
            rows,
            profile_of_run(profile, pass_threshold),
            min_pass_rate=min_pass_rate,
            max_pass_rate=max_pass_rate,
        )
    with WrittenFile(output, overwrite=overwrite) as file:
        for row, _ in islice(rows, limit):
            file.write(agent_named(row, agent))
        if not file.rows:
            raise UsageError(f"no row is left of {sum(read)}, so {output} is not written")
        sources_read = [
            {"file": str(each.path), "weight": each.weight, "rows_read": count}
            for each, count in zip(weighted, read, strict=True)
        ]
        file.describe(
            {
                "kind": "rows",
                "sources": sources_read,
                "duplicates_kept": keep_duplicates,
                "profile": None if profile is None else str(profile),
                "pass_rates": [min_pass_rate, max_pass_rate],
                "licence": licence,
            }
        )
    print(f"{file.rows} rows of {sum(read)} written to {output}")


@data_app.command("stats")
def stats_command(files: Files, as_json: Json = False) -> None:
    """Describe some rows: how many, how long, which tools, agents, fields and difficulties.

    For example

      [bold]gym-adapters data stats train.jsonl[/]
    """
    from itertools import chain

    import orjson
    from rich.console import Console
    from rich.table import Table

    from gym_adapters.training_data.collation import checked_rows
    from gym_adapters.training_data.row_stats import row_stats

    stats = row_stats(chain.from_iterable(checked_rows(path) for path in files))
    if as_json:
        print(orjson.dumps(stats.to_json(), option=orjson.OPT_INDENT_2).decode())
        return
    print(f"{stats.rows} rows, {stats.tasks} tasks")
    for title, counts in (("agents", stats.agents), ("difficulty", stats.bands)):
        if counts:
            print(f"{title}: " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    table = Table("", "rows", "min", "mean", "max")
    numbers = {
        "prompt characters": stats.prompt_characters,
        "prompt items": stats.prompt_items,
        "tools": stats.tools,
    }
    for name, found in (
        *numbers.items(),
        *((name, field.numbers) for name, field in sorted(stats.fields.items())),
    ):
        if found.count:
            cells = (f"{number:g}" for number in (found.least, found.mean, found.greatest))
            table.add_row(name, str(found.count), *cells)
        else:
            table.add_row(name, str(stats.fields[name].present) if name in stats.fields else "0")
    Console().print(table)


@data_app.command("split")
def split_command(
    file: Annotated[Path, typer.Argument(metavar="ROWS", help="JSONL or Parquet file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER")],
    parts: Annotated[str, typer.Option(help="Shares by name.")] = "train=0.9,validation=0.1",
    stratify: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Keep the proportions of its values in every part."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Split rows into files, the same way on every machine, whatever their order.

    For example

      [bold]gym-adapters data split rows.jsonl -o data/ --stratify agent_ref.name[/]
    """
    from contextlib import ExitStack

    from gym_adapters.training_data.collation import checked_rows
    from gym_adapters.training_data.splits import Split, parsed_parts
    from gym_adapters.training_data.written_file import WrittenFile

    shares = parsed_parts(parts)
    split = Split.of(checked_rows(file), shares, seed=seed, stratify=stratify)
    with ExitStack() as stack:
        written = {
            name: stack.enter_context(WrittenFile(output / f"{name}.jsonl", overwrite=overwrite))
            for name in shares
        }
        for row, task_id in checked_rows(file):
            written[split.part(row, task_id, stratify)].write(row)
        for name, part in written.items():
            part.describe(
                {
                    "kind": "split",
                    "source": str(file),
                    "part": name,
                    "parts": shares,
                    "stratify": stratify,
                    "seed": seed,
                }
            )
    print(", ".join(f"{part.rows} rows in {part.path}" for part in written.values()))
