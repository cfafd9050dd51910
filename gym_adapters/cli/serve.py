"""``gym-adapters serve``: environments, agents and models over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gym_adapters.serving.http_server import Listener

__all__ = ["serve_app"]

serve_app = typer.Typer(
    no_args_is_help=True,
    help="Serve environments and agents in NeMo Gym's format, or a model in OpenAI's.",
)

Host = Annotated[
    str,
    typer.Option(
        help="Interface to listen on. Any but this machine's own needs a token in "
        "GYM_ADAPTERS_SERVE_TOKEN.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
MaxSessions = Annotated[int, typer.Option(min=1, help="Most attempts at once.")]
IdleTimeout = Annotated[
    float, typer.Option(min=1.0, metavar="SECONDS", help="Attempts that nobody uses are closed.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting of the environment."),
]
Seed = Annotated[int, typer.Option(help="Seed of environments and sampling.")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="SPEC", help="The policy, as for gym-adapters collect."),
]


@serve_app.command("environments")
def environments_command(
    names: Annotated[list[str], typer.Argument(metavar="ENV...", help="One or several.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    settings: Settings = None,
    max_sessions: MaxSessions = 4096,
    idle_timeout: IdleTimeout = 1800.0,
    seed: Seed = 0,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Tell in /seed_session how to reach the tools over MCP.")
    ] = False,
) -> None:
    """Serve environments as NeMo Gym's resources servers do.

    One environment answers at the root, several below /<name> each.
    """
    from gym_adapters.errors import InvalidConfig
    from gym_adapters.registry import load_environment
    from gym_adapters.serving.environment_app import environment_app
    from gym_adapters.serving.http_server import Listener
    from gym_adapters.serving.sessions import SessionLimits

    if settings and len(names) > 1:
        raise InvalidConfig("--set goes to one environment: serve that one alone")
    entries = [load_environment(name) for name in names]
    configs = {entry.name: entry.config(settings or ()) for entry in entries}
    limits = SessionLimits(max_sessions=max_sessions, idle_timeout=idle_timeout)
    listener = Listener(host, port)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with environment_app(
            entries, configs=configs, sessions=limits, seed=seed, expose_tools_over_mcp=mcp
        ) as (app, _):
            yield app

    _serve(opened(), listener, ", ".join(names))


@serve_app.command("openenv")
def openenv_command(
    name: Annotated[str, typer.Argument(metavar="ENV", help="The environment.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE.JSONL",
            help="Rows that resets take, in turn or by seed; by default the examples.",
        ),
    ] = None,
    settings: Settings = None,
    max_sessions: MaxSessions = 4096,
    idle_timeout: IdleTimeout = 1800.0,
    seed: Seed = 0,
) -> None:
    """Serve an environment as OpenEnv does: a WebSocket connection is an attempt."""
    from gym_adapters.registry import load_environment
    from gym_adapters.serving.http_server import Listener
    from gym_adapters.serving.openenv_server import openenv_app
    from gym_adapters.serving.sessions import SessionLimits

    entry = load_environment(name)
    options = {
        "rows": None if rows is None else [task.to_row() for task in entry.read_tasks(rows)],
        "config": entry.config(settings or ()),
        "sessions": SessionLimits(max_sessions=max_sessions, idle_timeout=idle_timeout),
        "seed": seed,
    }
    listener = Listener(host, port)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with openenv_app(entry, **options) as (app, _):
            yield app

    _serve(opened(), listener, f"{name} for OpenEnv", websockets=True)


@serve_app.command("agent")
def agent_command(
    name: Annotated[str, typer.Argument(metavar="ENV", help="The environment.")],
    model: Model,
    host: Host = "127.0.0.1",
    port: Port = 8001,
    settings: Settings = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Attempts at once.")] = 256,
    seed: Seed = 0,
) -> None:
    """Serve an environment with an agent and a policy: a row in, a verdict with tokens out."""
    from gym_adapters.registry import load_environment
    from gym_adapters.rollouts.models import model_source
    from gym_adapters.serving.agent_server import AgentServer
    from gym_adapters.serving.http_server import Listener, bare_app

    entry = load_environment(name)
    config = entry.config(settings or ())
    source = model_source(model, seed=seed)
    listener = Listener(host, port)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        app = bare_app()
        async with (
            source,
            AgentServer(entry, source, config=config, concurrency=concurrency, seed=seed) as agent,
        ):
            agent.add_routes(app)
            yield app

    _serve(opened(), listener, f"{name} with {source.name}")


@serve_app.command("gateway")
def gateway_command(
    model: Model,
    host: Host = "127.0.0.1",
    port: Port = 8002,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.JSONL",
            help="Add each finished or expired session to this file, with its exact tokens.",
        ),
    ] = None,
    max_sessions: MaxSessions = 4096,
    idle_timeout: IdleTimeout = 1800.0,
    seed: Seed = 0,
) -> None:
    """Serve a model as OpenAI does, and keep the exact tokens of every session.

    Agents use http://HOST:PORT/sessions/<any name>/v1 as their base URL. POST to
    /sessions/<name>/finish ends a session, and answers with its segments.
    """
    from gym_adapters.environment import Environment
    from gym_adapters.rollouts.models import model_source
    from gym_adapters.serving.gateway import CapturedSession, Gateway
    from gym_adapters.serving.http_errors import json_bytes
    from gym_adapters.serving.http_server import Listener, bare_app
    from gym_adapters.serving.sessions import SessionLimits
    from gym_adapters.task import Task

    source = model_source(model, seed=seed)
    listener = Listener(host, port)
    limits = SessionLimits(max_sessions=max_sessions, idle_timeout=idle_timeout)

    def append(line: bytes) -> None:
        if output is not None:
            with output.open("ab") as file:
                file.write(line + b"\n")

    async def keep(session: CapturedSession) -> None:
        await asyncio.to_thread(append, json_bytes(session.to_json()))

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        app = bare_app()
        async with source:
            # A source knows its models by the rollout; one that samples here has one for all.
            task = Task(responses_create_params={"input": "?"})
            policy = source.for_rollout(Environment, task)
            async with Gateway(policy, on_finished=keep, limits=limits) as gateway:
                gateway.add_routes(app)
                yield app

    _serve(opened(), listener, f"a gateway to {source.name}")


def _serve(
    opened: AbstractAsyncContextManager[Any],
    listener: Listener,
    what: str,
    *,
    websockets: bool = False,
) -> None:
    """Serve until a signal comes."""
    from gym_adapters.cli.signals import Stopped, run_until_signal
    from gym_adapters.serving.http_server import serving

    async def run() -> None:
        async with opened as app, serving(app, listener, websockets=websockets) as address:
            print(f"serving {what} at {address} (Ctrl-C ends it)", flush=True)
            await asyncio.Event().wait()

    try:
        run_until_signal(run())
    except Stopped:
        print("stopped")
