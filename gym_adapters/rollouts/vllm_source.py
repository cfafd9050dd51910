"""The model spec ``vllm:PATH``: a local model in a vLLM engine of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.local_source import LocalModelSource, found_model
from gym_adapters.rollouts.models import ModelSource

__all__ = ["VLLMSource", "vllm_source"]


class VLLMSource(LocalModelSource):
    """A model folder, sampled by vLLM.

    Args:
        path: Folder, or name of a model in the Hugging Face cache; nothing is downloaded.
        seed: Of the engine. Which rollout gets which numbers depends on who shares its batch.
    """

    def __init__(self, path: str, *, seed: int) -> None:
        super().__init__(f"vllm:{path}")
        self._path, self._seed = path, seed

    async def _load(self, stack: AsyncExitStack) -> ChatModel:
        path = await asyncio.to_thread(found_model, self._path, "vllm")
        require("vllm", "vllm", "a vLLM engine")
        from gym_adapters.generation.token_chat import TokenChatModel
        from gym_adapters.generation.vllm_engine import VLLMGenerator
        from gym_adapters.tokens.output_parser import output_parser
        from gym_adapters.tokens.template_renderer import TemplateRenderer

        generator = await VLLMGenerator.start(path, seed=self._seed % 2**32)
        await stack.enter_async_context(generator)
        transformers = require("transformers", "vllm", "a vLLM engine")
        folder = generator.engine.vllm_config.model_config.model
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return TokenChatModel(
            generator,
            TemplateRenderer(tokenizer),
            output_parser(tokenizer),
            name=self.name,
            max_context=generator.max_context,
        )


def vllm_source(argument: str, seed: int) -> ModelSource:
    """``vllm:PATH``."""
    if not argument:
        raise InvalidConfig("vllm: needs a model: write vllm:PATH")
    return VLLMSource(argument, seed=seed)
