"""Scoring with reasoning-gym's own scorers, in a process of a `ProcessPool`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any


@lru_cache(maxsize=128)
def scorer(dataset: str) -> Callable[..., float]:
    """The scorer of the generator `dataset`."""
    found: Callable[..., float] = library().get_score_answer_fn(dataset)
    return found


@lru_cache(maxsize=1)
def library() -> Any:
    """The package, which takes seconds to import."""
    return import_module("reasoning_gym")


def warm_up() -> None:
    """Import the package before the first request's time begins."""
    library()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: ``dataset``, ``entry`` and ``answer`` in, ``score`` out."""
    score = scorer(request["dataset"])(answer=request["answer"], entry=request["entry"])
    return {"score": float(score)}
