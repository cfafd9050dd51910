"""Scoring with reasoning-gym's own scorers, in a process of a `ProcessPool`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

# Where a scorer must know more than its default settings tell it: words of every length.
_SETTINGS = {"word_ladder": {"min_word_length": 3, "max_word_length": 5}}
# Where it compares with a tuple, which a row in JSON holds as a list.
_BOARDS = ("arc_agi", "rearc")
# Where it gives 1 to any answer at all: it compares the truth of two texts, not what they say.
_COMPARED_HERE = ("game_of_life_halting",)


@lru_cache(maxsize=128)
def scorer(dataset: str) -> Callable[..., float]:
    """The scorer of the generator `dataset`."""
    settings = _SETTINGS.get(dataset)
    found: Callable[..., float] = (
        library().get_score_answer_fn(dataset)
        if settings is None
        else library().create_dataset(dataset, **settings).score_answer
    )
    return found


@lru_cache(maxsize=1)
def library() -> Any:
    """The package, which takes seconds to import."""
    return import_module("reasoning_gym")


def warm_up() -> None:
    """Import the package before the first request's time begins."""
    library()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: ``dataset``, ``entry`` and ``answer`` in, ``score`` out.

    ``unreadable`` says why an answer is none to the scorer, which then gives it 0.
    """
    dataset, entry = request["dataset"], request["entry"]
    if dataset in _COMPARED_HERE:
        same = request["answer"].strip().lower() == str(entry["answer"]).strip().lower()
        return {"score": float(same)}
    if dataset in _BOARDS:
        board = tuple(map(tuple, entry["metadata"]["output"]))
        entry = {**entry, "metadata": {**entry["metadata"], "output": board}}
    score = scorer(dataset)
    try:
        return {"score": float(score(answer=request["answer"], entry=entry))}
    except Exception as error:
        if not isinstance(entry["answer"], str):
            raise
        # Where it can score the generator's own answer, it is this answer that it can't read.
        score(answer=entry["answer"], entry=entry)
        return {"score": 0.0, "unreadable": f"{type(error).__name__}: {error}"[:200]}
