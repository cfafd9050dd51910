"""How many connections a process may hold open, so that it never runs out of files."""

from __future__ import annotations

from typing import Any

__all__ = ["connection_limit", "raise_file_limit"]

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
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _resource() -> Any:
    """The module that knows; there is none on Windows."""
    try:
        import resource
    except ImportError:
        return None
    return resource
