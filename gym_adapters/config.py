"""Configuration: an environment's card (``config.yaml``) and dotted overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gym_adapters.errors import InvalidConfig

__all__ = ["Budget", "EnvironmentCard", "apply_overrides", "load_card", "parsed_yaml", "validated"]

ModelT = TypeVar("ModelT", bound=BaseModel)


_TAG = "tag:yaml.org,2002:"
_OF_YAML_1_1 = frozenset(f"{_TAG}{kind}" for kind in ("bool", "int", "float", "timestamp"))


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
        data = parsed_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidConfig(f"{path} is absent; an environment's folder needs its card") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidConfig(f"{path} is not valid YAML: {error}") from error
    return validated(EnvironmentCard, data, str(path))


class _CoreSchemaLoader(yaml.SafeLoader):
    """YAML 1.2's core schema: PyYAML's own is 1.1, where off is false, 1:30 is 90 and 010 is 8."""

    # Filled by add_implicit_resolver, which copies what stands here.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OF_YAML_1_1]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """An integer: decimal, or hexadecimal or octal by its prefix."""
        text = str(self.construct_scalar(node))
        return int(text, 0 if text.startswith(("0x", "0o")) else 10)


_CoreSchemaLoader.add_implicit_resolver(
    f"{_TAG}bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_CoreSchemaLoader.add_implicit_resolver(
    f"{_TAG}int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")
)
_CoreSchemaLoader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    list("-+.0123456789"),
)
_CoreSchemaLoader.add_constructor(f"{_TAG}int", _CoreSchemaLoader.whole_number)


def parsed_yaml(text: str) -> Any:
    """What a YAML text holds. ``on``, ``off``, ``yes``, ``no`` and dates are text.

    Raises:
        yaml.YAMLError: If it is not YAML.
        ValueError: If a value has no place in Python.
    """
    return yaml.load(text, Loader=_CoreSchemaLoader)  # a SafeLoader


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
            node[last] = parsed_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            raise InvalidConfig(f"override {override!r}: not valid YAML: {error}") from error
    return result


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in data.items()}
