"""``gym-adapters envs``: what environments there are, and what each asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gym_adapters.registry import EnvironmentEntry

__all__ = ["envs_command"]

ROOM_FOR_DESCRIPTIONS = 110


def envs_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show one: a name, a folder, or module:Class."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """List the environments, or show one: its card, its tools and a row.

    For example

      [bold]gym-adapters envs[/]

      [bold]gym-adapters envs mcqa[/]

      [bold]gym-adapters envs ./my_env[/]
    """
    import orjson

    from gym_adapters.registry import load_environment

    if name is None:
        _list(as_json)
        return
    entry = load_environment(name)
    if as_json:
        print(orjson.dumps(_facts(entry), option=orjson.OPT_INDENT_2).decode())
    else:
        _show(entry, name)


def _list(as_json: bool) -> None:
    import orjson
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gym_adapters.errors import GymAdaptersError
    from gym_adapters.registry import environment_names, load_environment

    facts: dict[str, dict[str, Any]] = {}
    for name in environment_names():
        try:
            facts[name] = _facts(load_environment(name))
        except (GymAdaptersError, ImportError) as error:
            # One that can't be loaded here must not hide the others.
            facts[name] = {"name": name, "error": str(error)}
    if as_json:
        print(orjson.dumps(list(facts.values()), option=orjson.OPT_INDENT_2).decode())
        return
    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    # A name is there to be copied: where there is little room, it is the description that goes.
    roomy = console.width >= ROOM_FOR_DESCRIPTIONS
    table.add_column("name", no_wrap=True)
    for heading in ("domain", "tools", "reward", "licence", *(["what it is"] if roomy else [])):
        table.add_column(heading)
    for name, fact in facts.items():
        if "error" in fact:
            table.add_row(name, Text(f"not usable here: {fact['error']}", "red"))
            continue
        card = fact["card"] or {}
        low, high = card.get("reward_range", ("?", "?"))
        table.add_row(
            *(
                Text(str(text))
                for text in (
                    name,
                    card.get("domain", ""),
                    len(fact["tools"]) or ("by row" if fact["capabilities"]["own_tools"] else ""),
                    f"{low:g} to {high:g}" if card else "",
                    card.get("licence", ""),
                    *([card.get("description", fact["summary"])] if roomy else []),
                )
            )
        )
    console.print(table)
    print("more about one: gym-adapters envs NAME")


def _facts(entry: EnvironmentEntry) -> dict[str, Any]:
    from dataclasses import asdict

    environment = entry.environment
    return {
        "name": entry.name,
        "version": environment.version,
        "summary": (environment.__doc__ or "").strip().partition("\n")[0],
        "folder": str(entry.folder) if entry.folder is not None else None,
        "card": entry.card.model_dump(mode="json") if entry.card is not None else None,
        "capabilities": asdict(environment.capabilities()),
        "tools": [tool.declaration() for tool in environment.class_tools.values()],
        "settings": environment.Config.model_json_schema().get("properties", {}),
        "row_fields": environment.task_type.model_json_schema().get("properties", {}),
    }


def _show(entry: EnvironmentEntry, name: str) -> None:
    import inspect

    import orjson
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.syntax import Syntax
    from rich.text import Text

    facts = _facts(entry)
    console = Console()
    console.print(f"[bold]{escape(entry.name)}[/] (version {escape(facts['version'])})")
    console.print(escape(inspect.cleandoc(entry.environment.__doc__ or "")), highlight=False)
    for key, value in (facts["card"] or {}).items():
        if value not in (None, {}, False):
            line = Text.assemble((key, "bold"), f": {_told(key, value)}")
            console.print(Padding(line, (0, 0, 0, 2), expand=False), highlight=False)
    for title, key in (("settings (--set)", "settings"), ("fields of a row", "row_fields")):
        if facts[key]:
            console.print(f"\n[bold]{title}[/]")
            for field, schema in facts[key].items():
                console.print(f"  {escape(field)}: {escape(_schema(schema))}", highlight=False)
    if facts["tools"]:
        console.print("\n[bold]tools[/]")
    for tool in facts["tools"]:
        arguments = ", ".join(tool["parameters"]["properties"])
        console.print(f"  [bold]{escape(tool['name'])}[/]({escape(arguments)})", highlight=False)
        console.print(f"    {escape(tool['description'])}", highlight=False)
    example = next(iter(entry.example_tasks()), None)
    if example is not None:
        console.print("\n[bold]a run[/]")
        model = "scripted:gold" if "gold_turns" in vars(entry.environment) else "MODEL"
        print(f"  gym-adapters collect {name} --model {model}")
        row = orjson.dumps(example.to_row(), option=orjson.OPT_INDENT_2).decode()
        console.print("\n[bold]a row[/]")
        if console.is_terminal:
            console.print(Syntax(row, "json", word_wrap=True, background_color="default"))
        else:
            print(row)  # whole, for a file or a program to read


def _told(key: str, value: Any) -> str:
    """A value of the card, in words."""
    if key == "reward_range":
        return "{:g} to {:g}".format(*value)
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in value.items())
    return str(value)


def _schema(schema: dict[str, Any]) -> str:
    kind = schema.get("type") or " or ".join(
        str(option.get("type", "object")) for option in schema.get("anyOf", [{}])
    )
    default = f", by default {schema['default']!r}" if "default" in schema else ""
    about = f" - {schema['description']}" if "description" in schema else ""
    return f"{kind}{default}{about}"
