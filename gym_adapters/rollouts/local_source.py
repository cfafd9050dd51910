"""What the model specs ``transformers:PATH`` and ``vllm:PATH`` share: a local model with tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.generation.chat import ChatModel
from gym_adapters.rollouts.models import SourceBase
from gym_adapters.task import Task

__all__ = ["LocalModelSource", "found_model"]


class LocalModelSource(SourceBase, ABC):
    """One model, loaded when the source is entered, for all rollouts."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._model: ChatModel | None = None
        self._stack = AsyncExitStack()

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer; ``None`` before it is entered."""
        return None if self._model is None else self._model.template_hash

    async def __aenter__(self) -> Self:
        self._model = await self._load(self._stack)
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

    @abstractmethod
    async def _load(self, stack: AsyncExitStack) -> ChatModel:
        """The model; what must be closed goes on `stack`.

        Raises:
            UsageError: If there is no such model, or a package for it is missing.
        """


def found_model(path: str, extra: str) -> str:
    """The folder or name of a model that is on this machine, before anything heavy is loaded.

    Args:
        path: Folder, or name of a model in the Hugging Face cache.
        extra: That brings what reads it.

    Raises:
        InvalidConfig: If there is none, with what to do.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InvalidConfig(
                f"the folder {path} holds no model: there is no config.json in it. "
                "Fix: give the folder that save_pretrained wrote"
            )
        return str(folder)
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise InvalidConfig(
            f"there is no folder {path}. Fix: give the folder of a model, or the name of one in "
            "the Hugging Face cache, such as Qwen/Qwen3-0.6B"
        )
    hub = require("huggingface_hub", extra, "a model of the Hugging Face cache")
    try:
        cached = hub.try_to_load_from_cache(path, "config.json")
    except ValueError:
        cached = None
    if not isinstance(cached, str):
        raise InvalidConfig(
            f"there is neither a folder {path} nor a model of that name in the Hugging Face cache, "
            f"and nothing is downloaded by itself. Fix: hf download {path}"
        )
    return path
