"""The machine: GPUs, memory, and packages that break each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gym_adapters.doctor.finding import Finding, failed, fine, warned

__all__ = ["Machine", "installed_version", "machine_findings", "this_machine"]

GIB = 2**30
# They are built for one build of torch; pip brings those for CUDA whatever torch there is.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
LITTLE_MEMORY = 8 * GIB


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run on.

    Attributes:
        gpus: Name and bytes of memory of each.
        memory: Bytes of RAM; 0 where unknown.
        cores: Of the CPU.
        torch: Version, with its local part; ``None`` without torch.
        torch_is_for_cpu: Whether torch was built without CUDA and ROCm.
        companions: Versions of the packages that must be of torch's own build.
        threads: ``OMP_NUM_THREADS``.
    """

    gpus: tuple[tuple[str, int], ...]
    memory: int
    cores: int
    torch: str | None
    torch_is_for_cpu: bool
    companions: Mapping[str, str]
    threads: str | None


def installed_version(package: str) -> str | None:
    """The version installed, without importing it; ``None`` where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def this_machine() -> Machine:
    """The machine this runs on."""
    found = {name: installed_version(name) for name in COMPANIONS}
    gpus: list[tuple[str, int]] = []
    built, for_cpu = installed_version("torch"), False
    if built is not None:
        import torch

        built, for_cpu = torch.__version__, not (torch.version.cuda or torch.version.hip)
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                gpu = torch.cuda.get_device_properties(index)
                gpus.append((gpu.name, int(gpu.total_memory)))
    return Machine(
        gpus=tuple(gpus),
        memory=_memory(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _all_cores(),
        torch=built,
        torch_is_for_cpu=for_cpu,
        companions={name: number for name, number in found.items() if number is not None},
        threads=os.environ.get("OMP_NUM_THREADS"),
    )


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Whether it can run anything at all."""
    yield _torch(machine)
    if machine.torch is not None:
        yield from _companions(machine)
    if machine.gpus:
        names = ", ".join(f"{name} ({size / GIB:.0f} GiB)" for name, size in machine.gpus)
        yield fine("machine", "GPU", names)
    else:
        yield warned(
            "machine",
            "GPU",
            "none is visible to torch: only trial runs of tiny models are worth while",
            "if there is one: nvidia-smi, and CUDA_VISIBLE_DEVICES; else use recipes with --smoke",
        )
    yield _memory_finding(machine)
    if not machine.gpus and machine.threads is None and machine.cores > 1:
        yield warned(
            "machine",
            "threads",
            f"OMP_NUM_THREADS is not set, and {machine.cores} threads in each process slow down "
            "small models several times",
            "export OMP_NUM_THREADS=1 for runs on a CPU",
        )
    else:
        yield fine("machine", "cores", str(machine.cores))


def _torch(machine: Machine) -> Finding:
    if machine.torch is None:
        return warned(
            "machine",
            "torch",
            "not installed: nothing can be trained here",
            "pip install 'gym-adapters[trl]' or the extra of your trainer",
        )
    kind = "built for CPUs" if machine.torch_is_for_cpu else "built for GPUs"
    return fine("machine", "torch", f"{machine.torch}, {kind}")


def _companions(machine: Machine) -> Iterator[Finding]:
    if not (machine.torch_is_for_cpu and sys.platform == "linux"):
        return
    alien = {name: v for name, v in machine.companions.items() if not v.endswith("+cpu")}
    if alien:
        names = ", ".join(f"{name} {number}" for name, number in alien.items())
        yield failed(
            "machine",
            "torch's companions",
            f"{names}: built for another torch, so that transformers dies at import with "
            "'operator torchvision::nms does not exist' or the like",
            f"pip uninstall -y {' '.join(alien)}",
        )


def _memory_finding(machine: Machine) -> Finding:
    if not machine.memory:
        return fine("machine", "memory", "can't be told on this platform")
    told = f"{machine.memory / GIB:.0f} GiB of RAM"
    if machine.memory < LITTLE_MEMORY:
        return warned(
            "machine", "memory", told, "trainer and engine together take more: close other programs"
        )
    return fine("machine", "memory", told)


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _all_cores() -> int:
    return os.cpu_count() or 1
