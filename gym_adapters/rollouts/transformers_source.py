"""The model spec ``transformers:PATH``: a local model, with exact tokens."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.models import ModelSource, SourceBase
from gym_adapters.task import Task

__all__ = ["TransformersSource", "transformers_source"]


class TransformersSource(SourceBase):
    """A model folder, sampled in this process.

    Args:
        path: Folder, or name of a model in the Hugging Face cache; nothing is downloaded.
        seed: Sampling is a function of it, the rollout and the turn.
    """

    def __init__(self, path: str, *, seed: int) -> None:
        super().__init__(f"transformers:{path}" if path != "tiny" else path)
        self._location, self._seed = path, seed
        self._model: ChatModel | None = None
        self._stack = AsyncExitStack()

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer; ``None`` before it is entered."""
        return None if self._model is None else self._model.template_hash

    async def __aenter__(self) -> Self:
        require("transformers", "transformers", "a model of transformers")
        require("torch", "transformers", "a model of transformers")
        # In a thread: loading takes seconds to minutes, and an event loop must not wait for it.
        generator, tokenizer = await asyncio.to_thread(self._load, await self._path())
        await self._stack.enter_async_context(generator)
        self._model = _chat_model(generator, tokenizer, self.name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._model = None
        await self._stack.aclose()

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """The one model."""
        if self._model is None:
            raise RuntimeError(f"enter the source {self.name!r} before asking it for models")
        return self._model

    async def _path(self) -> str:
        return self._location

    def _load(self, path: str) -> tuple[Any, Any]:
        from transformers import AutoTokenizer

        from gym_adapters.generation.transformers_generator import TransformersGenerator

        try:
            generator = TransformersGenerator.from_pretrained(path, seed=self._seed)
            return generator, AutoTokenizer.from_pretrained(path, local_files_only=True)
        except ValueError as error:
            raise InvalidConfig(
                f"there is no model at {path!r} that transformers can load: {error}"
            ) from error


def _chat_model(generator: Any, tokenizer: Any, name: str) -> ChatModel:
    from gym_adapters.generation.token_chat import TokenChatModel
    from gym_adapters.tokens.output_parser import output_parser
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    renderer = TemplateRenderer(tokenizer)
    return TokenChatModel(generator, renderer, output_parser(tokenizer), name=name)


def transformers_source(argument: str, seed: int) -> ModelSource:
    """``transformers:PATH``."""
    if not argument:
        raise InvalidConfig("transformers: needs a model: write transformers:PATH")
    return TransformersSource(argument, seed=seed)
