"""The rollout engine ``hf_cpu``: FOR TESTING ONLY. A transformers model in a Ray actor."""

from __future__ import annotations

import os
from typing import Any

import ray
import torch
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from gym_adapters.errors import Unsupported
from gym_adapters.generation.protocol import SamplingParams

__all__ = ["HfReplica", "HfRollout", "HfServer"]

_KNOWN = {"temperature", "top_p", "top_k", "max_tokens", "stop_token_ids", "logprobs"}


def _server_name(rank: int) -> str:
    return f"gym_adapters_hf_cpu_{rank}"


class HfServer:
    """Generates with the newest weights it was given.

    Args:
        model_path: Folder of the model.
        max_context: Most tokens of prompt and turn together.
    """

    def __init__(self, model_path: str, max_context: int | None) -> None:
        from gym_adapters.generation.transformers_generator import TransformersGenerator

        torch.set_num_threads(1)
        self._generator = TransformersGenerator.from_pretrained(
            model_path, dtype="float32", max_context=max_context, seed=0
        )
        self._global_steps: int | None = None

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **media: Any
    ) -> TokenOutput:
        """One turn, as verl's servers give it.

        Raises:
            Unsupported: If there is media, or a sampling setting that it does not know.
        """
        settings = dict(sampling_params)
        unknown = [key for key in settings if key not in _KNOWN and key != "repetition_penalty"]
        if unknown or settings.pop("repetition_penalty", 1.0) != 1.0 or any(media.values()):
            raise Unsupported(f"hf_cpu takes text and {sorted(_KNOWN)}, not {sampling_params}.")
        generation = await self._generator.generate(
            prompt_ids,
            SamplingParams(
                max_tokens=settings.get("max_tokens"),
                temperature=settings.get("temperature", 1.0),
                top_p=settings.get("top_p", 1.0),
                top_k=max(0, settings.get("top_k", 0)),
                stop_token_ids=tuple(settings.get("stop_token_ids") or ()),
            ),
            request_id=request_id,
        )
        return TokenOutput(
            token_ids=list(generation.token_ids),
            log_probs=list(generation.logprobs) if settings.get("logprobs") else None,
            stop_reason="completed",
            extra_fields={"global_steps": self._global_steps},
        )

    async def update_weights(
        self, weights: dict[str, torch.Tensor], global_steps: int | None
    ) -> None:
        """Take new weights; verl calls this while nothing is generated."""
        self._generator.model.load_state_dict(weights)
        self._global_steps = global_steps

    async def set_global_steps(self, global_steps: int | None) -> None:
        """Name the version of the weights."""
        self._global_steps = global_steps

    async def wake_up(self) -> None:
        """Nothing sleeps here."""

    async def sleep(self) -> None:
        """Nothing sleeps here."""

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Requests run on, also while weights change: meant for the trainer mode ``sync``."""

    async def resume_generation(self) -> None:
        """Nothing was stopped."""

    async def clear_kv_cache(self) -> None:
        """There is no cache beyond a call."""

    async def release_kv_cache(self) -> None:
        """There is no cache beyond a call."""

    async def resume_kv_cache(self) -> None:
        """There is no cache beyond a call."""


class HfReplica(RolloutReplica):
    """One `HfServer`."""

    async def launch_servers(self) -> None:
        """Start the server."""
        name = _server_name(self.replica_rank)
        path = self.model_config["path"]
        actor = ray.remote(HfServer).options(name=name, num_cpus=1, max_concurrency=256)
        server = actor.remote(str(path), self.config.max_model_len)
        self.servers = [server]
        self._server_handle, self._server_address = server, name


class HfRollout(BaseRollout):
    """The trainer's side: sends weights."""

    async def resume(self, tags: list[str]) -> None:
        """Nothing was released."""

    async def release(self) -> None:
        """Nothing is released."""

    async def update_weights(
        self, weights: Any, wire_format: str = "named_tensors", **options: Any
    ) -> None:
        """Send all weights at once: models here are tiny."""
        tensors = {name: tensor.detach().cpu().float().clone() for name, tensor in weights}
        server = ray.get_actor(_server_name(int(os.environ.get("RANK", "0"))))
        await server.update_weights.remote(tensors, options.get("global_steps"))


RolloutReplicaRegistry.register("hf_cpu", lambda: HfReplica)
_ROLLOUT_REGISTRY[("hf_cpu", "async")] = f"{__name__}.HfRollout"
