"""The charts of a run's page, as SVG: how rewards are spread, pass@k, and each task's attempts."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import floor, isfinite, log2, log10

from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.majority import MajorityAtK
from gym_adapters.rollouts.pass_at_k import PassAtK

__all__ = ["RewardGrid", "heat_map", "pass_curve", "reward_histogram"]

BINS = 20
MOST_ROWS, MOST_COLUMNS = 300, 64
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 460, 232, 60, 42, 26
# Room that a letter of a label takes, also on a narrow screen, where letters are larger.
_LETTER = 8.0
CELL = 14
# Rewards that differ by less than this, as a share of themselves, are alike to the eye.
_ALIKE = 1e-12


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

    def rows(self) -> list[tuple[str, list[tuple[int, float | None]]]]:
        """Tasks with their attempts in order, the least solved first; those never scored lead."""
        made = [(task, sorted(attempts.items())) for task, attempts in self._tasks.items()]
        return sorted(made, key=lambda row: (_mean_of(row[1]), row[0]))


def _mean_of(attempts: Sequence[tuple[int, float | None]]) -> float:
    known = [reward for _, reward in attempts if reward is not None]
    return sum(known) / len(known) if known else float("-inf")


def reward_histogram(rewards: Sequence[float]) -> str:
    """Bars of equal width over the range of `rewards`; one bar each where there are few values."""
    if not rewards:
        return '<p class="none">no reward yet</p>'
    kinds = sorted(set(rewards))
    if len(kinds) <= BINS:
        counts = [0] * len(kinds)
        place = {kind: index for index, kind in enumerate(kinds)}
        for reward in rewards:
            counts[place[reward]] += 1
        labels = [f"{kind:g}" for kind in kinds]
        bars = [f"with {label}" for label in labels]
        return _bars(counts, bars, [(index + 0.5, label) for index, label in enumerate(labels)])
    edges, labels = _edges(kinds[0], kinds[-1])
    counts = [0] * (len(edges) - 1)
    for reward in rewards:
        counts[min(max(bisect_right(edges, reward) - 1, 0), len(counts) - 1)] += 1
    bars = [f"from {low} to {high}" for low, high in pairwise(labels)]
    return _bars(counts, bars, list(enumerate(labels)))


def _edges(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round numbers at equal steps that hold all from `low` to `high`, and how they read."""
    # Each is divided first: their difference may be more than a float holds.
    least = high / BINS - low / BINS
    if least <= max(abs(low), abs(high)) * _ALIKE or least < 1e-300:
        return [low, high], [f"{low:g}", f"{high:g}"]
    power = floor(log10(least))
    unit = 10.0**power
    step = next(each * unit for each in (1, 2, 5, 10) if each * unit >= least * (1 - 1e-9))
    places = max(-floor(log10(step) + 1e-9), 0)
    first, last = floor(low / step), floor(high / step) + 1
    edges = [round(number * step, places) for number in range(first, last + 1)]
    edges = [edge if isfinite(edge) else high if edge > 0 else low for edge in edges]
    plain = places <= 12 and max(abs(low), abs(high)) < 1e7
    return edges, [f"{edge:.{places}f}" if plain else f"{edge:.4g}" for edge in edges]


def _bars(counts: Sequence[int], told: Sequence[str], labels: Sequence[tuple[float, str]]) -> str:
    """Bars, what each holds, and labels by their place in bars from the left."""
    most = max(counts)
    room = (_WIDTH - _LEFT - 20) / len(counts)
    width = min(room * 0.86, 90.0)
    longest = max(len(label) for _, label in labels)
    every = max(int(-(-(longest * _LETTER + 8) // room)), 1)
    parts = [_axes([(1.0, f"{most:,}"), (0.0, "0")], "rollouts", "reward")]
    for index, (count, about) in enumerate(zip(counts, told, strict=True)):
        height = (_HEIGHT - _BOTTOM - _TOP) * count / most
        left = _LEFT + room * (index + 0.5) - width / 2
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}">'
            f"<title>{count:,} rollouts {escape(about)}</title></rect>"
        )
    parts.extend(
        f'<text x="{_LEFT + room * place:.1f}" y="{_HEIGHT - _BOTTOM + 17}" class="mid">'
        f"{escape(label)}</text>"
        for place, label in labels[::every]
    )
    return _svg(parts, "How many rollouts have which reward")


_CURVES = (("one", "pass@"), ("all", "pass^"), ("vote", "majority@"))


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
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - min(max(value, 0.0), 1.0))

    parts = [_axes([(1.0, "1"), (0.5, "0.5"), (0.0, "0")], "mean over tasks", "attempts (k)")]
    band = [(each.k, each.interval) for each in known if each.interval is not None]
    if len(band) > 1:
        above = [(k, interval.high) for k, interval in band]
        below = [(k, interval.low) for k, interval in band]
        edge = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in [*above, *below[::-1]])
        parts.append(f'<polygon class="band" points="{edge}"/>')
    curves: dict[str, list[tuple[int, float | None]]] = {
        "one": [(each.k, each.pass_at_k) for each in known],
        "all": [(each.k, each.pass_all_k) for each in known] if last > 1 else [],
        "vote": [(each.k, each.reward) for each in majorities],
    }
    legend: list[str] = []
    for kind, name in _CURVES:
        points = [(k, value) for k, value in curves[kind] if value is not None]
        if points:
            path = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in points)
            parts.append(f'<polyline class="{kind}" points="{path}"/>')
            legend.append(_in_legend(kind, f"{name}k"))
        parts.extend(
            f'<circle class="{kind}" cx="{x(k):.1f}" cy="{y(value):.1f}" '
            f'r="{4.5 if kind == "one" else 3}"><title>{name}{k}: {value:.4f}</title></circle>'
            for k, value in points
        )
    parts.extend(
        f'<text x="{x(each.k):.1f}" y="{_HEIGHT - _BOTTOM + 17}" class="mid">{each.k}</text>'
        for each in known
    )
    if len(band) > 1:
        legend.append("<span>band: 95 % of pass@k</span>")
    return _svg(parts, "pass@k over k") + f'<p class="legend">{"".join(legend)}</p>'


def _in_legend(kind: str, name: str) -> str:
    line = f'<polyline class="{kind}" points="0,5 26,5"/>'
    return f'<span><svg width="26" height="10" aria-hidden="true">{line}</svg> {name}</span>'


def heat_map(grid: RewardGrid) -> str:
    """A row of cells for each task, one for each attempt; many tasks are thinned out evenly."""
    rows = grid.rows()
    if not rows:
        return '<p class="none">no rollouts yet</p>'
    shown = rows
    if len(rows) > MOST_ROWS:
        shown = [rows[index * len(rows) // MOST_ROWS] for index in range(MOST_ROWS)]
    # At least from 0 to 1: a run that solved nothing is dark, and one that solved all is bright.
    low, high = min([*grid.rewards, 0.0]), max([*grid.rewards, 1.0])
    most = max(len(attempts) for _, attempts in shown)
    depth = min(most, MOST_COLUMNS)
    # The longer side runs along, so that the map stays low.
    along = len(shown) >= depth
    parts: list[str] = []
    for number, (task, attempts) in enumerate(shown):
        for place, (attempt, reward) in enumerate(attempts[:depth]):
            x, y = (number, place) if along else (place, number)
            parts.append(
                f'<rect x="{x * CELL}" y="{y * CELL}" width="{CELL - 1}" '
                f'height="{CELL - 1}" {_fill(reward, low, high)}>'
                f"<title>{escape(task)}, attempt {attempt}: {_told(reward)}</title></rect>"
            )
    width, height = (len(shown), depth) if along else (depth, len(shown))
    notes = [f"a {'column' if along else 'row'} for each task, the least solved first;"]
    notes.append("a cell for each attempt; striped: no reward.")
    if len(shown) < len(rows):
        notes.append(f"{len(shown)} of {len(rows):,} tasks are shown.")
    if depth < most:
        notes.append(f"Of up to {most:,} attempts, the first {depth} are shown.")
    return (
        '<div class="wide" tabindex="0" role="group" aria-label="Map of tasks and attempts">'
        f'<svg width="{width * CELL}" height="{height * CELL}" role="img" '
        f'aria-label="Rewards by task and attempt">{"".join(parts)}</svg></div>'
        f'<p class="legend">{_scale(low, high)}<span>{" ".join(notes)}</span></p>'
    )


def _scale(low: float, high: float) -> str:
    steps = "".join(
        f'<path d="M{index * 5} 0h5v10h-5z" {_fill(index / 19, 0.0, 1.0)}/>' for index in range(20)
    )
    bar = f'<svg width="100" height="10" aria-hidden="true">{steps}</svg>'
    return f"<span>{low:g} {bar} {high:g}</span>"


def _fill(reward: float | None, low: float, high: float) -> str:
    if reward is None:
        return 'fill="url(#gap)"'
    # Halved, since the difference may be more than a float holds.
    share = (reward / 2 - low / 2) / (high / 2 - low / 2)
    # From deep blue over green to yellow: even for eyes that tell red and green badly.
    hue, light = 250 - 195 * share, 24 + 38 * share
    return f'fill="hsl({hue:.0f} 65% {light:.0f}%)"'


def _told(reward: float | None) -> str:
    return "no reward" if reward is None else f"{reward:g}"


def _axes(ticks: Sequence[tuple[float, str]], up: str, along: str) -> str:
    """The axes with their names, and a line at each tick: its share of the height, and a label."""
    foot = _HEIGHT - _BOTTOM
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{foot}H{_WIDTH}"/>']
    for share, label in ticks:
        y = foot - (foot - _TOP) * share
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH}"/>' if share else "")
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{label}</text>')
    parts.append(f'<text x="0" y="12">{up}</text>')
    middle = (_LEFT + _WIDTH) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" class="mid">{along}</text>')
    return "".join(parts)


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
