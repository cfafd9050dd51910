"""Joining a Ray cluster, or starting one where the user's home and temporary folder are no help."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from gym_adapters.errors import InvalidConfig

__all__ = ["join_cluster", "variables_to_start_ray"]

# A socket's path has at most 107 bytes (unix(7)); Ray's take 68 below the temporary folder.
LONGEST_FOLDER = 107 - 68
# Ray's own choice where TMPDIR is not set.
USUAL_FOLDER = "/tmp"


def join_cluster(ray: Any, address: str | None, cpus: float) -> None:
    """Connect this process to a cluster.

    Args:
        ray: The module.
        address: As for ``ray.init``; ``None`` starts a cluster on this machine.
        cpus: What a cluster that is started has to give.

    Raises:
        InvalidConfig: If there is none at `address`.
    """
    local: dict[str, Any] = {}
    if address is None:
        local["num_cpus"] = cpus
        os.environ.update(variables_to_start_ray())
    try:
        ray.init(address, log_to_driver=False, include_dashboard=False, **local)
    except ConnectionError as error:
        raise InvalidConfig(f"there is no Ray cluster at {address}: {error}") from error


def variables_to_start_ray() -> dict[str, str]:
    """Environment variables that a cluster on this machine needs to start, and has not.

    There are none as a rule. Where ``TMPDIR`` is too long for sockets, ``RAY_TMPDIR`` is a shorter
    one. Where the user's home can't be written, Ray fails to keep the token there by which its
    processes know each other: ``RAY_AUTH_TOKEN`` gives them one that is not kept.
    """
    if os.environ.get("RAY_ADDRESS"):
        return {}
    needed = {}
    if _temporary_folder_is_too_long():
        needed["RAY_TMPDIR"] = USUAL_FOLDER
    if not _can_keep_a_token():
        needed["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return needed


def _temporary_folder_is_too_long() -> bool:
    if "RAY_TMPDIR" in os.environ or not sys.platform.startswith("linux"):
        return False
    return len(os.fsencode(os.environ.get("TMPDIR", USUAL_FOLDER))) > LONGEST_FOLDER


def _can_keep_a_token() -> bool:
    """Whether there is one already, or Ray can write it below the user's home."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    try:
        folder = Path.home() / ".ray"
    except RuntimeError:
        return False
    if os.access(folder / "auth_token", os.R_OK):
        return True
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
