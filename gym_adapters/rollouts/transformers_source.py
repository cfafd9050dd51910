"""The model spec ``transformers:PATH``: a local model in this process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.local_source import LocalModelSource, found_model
from gym_adapters.rollouts.models import ModelSource

__all__ = ["TransformersSource", "transformers_source"]


class TransformersSource(LocalModelSource):
    """A model folder, sampled in this process.

    Args:
        path: Folder, or name of a model in the Hugging Face cache; nothing is downloaded.
        seed: Sampling is a function of it, the rollout and the turn.
    """

    def __init__(self, path: str, *, seed: int) -> None:
        super().__init__(f"transformers:{path}" if path != "tiny" else path)
        self._location, self._seed = path, seed

    async def _load(self, stack: AsyncExitStack) -> ChatModel:
        require("transformers", "transformers", "a model of transformers")
        require("torch", "transformers", "a model of transformers")
        from gym_adapters.generation.token_chat import TokenChatModel
        from gym_adapters.tokens.output_parser import output_parser
        from gym_adapters.tokens.template_renderer import TemplateRenderer

        # In a thread: loading takes seconds to minutes, and an event loop must not wait for it.
        generator, tokenizer = await asyncio.to_thread(self._read, await self._path())
        await stack.enter_async_context(generator)
        renderer = TemplateRenderer(tokenizer)
        return TokenChatModel(generator, renderer, output_parser(tokenizer), name=self.name)

    async def _path(self) -> str:
        return await asyncio.to_thread(found_model, self._location, "transformers")

    def _read(self, path: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from gym_adapters.generation.transformers_generator import TransformersGenerator

        try:
            generator = TransformersGenerator.from_pretrained(path, seed=self._seed)
            return generator, AutoTokenizer.from_pretrained(path, local_files_only=True)
        except ValueError as error:
            raise InvalidConfig(
                f"there is no model at {path!r} that transformers can load: {error}"
            ) from error


def transformers_source(argument: str, seed: int) -> ModelSource:
    """``transformers:PATH``."""
    if not argument:
        raise InvalidConfig("transformers: needs a model: write transformers:PATH")
    return TransformersSource(argument, seed=seed)
