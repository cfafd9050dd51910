"""The application of an environment server: one environment or several, and their document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from gym_adapters.environment import EnvironmentConfig
from gym_adapters.episode import EpisodeLimits
from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.registry import EnvironmentEntry
from gym_adapters.serving.environment_openapi import environment_paths
from gym_adapters.serving.environment_server import EnvironmentServer
from gym_adapters.serving.http_server import bare_app
from gym_adapters.serving.openapi import add_openapi
from gym_adapters.serving.sessions import SessionLimits

require("fastapi", "serve", "serving environments")

from fastapi import FastAPI  # noqa: E402 - after the check above

__all__ = ["environment_app"]


@asynccontextmanager
async def environment_app(
    entries: Sequence[EnvironmentEntry],
    *,
    configs: Mapping[str, EnvironmentConfig] | None = None,
    limits: EpisodeLimits | None = None,
    sessions: SessionLimits | None = None,
    seed: int = 0,
    expose_tools_over_mcp: bool = False,
) -> AsyncIterator[tuple[FastAPI, list[EnvironmentServer]]]:
    """The application that serves `entries`, with their resources open.

    A single environment answers at the root, as NeMo Gym's servers do; of several, each answers
    below ``/<name>``.

    Args:
        entries: The environments.
        configs: Settings by name; by default the cards'.
        limits: Turns and times of an attempt.
        sessions: Bounds on attempts under way, for each environment.
        seed: Seed of the environments' random numbers.
        expose_tools_over_mcp: Whether seeding a session tells how to reach its tools over MCP.

    Yields:
        The application, and the servers behind it.

    Raises:
        InvalidConfig: If two have one name, or there are none.
    """
    names = [entry.name for entry in entries]
    if not entries or len(set(names)) < len(names):
        raise InvalidConfig(f"give each environment once, not: {', '.join(names) or 'none'}")
    app = bare_app()
    servers: list[EnvironmentServer] = []
    async with AsyncExitStack() as stack:
        for entry in entries:
            server = EnvironmentServer(
                entry,
                config=(configs or {}).get(entry.name),
                limits=limits,
                sessions=sessions,
                seed=seed,
                prefix=f"/{entry.name}" if len(entries) > 1 else "",
                expose_tools_over_mcp=expose_tools_over_mcp,
            )
            servers.append(await stack.enter_async_context(server))
            server.add_routes(app)
        paths = {
            path: told
            for server in servers
            for path, told in environment_paths(server.environment, server.prefix).items()
        }
        add_openapi(app, f"Environments: {', '.join(names)}", paths)
        yield app, servers
