"""What can be set of the adapter in NeMo RL's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gym_adapters.config import validated

__all__ = ["ActorSettings", "StepSettings"]


class ActorSettings(BaseModel):
    """``env.nemo_gym.gym_adapters``: the exact path.

    Attributes:
        max_concurrency: Most episodes of one environment at once.
        max_turns: Most turns of an episode; by default the card's.
        max_tokens_per_turn: Most tokens of one turn, within NeMo RL's ``max_new_tokens``.
        max_context: Most tokens of a rollout; by default what the servers take.
        chat_format: How the model writes tool calls; detected from the chat template by default.
        chat_template: A Jinja template in place of the tokenizer's; give the servers the same.
        template_kwargs: Variables for the template.
        seed: Of the run.
        turn_timeout: Seconds for one turn.
        attempts: Most requests for one turn.
        ledger: Folder to keep rollouts in, as ``gym-adapters collect`` keeps its.
        validation_ledger: The same for those on rows whose ``gym_split`` is ``validation``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_concurrency: int = Field(default=256, ge=1)
    max_turns: int | None = Field(default=None, ge=1)
    max_tokens_per_turn: int | None = Field(default=None, ge=1)
    max_context: int | None = Field(default=None, ge=2)
    chat_format: str | None = None
    chat_template: str | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    turn_timeout: float = Field(default=600.0, gt=0)
    attempts: int = Field(default=4, ge=1)
    ledger: str | None = None
    validation_ledger: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> ActorSettings:
        """The settings in `data`.

        Raises:
            InvalidConfig: Naming the field.
        """
        return validated(cls, dict(data or {}), "env.nemo_gym.gym_adapters")


class StepSettings(BaseModel):
    """``env.gym``: the native path. Its budgets must lie inside NeMo RL's own.

    Attributes:
        tokenizer: Name or folder of the policy's tokenizer.
        max_turns: Most turns of an episode: at most ``grpo.max_rollout_turns``.
        max_tokens: Most tokens of a sample, as decoded text encodes: below
            ``policy.max_total_sequence_length``, with room for one more turn.
        max_new_tokens: As in ``policy.generation``: a turn of so many was cut.
        idle_timeout: Seconds after which an episode that NeMo RL does not come back to is closed.
        chat_format: As in `ActorSettings`.
        chat_template: As in `ActorSettings`.
        template_kwargs: As in `ActorSettings`.
        seed: Of the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str
    max_turns: int = Field(ge=1)
    max_tokens: int = Field(ge=2)
    max_new_tokens: int = Field(ge=1)
    idle_timeout: float = Field(default=1800.0, gt=0)
    chat_format: str | None = None
    chat_template: str | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> StepSettings:
        """The settings in `data`.

        Raises:
            InvalidConfig: Naming the field.
        """
        return validated(cls, dict(data), "env.gym")
