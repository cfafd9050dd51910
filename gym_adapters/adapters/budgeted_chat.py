"""A chat model whose rollouts may hold so many tokens after the prompt, over all turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gym_adapters.errors import ModelError
from gym_adapters.generation.chat import ChatSession, ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.items import FunctionTool, Item
from gym_adapters.segment import Segment

__all__ = ["BudgetedChat", "TokenBudget"]


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Bounds in tokens.

    Attributes:
        completion: Most tokens after the prompt, sampled or not, over all turns.
        context: Most tokens of prompt and completion together; ``None`` for no bound of its own.
        prompt: Most tokens of the prompt; a longer one fails its rollout. ``None`` for no bound.
    """

    completion: int
    context: int | None = None
    prompt: int | None = None


class BudgetedChat:
    """A `ChatModel` that gives each rollout the context its own prompt leaves it.

    Trainers bound completions, prompts differ in length, and a chat model bounds both together.

    Args:
        model: Over a token generator; its own `max_context` is not used.
        budget: Of each rollout.
    """

    def __init__(self, model: TokenChatModel, budget: TokenBudget) -> None:
        self._model, self._budget = model, budget

    @property
    def name(self) -> str:
        """What to call the model in a rollout's provenance."""
        return self._model.name

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer."""
        return self._model.renderer.template_hash

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> ChatSession:
        """A fresh session; its bound is known once it has read the prompt."""
        return _Session(self._model, self._budget, tools, sampling, request_id)


class _Session:
    """Opens the real session when the prompt is there."""

    def __init__(
        self,
        model: TokenChatModel,
        budget: TokenBudget,
        tools: Sequence[FunctionTool],
        sampling: SamplingParams,
        request_id: str,
    ) -> None:
        self._model, self._budget = model, budget
        self._tools, self._sampling, self._request_id = tools, sampling, request_id
        self._session: ChatSession | None = None

    @property
    def segments(self) -> Sequence[Segment]:
        return () if self._session is None else self._session.segments

    async def respond(self, new_items: Sequence[Item]) -> ModelTurn | None:
        if self._session is None:
            self._session = self._opened(new_items)
        return await self._session.respond(new_items)

    def _opened(self, prompt: Sequence[Item]) -> ChatSession:
        model, budget = self._model, self._budget
        read = len(model.renderer.prompt_ids(prompt, self._tools))
        if budget.prompt is not None and read > budget.prompt:
            raise ModelError(
                f"the prompt has {read} tokens, and the trainer takes {budget.prompt} at most. "
                "Fix: allow longer prompts, or leave the row out."
            )
        length = read + budget.completion
        bounded = TokenChatModel(
            model.generator,
            model.renderer,
            model.parser,
            name=model.name,
            max_context=min(length, budget.context or length),
            strict=model.strict,
        )
        return bounded.open(tools=self._tools, sampling=self._sampling, request_id=self._request_id)
