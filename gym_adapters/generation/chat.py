"""What an agent talks to: a model that reads items and answers with items.

A `ChatModel` opens one `ChatSession` per rollout. Over a `TokenGenerator` the session keeps the
exact `TokenLedger` (`gym_adapters.generation.token_chat`); over a text endpoint it keeps items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import FinishReason, FunctionTool, Item
from gym_adapters.segment import Segment

__all__ = ["ChatModel", "ChatSession", "ModelTurn", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call: `input_tokens` of context read, `output_tokens` sampled."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """One turn of the assistant.

    Attributes:
        items: Reasoning, messages and function calls, in the order written; may be empty.
        finish_reason: ``length`` when the turn was cut by its token budget.
        usage: Tokens read and sampled.
    """

    items: Sequence[Item]
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)


class ChatSession(Protocol):
    """The model's side of one rollout. Not for concurrent use."""

    @property
    def segments(self) -> Sequence[Segment]:
        """Token segments so far; empty where the model gives no tokens."""
        ...

    async def respond(
        self, new_items: Sequence[Item], *, constraint: Mapping[str, Any] | None = None
    ) -> ModelTurn | None:
        """Read `new_items`, which follow all that was said before, and answer.

        Args:
            new_items: What is new.
            constraint: What this turn must look like (`gym_adapters.generation.constrained`).

        Returns:
            The turn, or ``None`` where `new_items` leave no context to answer in: they are then not
            among the session's tokens, and the session is over.

        Raises:
            ModelError: If generation fails.
            Unsupported: If the model can't be held to the constraint.
        """
        ...


class ChatModel(Protocol):
    """A policy that can be asked for any number of concurrent sessions."""

    @property
    def name(self) -> str:
        """What to call it in a rollout's provenance."""
        ...

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template and tokenizer; ``None`` where it keeps no tokens."""
        ...

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> ChatSession:
        """A fresh session.

        Args:
            tools: Tools the model may call.
            sampling: Sampling of every turn; `max_tokens` is the budget of one turn.
            request_id: Names the rollout to the engine.
        """
        ...
