"""Optional dependencies: imported where they are used, with an error that names the extra."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from gym_adapters.errors import MissingExtra

__all__ = ["require"]


def require(module: str, extra: str, needed_for: str) -> ModuleType:
    """Import `module`, which the extra `extra` brings.

    Args:
        module: Dotted name of the module to import, e.g. ``"trl"`` or ``"ray.util.queue"``.
        extra: The extra of gym-adapters that installs it, e.g. ``"trl"``.
        needed_for: Who asks, as the message's subject, e.g. ``"the TRL adapter"``.

    Returns:
        The module itself, also for a dotted name.

    Raises:
        MissingExtra: If the package, or a package that it imports in turn, is not installed.
        ModuleNotFoundError: If the package is installed, but not in a version that has `module`.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        if find_spec(package) is not None:
            raise
        raise MissingExtra(extra, package=package, needed_for=needed_for) from error
