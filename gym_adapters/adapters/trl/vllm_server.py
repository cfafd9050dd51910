"""The vLLM server that GRPOTrainer pushes weights to."""

from __future__ import annotations

from typing import Any

from gym_adapters.generation.vllm_http import VLLMHttpGenerator

__all__ = ["server_generator"]

# Seconds for one turn, at most; a rollout's own turn timeout is usually shorter.
TURN_TIMEOUT = 3600.0


def server_generator(trainer: Any) -> VLLMHttpGenerator:
    """A generator over the server whose weights the trainer pushes; every process asks itself.

    The server must run with ``--logprobs-mode processed_logprobs``, as TRL asks for.

    Raises:
        MissingExtra: Without aiohttp.
    """
    args, state = trainer.args, trainer.state
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    return VLLMHttpGenerator(
        url, weights_version=lambda: int(state.global_step), deadline=TURN_TIMEOUT
    )
