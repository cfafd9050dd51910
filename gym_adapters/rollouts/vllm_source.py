"""The model spec ``vllm:PATH``: a local model in a vLLM engine of its own, with exact tokens."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.models import ModelSource, SourceBase
from gym_adapters.task import Task

__all__ = ["VLLMSource", "vllm_source"]


class VLLMSource(SourceBase):
    """A model folder, sampled by vLLM.

    Args:
        path: Folder, or name of a model in the Hugging Face cache; nothing is downloaded.
        seed: Of the engine. Which rollout gets which numbers depends on who shares its batch.
    """

    def __init__(self, path: str, *, seed: int) -> None:
        super().__init__(f"vllm:{path}")
        self._path, self._seed = path, seed
        self._model: ChatModel | None = None
        self._stack = AsyncExitStack()

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer; ``None`` before it is entered."""
        return None if self._model is None else self._model.template_hash

    async def __aenter__(self) -> Self:
        require("vllm", "vllm", "a vLLM engine")
        from gym_adapters.generation.token_chat import TokenChatModel
        from gym_adapters.generation.vllm_engine import VLLMGenerator
        from gym_adapters.tokens.output_parser import output_parser
        from gym_adapters.tokens.template_renderer import TemplateRenderer

        generator = await VLLMGenerator.start(self._path, seed=self._seed % 2**32)
        await self._stack.enter_async_context(generator)
        transformers = require("transformers", "vllm", "a vLLM engine")
        folder = generator.engine.vllm_config.model_config.model
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = TokenChatModel(
            generator,
            TemplateRenderer(tokenizer),
            output_parser(tokenizer),
            name=self.name,
            max_context=generator.max_context,
        )
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


def vllm_source(argument: str, seed: int) -> ModelSource:
    """``vllm:PATH``."""
    if not argument:
        raise InvalidConfig("vllm: needs a model: write vllm:PATH")
    return VLLMSource(argument, seed=seed)
