"""Write an RL environment for language models once; train on it in TRL, verl, NeMo RL or Unsloth.

The whole of what an author needs is here: `Environment`, `Task`, `tool`, `Reward`, `Rollout`.
Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gym_adapters.environment import (
        Capabilities as Capabilities,
    )
    from gym_adapters.environment import (
        Environment as Environment,
    )
    from gym_adapters.environment import (
        EnvironmentConfig as EnvironmentConfig,
    )
    from gym_adapters.environment import (
        ToolCall as ToolCall,
    )
    from gym_adapters.environment import (
        Transcript as Transcript,
    )
    from gym_adapters.episode import (
        Episode as Episode,
    )
    from gym_adapters.episode import (
        EpisodeLimits as EpisodeLimits,
    )
    from gym_adapters.episode import (
        Step as Step,
    )
    from gym_adapters.errors import (
        Boundary as Boundary,
    )
    from gym_adapters.errors import (
        GymAdaptersError as GymAdaptersError,
    )
    from gym_adapters.errors import (
        InvalidConfig as InvalidConfig,
    )
    from gym_adapters.errors import (
        InvalidEnvironment as InvalidEnvironment,
    )
    from gym_adapters.errors import (
        InvalidRow as InvalidRow,
    )
    from gym_adapters.errors import (
        JudgeError as JudgeError,
    )
    from gym_adapters.errors import (
        MissingExtra as MissingExtra,
    )
    from gym_adapters.errors import (
        ModelError as ModelError,
    )
    from gym_adapters.errors import (
        RolloutError as RolloutError,
    )
    from gym_adapters.errors import (
        SandboxError as SandboxError,
    )
    from gym_adapters.errors import (
        ToolError as ToolError,
    )
    from gym_adapters.errors import (
        ToolInfrastructureError as ToolInfrastructureError,
    )
    from gym_adapters.errors import (
        UnknownEnvironment as UnknownEnvironment,
    )
    from gym_adapters.errors import (
        Unsupported as Unsupported,
    )
    from gym_adapters.errors import (
        UsageError as UsageError,
    )
    from gym_adapters.errors import (
        VerifierError as VerifierError,
    )
    from gym_adapters.registry import (
        EnvironmentEntry as EnvironmentEntry,
    )
    from gym_adapters.registry import (
        environment_names as environment_names,
    )
    from gym_adapters.registry import (
        load_environment as load_environment,
    )
    from gym_adapters.reward import (
        Failure as Failure,
    )
    from gym_adapters.reward import (
        Outcome as Outcome,
    )
    from gym_adapters.reward import (
        OutcomeStatus as OutcomeStatus,
    )
    from gym_adapters.reward import (
        Reward as Reward,
    )
    from gym_adapters.reward import (
        StopReason as StopReason,
    )
    from gym_adapters.rollout import (
        Rollout as Rollout,
    )
    from gym_adapters.segment import (
        Segment as Segment,
    )
    from gym_adapters.segment import (
        Span as Span,
    )
    from gym_adapters.task import (
        Task as Task,
    )
    from gym_adapters.tools import (
        Tool as Tool,
    )
    from gym_adapters.tools import (
        tool as tool,
    )

__all__ = [
    "Boundary",
    "Capabilities",
    "Environment",
    "EnvironmentConfig",
    "EnvironmentEntry",
    "Episode",
    "EpisodeLimits",
    "Failure",
    "GymAdaptersError",
    "InvalidConfig",
    "InvalidEnvironment",
    "InvalidRow",
    "JudgeError",
    "MissingExtra",
    "ModelError",
    "Outcome",
    "OutcomeStatus",
    "Reward",
    "Rollout",
    "RolloutError",
    "SandboxError",
    "Segment",
    "Span",
    "Step",
    "StopReason",
    "Task",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolInfrastructureError",
    "Transcript",
    "UnknownEnvironment",
    "Unsupported",
    "UsageError",
    "VerifierError",
    "environment_names",
    "load_environment",
    "tool",
]

_MODULES = {
    "environment": (
        "Capabilities",
        "Environment",
        "EnvironmentConfig",
        "ToolCall",
        "Transcript",
    ),
    "episode": (
        "Episode",
        "EpisodeLimits",
        "Step",
    ),
    "errors": (
        "Boundary",
        "GymAdaptersError",
        "InvalidConfig",
        "InvalidEnvironment",
        "InvalidRow",
        "JudgeError",
        "MissingExtra",
        "ModelError",
        "RolloutError",
        "SandboxError",
        "ToolError",
        "ToolInfrastructureError",
        "UnknownEnvironment",
        "Unsupported",
        "UsageError",
        "VerifierError",
    ),
    "registry": (
        "EnvironmentEntry",
        "environment_names",
        "load_environment",
    ),
    "reward": (
        "Failure",
        "Outcome",
        "OutcomeStatus",
        "Reward",
        "StopReason",
    ),
    "rollout": ("Rollout",),
    "segment": (
        "Segment",
        "Span",
    ),
    "task": ("Task",),
    "tools": (
        "Tool",
        "tool",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
