"""How many connections a process may hold open, so that it never runs out of files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from aiohttp import TCPConnector

__all__ = ["connection_limit", "connections", "raise_file_limit"]

# An address has some 28,000 ports for connections from one machine.
MOST = 16_384
# What a process opens beside connections: run folders, pipes of sandboxes, libraries.
OTHER_FILES = 200
FEWEST = 16


def connection_limit(wanted: int | None = None) -> int:
    """Most connections of one pool; what needs one more waits for it.

    Args:
        wanted: Never more than these; ``None`` for as many as the process can open.
    """
    resource = _resource()
    files = MOST if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if resource is not None and files == resource.RLIM_INFINITY:
        files = MOST
    most = max(FEWEST, min(MOST, files - OTHER_FILES))
    return most if wanted is None else min(wanted, most)


@dataclass(slots=True)
class _Shared:
    """The connections of an event loop, and who uses them."""

    connector: TCPConnector
    users: int = 0


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()


@asynccontextmanager
async def connections(wanted: int | None = None) -> AsyncIterator[TCPConnector]:
    """A pool of connections, for sessions that don't own it.

    Args:
        wanted: A pool of one's own, of so many at most; ``None`` shares one with all others of this
            event loop that ask for none, since it is the process that runs out of files.
    """
    import aiohttp

    if wanted is not None:
        own = aiohttp.TCPConnector(limit=connection_limit(wanted))
        async with own:
            yield own
        return
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = _Shared(aiohttp.TCPConnector(limit=connection_limit()))
    shared.users += 1
    try:
        yield shared.connector
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[loop]
            await shared.connector.close()


def raise_file_limit() -> None:
    """Let this process, and those it starts, open as many files as its user may.

    Many systems start programs with 1,024, and allow them far more.
    """
    resource = _resource()
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MOST + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        enough = min(enough, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        # macOS says that there is no limit and has one: then it stays as it is.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _resource() -> Any:
    """The module that knows; there is none on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource
