"""How a run is shown while it goes, on terminals wide and narrow and without one."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from gym_adapters import ModelError, Outcome, Reward, Rollout, StopReason
from gym_adapters.cli.progress import LiveProgress, PlainProgress
from gym_adapters.rollout import TokenUsage
from gym_adapters.rollouts.metrics import RolloutMetrics


def rollout(number: int, reward: float | None) -> Rollout:
    return Rollout(
        row={},
        task_id=str(number),
        rollout_index=0,
        prompt=[],
        output=[],
        tools=[],
        outcome=Outcome.unscored(ModelError("down"))
        if reward is None
        else Outcome.scored(Reward(reward), StopReason.ANSWERED),
        usage=TokenUsage(10, 1000, 1),
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_tells_count_rates_reward_and_failures_at_any_width(width: int) -> None:
    shown = StringIO()
    console = Console(file=shown, width=width, height=20, force_terminal=True, color_system=None)
    metrics = RolloutMetrics()
    with LiveProgress(10, console=console) as progress:
        progress.began(metrics, skipped=2)
        for number, reward in enumerate([1.0, 0.5, None]):
            metrics.add(rollout(number, reward))
            progress.finished(rollout(number, reward))
    last = " ".join(shown.getvalue().split())
    for part in ("5/10", "rollouts/s", "tokens/s", "mean reward 0.750", "1 failed (model)"):
        assert part in last


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = RolloutMetrics()
    with PlainProgress(10) as progress:
        progress.began(metrics, skipped=2)
        metrics.add(rollout(0, 1.0))
        progress.finished(rollout(0, 1.0))
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert out == ""
    assert first == "collecting 10 rollouts, 2 there already"
    assert last.startswith("3/10: ")
    assert last.endswith(" left")
    assert "\x1b" not in err
