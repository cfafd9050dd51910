"""Finding environments by name.

A name is resolved in this order: a folder on disk that holds ``environment.py`` (``./my_env``),
``module:Class``, an entry point of the group ``gym_adapters.environments``, a built-in environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from gym_adapters.config import EnvironmentCard, apply_overrides, load_card, validated
from gym_adapters.environment import Environment, EnvironmentConfig
from gym_adapters.errors import InvalidEnvironment, UnknownEnvironment
from gym_adapters.task import Task, read_rows

__all__ = ["EnvironmentEntry", "environment_names", "load_environment"]

BUILT_IN = "gym_adapters.environments"
ENTRY_POINTS = "gym_adapters.environments"


@dataclass(frozen=True)
class EnvironmentEntry:
    """An environment and the folder it came from.

    Attributes:
        name: The name it was asked for by.
        environment: The class.
        folder: Its folder, with ``config.yaml`` and ``data/``; ``None`` for a bare class.
    """

    name: str
    environment: type[Environment[Any]]
    folder: Path | None

    @cached_property
    def card(self) -> EnvironmentCard | None:
        """Its card; ``None`` where there is no folder or no ``config.yaml``."""
        if self.folder is None or not (self.folder / "config.yaml").exists():
            return None
        return load_card(self.folder)

    def config(self, overrides: Sequence[str] = ()) -> EnvironmentConfig:
        """The card's settings with `overrides` (``key=value``) applied.

        Raises:
            InvalidConfig: If a key is unknown or a value of the wrong type.
        """
        data = apply_overrides(self.card.config if self.card else {}, overrides)
        return validated(self.environment.Config, data, f"config of {self.name}")

    @property
    def example_path(self) -> Path | None:
        """Its example rows, where it ships some."""
        path = self.folder / "data" / "example.jsonl" if self.folder else None
        return path if path is not None and path.exists() else None

    def example_tasks(self) -> list[Task]:
        """The tasks it ships as examples; empty where there are none."""
        return list(self.read_tasks(self.example_path)) if self.example_path else []

    def read_tasks(self, path: Path | str) -> Iterator[Task]:
        """The tasks of a JSONL file, one at a time.

        Raises:
            InvalidRow: Naming file, line, field and fix.
        """
        for line, row in read_rows(path):
            yield self.environment.task_type.from_row(row, source=str(path), line=line)


def environment_names() -> list[str]:
    """Names of the built-in environments and of those that entry points add, sorted."""
    built_in = {folder.name for folder in _built_in_folders()}
    return sorted(built_in | {point.name for point in entry_points(group=ENTRY_POINTS)})


def load_environment(name: str) -> EnvironmentEntry:
    """The environment called `name`.

    Args:
        name: A folder, ``module:Class``, the name of an entry point, or a built-in name.

    Raises:
        UnknownEnvironment: If nothing answers to the name; lists what does.
        InvalidEnvironment: If what answers is not an environment.
    """
    folder = Path(name).expanduser()
    if (folder / "environment.py").is_file():
        return _from_folder(folder.resolve())
    if ":" in name:
        return _from_path(name, name)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _from_entry_point(point)
    if any(folder.name == name for folder in _built_in_folders()):
        return _from_module(name, importlib.import_module(f"{BUILT_IN}.{name}.environment"))
    known = environment_names()
    raise UnknownEnvironment(
        f"no environment is called {name!r}. {_hint(name, known)}There are: {', '.join(known)}. "
        "A folder with an environment.py, or module:Class, works too"
    )


def _hint(name: str, known: Sequence[str]) -> str:
    """What was probably meant, as a sentence; ``""`` where nobody can tell."""
    path = Path(name)
    if path.suffix == ".py":
        if path.name == "environment.py":
            return f"Give its folder, {str(path.parent)!r}. "
        return f"A file is named as module:Class, here {path.stem}:YourClass. "
    if path.is_dir():
        return "That folder has no environment.py. "
    near = get_close_matches(name.strip("/").lower().replace("-", "_"), known, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _built_in_folders() -> list[Path]:
    package = importlib.import_module(BUILT_IN)
    return [
        folder
        for root in package.__path__
        for folder in Path(root).iterdir()
        if (folder / "environment.py").is_file()
    ]


def _from_entry_point(point: EntryPoint) -> EnvironmentEntry:
    return _from_path(point.name, point.value)


def _from_path(name: str, path: str) -> EnvironmentEntry:
    module_name, _, class_name = path.partition(":")
    names = [*module_name.split("."), *([class_name] if class_name else [])]
    if not all(part.isidentifier() for part in names):
        raise UnknownEnvironment(
            f"{path!r} names no module and class. Write it as module:Class, e.g. counter:Counter "
            "for a class in counter.py"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # `module:Class` names the caller's own module, as it does for uvicorn or pytest.
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UnknownEnvironment(
            f"{path!r}: there is no module {error.name!r}; is its folder on PYTHONPATH?"
        ) from error
    if not class_name:
        return _from_module(name, module)
    return EnvironmentEntry(name, _class_in(module, class_name), _module_folder(module))


def _from_folder(folder: Path) -> EnvironmentEntry:
    # The path's hash keeps two folders of one name apart; the package makes relative imports work.
    digest = blake2b(str(folder).encode(), digest_size=4).hexdigest()
    package_name = f"_gym_adapters_folder_{digest}_{folder.name}"
    module_name = f"{package_name}.environment"
    if module_name not in sys.modules:
        package = ModuleType(package_name)
        package.__path__ = [str(folder)]
        sys.modules[package_name] = package
    return _from_module(folder.name, importlib.import_module(module_name))


def _from_module(name: str, module: ModuleType) -> EnvironmentEntry:
    folder = _module_folder(module)
    has_card = folder is not None and (folder / "config.yaml").exists()
    chosen = load_card(folder).environment if has_card and folder is not None else None
    if chosen is not None:
        return EnvironmentEntry(name, _class_in(module, chosen.rpartition(":")[2]), folder)
    own = _classes_of(module)
    if len(own) != 1:
        found = ", ".join(cls.__name__ for cls in own) or "none"
        raise InvalidEnvironment(
            f"{module.__name__} must define one Environment class, but defines: {found}. "
            'Name one as module:Class, or in config.yaml as environment: "environment:Class"'
        )
    return EnvironmentEntry(name, own[0], folder)


def _class_in(module: ModuleType, name: str) -> type[Environment[Any]]:
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, Environment)):
        there = [member.__name__ for member in _classes_of(module)]
        near = get_close_matches(name, there, n=1) or there
        hint = f"; it has {', '.join(near)}" if near else ""
        raise InvalidEnvironment(
            f"{module.__name__} has no Environment class called {name!r}{hint}"
        )
    return found


def _classes_of(module: ModuleType) -> list[type[Environment[Any]]]:
    """The environments that a module defines itself."""
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, Environment)
        and member.__module__ == module.__name__
    ]


def _module_folder(module: ModuleType) -> Path | None:
    return Path(module.__file__).resolve().parent if module.__file__ else None
