"""Collecting many episodes: concurrency, retries, resume, storage, metrics."""

from __future__ import annotations

from gym_adapters.rollouts.collect import Agent, collect
from gym_adapters.rollouts.groups import compared
from gym_adapters.rollouts.metrics import Metrics, PassAtK, RolloutMetrics
from gym_adapters.rollouts.models import ModelSource, model_schemes, model_source
from gym_adapters.rollouts.recorded import read_rollouts
from gym_adapters.rollouts.run_folder import RunFolder

__all__ = [
    "Agent",
    "Metrics",
    "ModelSource",
    "PassAtK",
    "RolloutMetrics",
    "RunFolder",
    "collect",
    "compared",
    "model_schemes",
    "model_source",
    "read_rollouts",
]
