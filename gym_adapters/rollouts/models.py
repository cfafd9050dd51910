"""Model specs: ``scheme:argument`` strings that name a policy, as ``--model`` takes them.

A scheme is a function ``(argument, seed) -> ModelSource``, named by an import path and loaded when
it is asked for. More of them come from entry points of the group ``gym_adapters.models``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, cast, runtime_checkable

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.chat import ChatModel
from gym_adapters.task import Task

__all__ = [
    "ModelScheme",
    "ModelSource",
    "SharedModel",
    "SourceBase",
    "model_schemes",
    "model_source",
]

ENTRY_POINTS = "gym_adapters.models"


@runtime_checkable
class ModelSource(Protocol):
    """Where the models of a run come from. Enter it to load or connect, leave it to let go."""

    @property
    def name(self) -> str:
        """The spec it came from, free of secrets; recorded in the run's manifest."""
        ...

    @property
    def template_hash(self) -> str | None:
        """Identifies its chat template, once entered; ``None`` where it keeps no tokens."""
        ...

    async def __aenter__(self) -> Self:
        """Load or connect.

        Raises:
            UsageError: If there is no such model, or a package for it is missing.
        """
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of what was loaded."""
        ...

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """The policy of one rollout: most sources give the same one each time.

        Raises:
            UsageError: If there is none for this environment.
        """
        ...


class SourceBase:
    """What most sources share: a name, no template and nothing to open.

    Attributes:
        says_the_same: Each attempt at a rollout reads the same words, so one that the model failed
            is not made again.
    """

    says_the_same: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The spec it came from."""
        return self._name

    @property
    def template_hash(self) -> str | None:
        """``None``, unless a subclass keeps tokens."""
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class SharedModel(SourceBase):
    """One `ChatModel`, opened elsewhere, for all rollouts."""

    def __init__(self, model: ChatModel) -> None:
        super().__init__(model.name)
        self._model = model

    @property
    def template_hash(self) -> str | None:
        """The model's own."""
        return self._model.template_hash

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """The one model."""
        return self._model


SourceFactory = Callable[[str, int], ModelSource]
"""From the text after the colon and the run's seed."""


@dataclass(frozen=True, slots=True)
class ModelScheme:
    """One way to name a model.

    Attributes:
        usage: How it is written.
        summary: What it is, in a few words.
        target: ``module:function`` of its `SourceFactory`.
    """

    usage: str
    summary: str
    target: str


_BUILT_IN: Mapping[str, ModelScheme] = {
    "transformers": ModelScheme(
        "transformers:PATH",
        "a model folder, or the name of one in the Hugging Face cache, on this machine",
        "gym_adapters.rollouts.transformers_source:transformers_source",
    ),
    "vllm": ModelScheme(
        "vllm:PATH",
        "the same, in a vLLM engine that is started for the run",
        "gym_adapters.rollouts.vllm_source:vllm_source",
    ),
    "openai": ModelScheme(
        "openai:NAME@URL[,URL...]",
        "an OpenAI-compatible endpoint (Chat Completions), or several that are balanced; "
        "key from OPENAI_API_KEY",
        "gym_adapters.rollouts.endpoint_source:openai_source",
    ),
    "openai-responses": ModelScheme(
        "openai-responses:NAME@URL[,URL...]",
        "the same, by the Responses API",
        "gym_adapters.rollouts.endpoint_source:openai_responses_source",
    ),
    "replay": ModelScheme(
        "replay:FILE",
        "no model: what was said in recorded rollouts (a file of them, or the folder of a run)",
        "gym_adapters.rollouts.replay_source:replay_source",
    ),
    "tiny": ModelScheme(
        "tiny",
        "a tiny policy with random weights, made in place: tries the token path on any machine",
        "gym_adapters.testing.model_sources:tiny_source",
    ),
    "scripted": ModelScheme(
        "scripted:gold|empty|garbage",
        "no model: the environment's own best attempt, silence, or nonsense",
        "gym_adapters.testing.model_sources:scripted_source",
    ),
}


def model_schemes() -> dict[str, ModelScheme]:
    """Every scheme there is: the built-in ones, and those of entry points."""
    found = {
        point.name: ModelScheme(f"{point.name}:...", f"from {point.value}", point.value)
        for point in entry_points(group=ENTRY_POINTS)
    }
    return {**found, **_BUILT_IN}


def model_source(spec: str, *, seed: int = 0) -> ModelSource:
    """The source that `spec` names; not opened yet.

    Args:
        spec: ``scheme:argument``, e.g. ``transformers:./checkpoint`` or ``scripted:gold``.
        seed: Seed of sampling, for models that take one.

    Raises:
        InvalidConfig: If there is no such scheme, or its argument makes no sense.
    """
    scheme, _, argument = spec.partition(":")
    schemes = model_schemes()
    if scheme not in schemes:
        known = "\n".join(f"  {each.usage}  ({each.summary})" for each in schemes.values())
        raise InvalidConfig(f"no kind of model is called {scheme!r}. There are:\n{known}")
    module, _, name = schemes[scheme].target.partition(":")
    factory = cast("SourceFactory", getattr(import_module(module), name))
    return factory(argument, seed)
