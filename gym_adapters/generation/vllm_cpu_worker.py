"""vLLM's CPU worker, with weights that can be loaded anew. Imported by the engine's own process."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from gym_adapters.generation.vllm_cpu import keep_loadable_weights

__all__ = ["ReloadableWorker"]


class ReloadableWorker(CPUWorker):  # type: ignore[misc]
    """See `gym_adapters.generation.vllm_cpu`."""

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """As vLLM does, without packing."""
        keep_loadable_weights()
        super().load_model(load_dummy_weights=load_dummy_weights)
