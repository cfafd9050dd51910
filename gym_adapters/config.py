"""Configuration: an environment's card (``config.yaml``) and dotted overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gym_adapters.errors import InvalidConfig

__all__ = ["Budget", "EnvironmentCard", "apply_overrides", "load_card", "validated"]

ModelT = TypeVar("ModelT", bound=BaseModel)


class Budget(BaseModel):
    """How much of a model an attempt should take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_turns: int = Field(default=16, ge=1)
    max_tokens_per_turn: int = Field(default=1024, ge=1)


class EnvironmentCard(BaseModel):
    """What a person wants to know before using an environment: its ``config.yaml``.

    Attributes:
        domain: One word: math, agent, knowledge, coding, games, safety, instruction_following ...
        description: One sentence.
        teaches: What a policy gets better at.
        licence: SPDX identifier of the example data.
        reward_range: Least and greatest reward.
        constant_reward: Whether every attempt gets the same reward, by design.
        final_text: Whether the verdict is on the final text (so a cut attempt can't win).
        environment: ``module:Class`` relative to the folder; only where the folder defines several.
        config: Settings of the environment, validated against its ``Config``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str
    description: str
    teaches: str
    licence: str
    dataset: str = "synthetic"
    reward_range: tuple[float, float] = (0.0, 1.0)
    constant_reward: bool = False
    final_text: bool = False
    agent: str = "tool_agent"
    environment: str | None = None
    budget: Budget = Budget()
    config: dict[str, Any] = Field(default_factory=dict)


def load_card(folder: Path) -> EnvironmentCard:
    """The card of the environment in `folder`.

    Raises:
        InvalidConfig: If ``config.yaml`` is absent, not YAML, or has a wrong field.
    """
    path = folder / "config.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidConfig(f"{path} is absent; an environment's folder needs its card") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        raise InvalidConfig(f"{path} is not valid YAML: {error}") from error
    return validated(EnvironmentCard, data, str(path))


def validated(model: type[ModelT], data: Any, source: str) -> ModelT:
    """`data` as a `model`; errors name `source` and the field."""
    try:
        return model.model_validate(data if data is not None else {})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        known = ", ".join(model.model_fields) or "none"
        raise InvalidConfig(f"{source}: {problems}. Fields are: {known}") from error


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with ``key.sub=value`` overrides applied; values are YAML.

    Raises:
        InvalidConfig: If an override has no ``=``, or goes below something that holds no keys.
    """
    result = _copied(data)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise InvalidConfig(f"override {override!r}: write it as key=value, e.g. lenient=true")
        *parents, last = path.split(".")
        node = result
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise InvalidConfig(f"override {override!r}: {key} holds a value, not keys")
        try:
            node[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise InvalidConfig(f"override {override!r}: not valid YAML: {error}") from error
    return result


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in data.items()}
