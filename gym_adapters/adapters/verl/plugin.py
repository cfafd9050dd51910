"""What verl loads in every one of its processes, through the entry point group ``verl.plugins``.

Importing this module costs next to nothing: verl loads it while verl itself is being imported, in
processes that never run an agent loop too. So it only leaves word for the import system to name our
loop in verl's registry, when and where verl's agent loops are imported.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["AGENT_NAME", "install"]

AGENT_NAME = "gym_adapters"
"""Our agent loop's name: the value of a dataset's ``agent_name`` column."""

LOOPS = "verl.experimental.agent_loop.agent_loop"
TARGET = "gym_adapters.adapters.verl.agent_loop.GymAgentLoop"


def install() -> None:
    """Have our loop registered as soon as verl's registry of agent loops is there."""
    loaded = sys.modules.get(LOOPS)
    if loaded is not None and hasattr(loaded, "_agent_loop_registry"):
        register(loaded)
    elif not any(isinstance(finder, RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistryFinder())


def register(loops: ModuleType) -> None:
    """Name our loop in the registry of `loops`; hydra imports it when a row asks for it."""
    loops._agent_loop_registry[AGENT_NAME] = {"_target_": TARGET}


class RegistryFinder(MetaPathFinder):
    """Finds the one module `LOOPS`, once, as if it were not there, and wraps its loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that registers our loop after it has run."""
        if name != LOOPS:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


class RegisteringLoader(Loader):
    """Runs a module as its own loader does, then registers our loop in it.

    Args:
        loader: The module's own.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run `module`, and register."""
        self._loader.exec_module(module)
        register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


# The one effect that importing this module is for.
install()
