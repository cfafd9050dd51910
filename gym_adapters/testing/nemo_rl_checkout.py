"""A NeMo RL checkout, made importable beside this project's own packages. For tests and checks.

``NEMO_RL_CHECKOUT`` names it. Nothing of it is installed: packages that only log or talk to a
cluster are stood in for where they are absent, and the real ones win. It changes this process for
good, so it is for processes that do nothing else. Training needs NeMo RL's own environment.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import typing
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "install", "quietly"]

VARIABLE = "NEMO_RL_CHECKOUT"

ABSENT = (
    "wandb",
    "mlflow",
    "swanlab",
    "matplotlib",
    "zmq",
    "pynvml",
    "prometheus_client",
    "fastapi",
    "uvicorn",
    "aiohttp",
    "rich",
    "hydra",
    "omegaconf",
    "tensorboard",
    "torchdata",
    "sympy",
    "math_verify",
    "decord",
    "soundfile",
    "scipy",
    "nvidia_resiliency_ext",
    "sklearn",
    "debugpy",
    "tiktoken",
    "blobfile",
    "sacrebleu",
    "mlperf_logging",
)


class _Stub(types.ModuleType):
    """Holds whatever is asked of it; nothing of it does anything."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StubFinder(MetaPathFinder, Loader):
    """Comes last on the path, so that it finds only what nothing else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in ABSENT:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "hydra.utils":
            module.get_object = _get_object  # type: ignore[attr-defined]


def _get_object(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def install() -> str | None:
    """Make ``nemo_rl`` importable; why not, where it isn't. Twice does nothing more."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"needs a NeMo RL checkout: set {VARIABLE}"
    if not (Path(folder) / "nemo_rl" / "__init__.py").is_file():
        return f"{VARIABLE}={folder} is no NeMo RL checkout"
    if any(isinstance(finder, _StubFinder) for finder in sys.meta_path):
        return None
    os.environ["NO_VCS_VERSION"] = "1"
    if sys.version_info < (3, 12):
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict
    sys.meta_path.append(_StubFinder())
    sys.path.append(folder)
    return None


def quietly(name: str) -> Any:
    """Import a module of the checkout; its imports' warnings are not this project's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
