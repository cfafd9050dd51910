"""Generation beside AsyncGRPOTrainer, which pushes new weights while turns are being sampled."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gym_adapters.adapters.trainer_sampling import TrainerSampling
from gym_adapters.adapters.trl.async_settings import AsyncSettings
from gym_adapters.adapters.trl.environment_blend import EnvironmentPart
from gym_adapters.adapters.trl.speech import speech_of
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.protocol import Generation, SamplingParams, TokenGenerator
from gym_adapters.generation.vllm_http import VLLMHttpGenerator

__all__ = ["AsyncPolicy", "ServedPolicy", "VersionedGenerator", "async_policy"]

# What TRL calls the adapters that it pushes, with "-v" and the version.
_ADAPTER = "trl-policy"


class VersionedGenerator:
    """Stamps each turn with the version that was live when it began, TRL's own count.

    Weights may change in the middle of a turn: it is then as old as its first token.

    Args:
        generator: Samples.
        version: The version that is live.
        seed: Seeds each turn by itself. The engines of a data-parallel server draw the seeds of
            unseeded requests alike, and could answer a prompt alike; ``None`` passes none.
    """

    def __init__(
        self, generator: TokenGenerator, version: Callable[[], int], seed: int | None = None
    ) -> None:
        self._generator, self._version, self._seed = generator, version, seed

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """As the generator does; see `gym_adapters.generation.protocol.TokenGenerator`."""
        version = self._version()
        if self._seed is not None and sampling.seed is None:
            turn = random.Random(f"{self._seed} {request_id} {len(prompt_ids)}")
            sampling = replace(sampling, seed=turn.getrandbits(63))
        generation = await self._generator.generate(
            prompt_ids, sampling, request_id=request_id, media=media
        )
        return replace(generation, weights_version=version)


class ServedPolicy:
    """The vLLM server that AsyncGRPOTrainer pushes weights to.

    Where TRL trains a LoRA and the server takes adapters, it pushes each version under a name of
    its own, and the server's own name stays that of the base model. Which way it is shows in the
    names that the server knows once the first weights are there.

    Args:
        settings: Of the training.
        version: The version that is live.

    Raises:
        MissingExtra: Without aiohttp.
    """

    def __init__(self, settings: AsyncSettings, version: Callable[[], int]) -> None:
        self._settings, self._version = settings, version
        self._base = self._server(None)
        self._adapters: dict[int, VLLMHttpGenerator] = {}
        self._has_adapters: bool | None = None

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """As `gym_adapters.generation.vllm_http.VLLMHttpGenerator` does."""
        if self._has_adapters is None:
            names = await self._base.served_models()
            self._has_adapters = any(name.startswith(f"{_ADAPTER}-v") for name in names)
        server = await self._newest() if self._has_adapters else self._base
        return await server.generate(prompt_ids, sampling, request_id=request_id, media=media)

    async def aclose(self) -> None:
        """Close all connections."""
        for server in [self._base, *self._adapters.values()]:
            await server.aclose()

    async def _newest(self) -> VLLMHttpGenerator:
        version = self._version()
        if version not in self._adapters:
            self._adapters[version] = self._server(f"{_ADAPTER}-v{version}")
        # TRL unloads what no sample may come from any more; nobody waits for those.
        old = version - self._settings.staleness - 2
        if old in self._adapters:
            await self._adapters.pop(old).aclose()
        return self._adapters[version]

    def _server(self, model: str | None) -> VLLMHttpGenerator:
        settings = self._settings
        return VLLMHttpGenerator(
            settings.server_url, model=model, deadline=settings.request_timeout
        )


@dataclass(frozen=True, slots=True)
class AsyncPolicy:
    """The model, and how to sample from it in each environment.

    Attributes:
        model: What episodes speak to.
        samplings: By environment.
    """

    model: ChatModel
    samplings: Mapping[str, TrainerSampling]


def async_policy(
    settings: AsyncSettings,
    tokenizer: Any,
    generator: TokenGenerator,
    parts: Mapping[str, EnvironmentPart],
    *,
    chat_format: str | None,
) -> AsyncPolicy:
    """The policy of a run, over `generator`.

    Raises:
        UsageError: If the tokenizer has no chat template.
    """
    from gym_adapters.generation.token_chat import TokenChatModel

    speech = speech_of(tokenizer, settings.template_kwargs, chat_format)
    model = TokenChatModel(
        generator,
        speech.renderer,
        speech.parser,
        name=settings.model,
        max_context=settings.max_context,
        max_completion=settings.max_completion,
    )
    samplings = {
        name: TrainerSampling(replace(settings.sampling, max_tokens=part.max_tokens_per_turn))
        for name, part in parts.items()
    }
    return AsyncPolicy(model, samplings)
