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
        Capabilities,
        Environment,
        EnvironmentConfig,
        ToolCall,
        Transcript,
    )
    from gym_adapters.episode import Episode, EpisodeLimits, Step
    from gym_adapters.errors import (
        Boundary,
        GymAdaptersError,
        InvalidConfig,
        InvalidEnvironment,
        InvalidRow,
        JudgeError,
        MissingExtra,
        ModelError,
        RolloutError,
        SandboxError,
        ToolError,
        ToolInfrastructureError,
        UnknownEnvironment,
        Unsupported,
        UsageError,
        VerifierError,
    )
    from gym_adapters.registry import EnvironmentEntry, environment_names, load_environment
    from gym_adapters.reward import Failure, Outcome, OutcomeStatus, Reward, StopReason
    from gym_adapters.rollout import Rollout
    from gym_adapters.segment import Segment, Span
    from gym_adapters.task import Task
    from gym_adapters.tools import Tool, tool

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
