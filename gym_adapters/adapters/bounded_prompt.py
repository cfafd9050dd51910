"""A chat model that takes prompts up to a length: trainers keep so much room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gym_adapters.errors import ModelError
from gym_adapters.generation.chat import ChatSession, ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.items import FunctionTool, Item
from gym_adapters.segment import Segment

__all__ = ["BoundedPrompt"]


class BoundedPrompt:
    """A `ChatModel` that fails a rollout whose prompt is too long, before anything is sampled.

    Args:
        model: Over a token generator.
        longest: Most tokens of a prompt, tools included.
    """

    def __init__(self, model: TokenChatModel, longest: int) -> None:
        self._model, self._longest = model, longest

    @property
    def name(self) -> str:
        """What to call the model in a rollout's provenance."""
        return self._model.name

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer."""
        return self._model.template_hash

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> ChatSession:
        """A fresh session; its first answer raises `ModelError` where the prompt is too long."""
        session = self._model.open(tools=tools, sampling=sampling, request_id=request_id)
        return _Session(session, self._model, tools, self._longest)


class _Session:
    def __init__(
        self,
        session: ChatSession,
        model: TokenChatModel,
        tools: Sequence[FunctionTool],
        longest: int,
    ) -> None:
        self._session, self._model, self._tools, self._longest = session, model, tools, longest
        self._began = False

    @property
    def segments(self) -> Sequence[Segment]:
        return self._session.segments

    async def respond(
        self, new_items: Sequence[Item], *, constraint: Mapping[str, Any] | None = None
    ) -> ModelTurn | None:
        if not self._began:
            self._began = True
            length = len(self._model.renderer.prompt_ids(new_items, self._tools))
            if length > self._longest:
                raise ModelError(
                    f"the prompt has {length} tokens, and the trainer takes {self._longest} at "
                    "most. Fix: allow longer prompts, or leave the row out."
                )
        return await self._session.respond(new_items, constraint=constraint)
