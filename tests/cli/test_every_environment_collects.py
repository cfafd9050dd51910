"""What `collect` gives for the best attempt and for the emptiest, in every environment."""

from __future__ import annotations

import pytest

from gym_adapters import environment_names, load_environment
from gym_adapters.rollouts.run import RunSettings, run
from gym_adapters.rollouts.task_input import TaskInput


@pytest.mark.parametrize(("model", "bound"), [("scripted:empty", 0), ("scripted:gold", 1)])
@pytest.mark.parametrize("name", environment_names())
async def test_gold_scores_the_most_and_nothing_the_least_as_the_card_comes(
    name: str, model: str, bound: int
) -> None:
    entry = load_environment(name)
    assert entry.card is not None
    tasks = TaskInput(entry, limit=3)
    metrics = await run(RunSettings(entry=entry, config=entry.config(), model=model, tasks=tasks))
    assert metrics.failures == {}
    assert metrics.scored == 3
    assert metrics.reward_std == 0.0
    assert metrics.reward_mean == entry.card.reward_range[bound]
