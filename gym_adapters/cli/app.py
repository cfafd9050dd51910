"""The application: which commands there are. Each imports what is heavy when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from gym_adapters.cli.check import check_command
from gym_adapters.cli.collect import collect_command
from gym_adapters.cli.data import data_app
from gym_adapters.cli.doctor import doctor_command
from gym_adapters.cli.envs import envs_command
from gym_adapters.cli.export import export_app
from gym_adapters.cli.quickstart import quickstart_command
from gym_adapters.cli.report import report_command
from gym_adapters.cli.reverify import reverify_command
from gym_adapters.cli.serve import serve_app
from gym_adapters.cli.train import train_command
from gym_adapters.cli.validate import validate_command

__all__ = ["app"]

app = typer.Typer(
    name="gym-adapters",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("check")(check_command)
app.command("collect")(collect_command)
app.command("envs")(envs_command)
app.command("validate")(validate_command)
app.command("report")(report_command)
app.command("reverify")(reverify_command)
app.command("quickstart")(quickstart_command)
app.command("train")(train_command)
app.command("doctor")(doctor_command)
app.add_typer(data_app, name="data")
app.add_typer(serve_app, name="serve")
app.add_typer(export_app, name="export")


def _version(asked: bool) -> None:
    if asked:
        from gym_adapters import __version__

        print(f"gym-adapters {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Write an RL environment for language models once; collect on it, train on it anywhere.

    First steps:

      [bold]gym-adapters quickstart[/]                                  watch a small policy learn

      [bold]gym-adapters envs[/]                                        what environments there are

      [bold]gym-adapters envs arithmetic_tools[/]                       what one of them asks for

      [bold]gym-adapters collect arithmetic_tools -m scripted:gold[/]   run it, without a model yet
    """
    from gym_adapters.generation.connections import raise_file_limit

    raise_file_limit()
