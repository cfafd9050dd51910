"""Write an RL environment for language models once; train on it in TRL, verl, NeMo RL or Unsloth.

The whole of what an author needs is here: `Environment`, `Task`, `tool`, `Reward`, `Rollout`.
"""

from __future__ import annotations

__version__ = "0.1.0"

from gym_adapters.environment import Capabilities, Environment, EnvironmentConfig, ToolCall, Transcript
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
