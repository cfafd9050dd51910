"""The picture of what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gym_adapters.extras import require

if TYPE_CHECKING:
    from gym_adapters.quickstart.lesson import QuickstartResult

__all__ = ["plot_reward_curve"]

WINDOW = 10


def plot_reward_curve(path: Path, result: QuickstartResult) -> None:
    """Draw the training reward by step, with the held-out pass rate before and after, as PNG."""
    require("matplotlib", "plots", "the picture of the reward curve")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from gym_adapters.quickstart.lesson import pass_rate

    steps = [step.step for step in result.curve]
    rewards = [step.reward for step in result.curve]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, rewards, color="#9ecae1", linewidth=1, label="mean reward of the step")
    axes.plot(
        steps, _smoothed(rewards), color="#08519c", linewidth=2, label=f"mean of {WINDOW} steps"
    )
    last = steps[-1] if steps else 1
    for x, metrics, colour in ((0, result.before, "#cb181d"), (last, result.after, "#238b45")):
        rate = pass_rate(metrics)
        axes.plot([x], [rate], "o", color=colour, markersize=8, clip_on=False)
        axes.annotate(
            f"held out: {rate:.0%}",
            (x, rate),
            xytext=(8, 10) if x == 0 else (-8, -18),
            textcoords="offset points",
            ha="left" if x == 0 else "right",
            color=colour,
        )
    axes.set(xlabel="training step", ylabel="reward", ylim=(0, 1.08), xlim=(0, last))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def _smoothed(values: list[float]) -> list[float]:
    """Mean of the last `WINDOW` values, or of as many as there are."""
    windows = (values[max(0, end - WINDOW) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
