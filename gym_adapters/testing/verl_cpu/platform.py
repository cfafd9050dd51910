"""The platform ``cpu``: FOR TESTING ONLY. Imported by every verl process that is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

__all__ = ["PlatformCPU"]


class _CpuDevice(ModuleType):
    """``torch.cpu``, and what verl asks of ``torch.cuda``: there is no memory to account for."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch.cpu, name, None)
        return found if found is not None else _nothing

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def mem_get_info(self, *_: object) -> tuple[int, int]:
        return 1, 1

    def get_device_name(self, *_: object) -> str:
        return "cpu"

    def get_rng_state(self, *_: object) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: object) -> None:
        torch.set_rng_state(state)


def _nothing(*_: object, **__: object) -> int:
    return 0


_DEVICE = _CpuDevice("torch.cpu")


@PlatformRegistry.register("cpu")
class PlatformCPU(PlatformBase):
    """One CPU, shown to Ray as one GPU."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _DEVICE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never found by itself: it must be asked for."""
        return False

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


def _accept_doubled_backend() -> None:
    """Let verl's ``cpu:gloo,cpu:gloo`` through: torch refuses a device that is named twice."""
    original = torch.distributed.init_process_group

    def init_process_group(backend: str | None = None, *args: Any, **options: Any) -> Any:
        if backend is not None and "," in backend:
            backend = ",".join(dict.fromkeys(backend.split(",")))
        return original(backend, *args, **options)

    torch.distributed.init_process_group = init_process_group


def _ignore_newer_trl() -> None:
    """Have verl do without TRL where TRL no longer has what verl patches in it (from 1.16 on)."""
    from verl.utils import import_utils

    import_utils.is_trl_available = lambda: False


_accept_doubled_backend()
_ignore_newer_trl()
