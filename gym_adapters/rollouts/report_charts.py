"""The charts of a run's page, as SVG: how rewards are spread, pass@k, and each task's attempts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import log2

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.majority import MajorityAtK
from gym_adapters.rollouts.pass_at_k import PassAtK

__all__ = ["RewardGrid", "heat_map", "pass_curve", "reward_histogram"]

BINS = 20
MOST_ROWS, MOST_COLUMNS = 300, 64
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 220, 44, 28, 12
CELL = 14


@dataclass(slots=True)
class RewardGrid:
    """Every reward of a run, by task and attempt; failed attempts are gaps."""

    rewards: array[float] = field(default_factory=lambda: array("d"))
    _tasks: dict[str, dict[int, float | None]] = field(default_factory=dict)

    def add(self, rollout: Rollout) -> None:
        """One more rollout."""
        self._tasks.setdefault(rollout.task_id, {})[rollout.rollout_index] = rollout.reward
        if rollout.reward is not None:
            self.rewards.append(rollout.reward)

    def rows(self) -> list[tuple[str, list[float | None]]]:
        """Tasks with their attempts in order, the least solved first; those never scored lead."""
        made = [
            (task, [attempts[index] for index in sorted(attempts)])
            for task, attempts in self._tasks.items()
        ]
        return sorted(made, key=lambda row: (_mean_of(row[1]), row[0]))


def _mean_of(rewards: Sequence[float | None]) -> float:
    known = [reward for reward in rewards if reward is not None]
    return sum(known) / len(known) if known else float("-inf")


def reward_histogram(rewards: Sequence[float]) -> str:
    """Bars of equal width over the range of `rewards`; one bar each where there are few values."""
    if not rewards:
        return '<p class="none">no reward yet</p>'
    kinds = sorted(set(rewards))
    if len(kinds) <= BINS:
        labels = [f"{kind:g}" for kind in kinds]
        counts = [0] * len(kinds)
        place = {kind: index for index, kind in enumerate(kinds)}
        for reward in rewards:
            counts[place[reward]] += 1
    else:
        low, high = kinds[0], kinds[-1]
        step = (high - low) / BINS
        counts = [0] * BINS
        for reward in rewards:
            counts[min(int((reward - low) / step), BINS - 1)] += 1
        labels = [f"{low + step * index:.3g}" for index in range(BINS)]
    return _bars(counts, labels)


def _bars(counts: Sequence[int], labels: Sequence[str]) -> str:
    most = max(counts)
    room = (_WIDTH - _LEFT) / len(counts)
    width = min(room * 0.86, 90.0)
    every = -(-len(labels) // 10)
    parts = [_axes(f"{most:,}", "0")]
    for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
        height = (_HEIGHT - _BOTTOM - _TOP) * count / most
        middle = _LEFT + room * (index + 0.5)
        top = _HEIGHT - _BOTTOM - height
        parts.append(
            f'<rect class="bar" x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"><title>{count:,} rollouts with {escape(label)}</title></rect>'
        )
        if index % every == 0:
            parts.append(
                f'<text x="{middle:.1f}" y="{_HEIGHT - 9}" class="mid">{escape(label)}</text>'
            )
    return _svg(parts, "How many rollouts have which reward")


def pass_curve(passes: Sequence[PassAtK], majorities: Sequence[MajorityAtK]) -> str:
    """pass@k with its interval, pass^k and majority@k over k."""
    known = [each for each in passes if each.pass_at_k is not None]
    if not known:
        return '<p class="none">no scored attempts yet</p>'
    last = known[-1].k

    def x(k: int) -> float:
        # Powers of two stand at equal steps.
        share = log2(k) / log2(last) if last > 1 else 0.5
        return _LEFT + 14 + (_WIDTH - _LEFT - 34) * share

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - value)

    parts = [_axes("1", "0")]
    band = [each for each in known if each.interval is not None]
    if len(band) > 1:
        above = [(each.k, min(each.interval.high, 1.0)) for each in band if each.interval]
        below = [(each.k, max(each.interval.low, 0.0)) for each in band if each.interval]
        edge = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in [*above, *below[::-1]])
        parts.append(f'<polygon class="band" points="{edge}"/>')
    lines = (
        ("one", "pass@", [(each.k, each.pass_at_k) for each in known]),
        ("all", "pass^", [(each.k, each.pass_all_k) for each in known]),
        ("vote", "majority@", [(each.k, each.reward) for each in majorities]),
    )
    for kind, name, points in lines:
        there = [(k, value) for k, value in points if value is not None]
        if not there or (kind == "all" and last == 1):
            continue
        path = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in there)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        parts.extend(
            f'<circle class="{kind}" cx="{x(k):.1f}" cy="{y(value):.1f}" r="3.5">'
            f"<title>{name}{k}: {value:.4f}</title></circle>"
            for k, value in there
        )
    parts.extend(
        f'<text x="{x(each.k):.1f}" y="{_HEIGHT - 9}" class="mid">k={each.k}</text>'
        for each in known
    )
    legend = '<p class="legend"><span class="one">pass@k</span>'
    legend += '<span class="all">pass^k</span>' if last > 1 else ""
    legend += '<span class="vote">majority@k</span>' if majorities else ""
    return _svg(parts, "pass@k over k") + legend + "</p>"


def heat_map(grid: RewardGrid) -> str:
    """A row for each task, a cell for each attempt; many tasks are thinned out evenly."""
    rows = grid.rows()
    if not rows:
        return '<p class="none">no rollouts yet</p>'
    shown = rows
    if len(rows) > MOST_ROWS:
        shown = [rows[index * len(rows) // MOST_ROWS] for index in range(MOST_ROWS)]
    # At least from 0 to 1: a run that solved nothing is dark, and one that solved all is bright.
    low, high = min([*grid.rewards, 0.0]), max([*grid.rewards, 1.0])
    columns = min(max(len(attempts) for _, attempts in shown), MOST_COLUMNS)
    # Tasks run along, so that the map of a small run stays small.
    parts: list[str] = []
    for number, (task, attempts) in enumerate(shown):
        for attempt, reward in enumerate(attempts[:columns]):
            parts.append(
                f'<rect x="{number * CELL}" y="{attempt * CELL}" width="{CELL - 1}" '
                f'height="{CELL - 1}" {_fill(reward, low, high)}>'
                f"<title>{escape(task)}, attempt {attempt}: {_told(reward)}</title></rect>"
            )
    left_out = f" {len(shown)} of {len(rows):,} tasks are shown." if len(shown) < len(rows) else ""
    return (
        f'<div class="wide"><svg width="{len(shown) * CELL}" height="{columns * CELL}" role="img" '
        f'aria-label="Rewards by task and attempt">{"".join(parts)}</svg></div>'
        '<p class="legend">a column for each task, the least solved first; a cell for each '
        f"attempt, from {low:g} (dark) to {high:g} (bright); striped: no reward.{left_out}</p>"
    )


def _fill(reward: float | None, low: float, high: float) -> str:
    if reward is None:
        return 'fill="url(#gap)"'
    share = (reward - low) / (high - low)
    # From deep blue over green to yellow: even for eyes that tell red and green badly.
    hue, light = 250 - 195 * share, 24 + 38 * share
    return f'fill="hsl({hue:.0f} 65% {light:.0f}%)"'


def _told(reward: float | None) -> str:
    return "no reward" if reward is None else f"{reward:g}"


def _axes(high: str, low: str) -> str:
    foot = _HEIGHT - _BOTTOM
    return (
        f'<path class="axis" d="M{_LEFT} {_TOP}V{foot}H{_WIDTH}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 4}" class="end">{high}</text>'
        f'<text x="{_LEFT - 6}" y="{foot + 4}" class="end">{low}</text>'
    )


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
