"""Where to keep what is made once for each user of the machine."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from gym_adapters.errors import InvalidConfig

__all__ = ["user_cache"]

log = logging.getLogger(__name__)


def user_cache(name: str, needed: str) -> Path:
    """The folder `name` of the user's cache, where `needed` is there already or can be written.

    It is below ``$XDG_CACHE_HOME/gym_adapters`` (``~/.cache/gym_adapters``). Services, containers
    and batch jobs often have a home that is read-only or no home at all: then it is below a
    temporary folder that belongs to the user alone, and the log says so.

    Args:
        name: The folder.
        needed: What the caller looks for in it; a cache that can only be read may have it.

    Raises:
        InvalidConfig: If neither can be written.
    """
    try:
        usual = _usual() / name
        if not (usual / needed).is_dir():
            _try_to_write(usual)
        return usual
    except (OSError, RuntimeError) as error:
        instead = _temporary(error) / name
    try:
        _try_to_write(instead)
    except OSError as error:
        raise InvalidConfig(f"{instead} can't be written: {error}. {_REMEDY}") from error
    log.warning("the user's cache can't be written (%s): using %s", _usual_or_home(), instead)
    return instead


_REMEDY = "Set XDG_CACHE_HOME to a folder that can."


def _usual() -> Path:
    """Raises RuntimeError where nobody knows the user's home."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gym_adapters"


def _usual_or_home() -> str:
    try:
        return str(_usual())
    except RuntimeError:
        return "no home is known"


def _temporary(why: Exception) -> Path:
    """A folder that others can't have put there, nor write to."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir(), f"gym_adapters{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InvalidConfig(f"no cache can be written: {why}; {error}. {_REMEDY}") from error
    if user and (found.st_uid != os.getuid() or found.st_mode & 0o022 or folder.is_symlink()):
        raise InvalidConfig(
            f"no cache can be written: {why}; {folder} belongs to others. {_REMEDY}"
        )
    return folder


def _try_to_write(folder: Path) -> None:
    """Before work of a minute is done for it. Asking for rights says nothing of full disks."""
    folder.mkdir(parents=True, exist_ok=True)
    Path(tempfile.mkdtemp(prefix=".draft-", dir=folder)).rmdir()
