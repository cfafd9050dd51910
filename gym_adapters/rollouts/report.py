"""A run as one HTML page that stands alone: nothing is loaded from elsewhere.

Everything that a model, a tool or a row wrote is escaped, and the page's policy lets no script run
but the one that searches the rollouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from html import escape
from itertools import count, groupby
from random import Random

import orjson

from gym_adapters.items import Item, item_text
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metric_rows import (
    ENVIRONMENT_COLUMNS,
    environment_rows,
    metric_rows,
    number,
)
from gym_adapters.rollouts.metrics import Metrics
from gym_adapters.rollouts.report_assets import HEAD, SCRIPT_TAG
from gym_adapters.rollouts.report_charts import (
    RewardGrid,
    heat_map,
    pass_curve,
    reward_histogram,
)
from gym_adapters.segment import Segment

__all__ = ["RolloutSample", "TokenText", "html_report"]

# A page is for reading: what is longer is in the run's files.
LONGEST_TEXT = 20_000
MOST_TOKENS = 4_000
LARGEST_IMAGE = 400_000
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")

TokenText = Callable[[Sequence[int]], str]
"""The text of token ids."""


@dataclass(slots=True)
class RolloutSample:
    """What the page needs of a stream of rollouts: all rewards, and some rollouts to read.

    Args:
        size: How many of each: the worst, the best, failed ones, and any.
    """

    size: int = 10
    failed: list[Rollout] = field(default_factory=list)
    any: list[Rollout] = field(default_factory=list)
    grid: RewardGrid = field(default_factory=RewardGrid)
    _worst: list[tuple[float, int, Rollout]] = field(default_factory=list)
    _best: list[tuple[float, int, Rollout]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _random: Random = field(default_factory=lambda: Random(0))

    def add(self, rollout: Rollout) -> None:
        """Consider one more rollout."""
        self.grid.add(rollout)
        if rollout.reward is None:
            if len(self.failed) < self.size:
                self.failed.append(rollout)
            return
        number = next(self._order)
        # The counter breaks ties, so that the earliest of equals is kept.
        for heap, worth in ((self._worst, -rollout.reward), (self._best, rollout.reward)):
            entry = (worth, -number, rollout)
            if len(heap) < self.size:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)
        # Each is kept with the same chance (reservoir sampling), and always the same ones.
        if len(self.any) < self.size:
            self.any.append(rollout)
        elif (place := self._random.randrange(number + 1)) < self.size:
            self.any[place] = rollout

    @property
    def worst(self) -> list[Rollout]:
        """The lowest rewards, lowest first."""
        return [rollout for *_, rollout in sorted(self._worst, key=_by_worth, reverse=True)]

    @property
    def best(self) -> list[Rollout]:
        """The highest rewards, highest first."""
        return [rollout for *_, rollout in sorted(self._best, key=_by_worth, reverse=True)]

    def chosen(self) -> list[Rollout]:
        """All of them, each once: failures, the worst, any, the best."""
        found: dict[tuple[str, int], Rollout] = {}
        for rollout in (*self.failed, *self.worst, *self.any, *self.best):
            found.setdefault((rollout.task_id, rollout.rollout_index), rollout)
        return list(found.values())


def _by_worth(entry: tuple[float, int, Rollout]) -> tuple[float, int]:
    return entry[:2]


def html_report(
    title: str,
    facts: Iterable[tuple[str, str]],
    metrics: Metrics,
    sample: RolloutSample,
    *,
    text: TokenText | None = None,
) -> str:
    """The page.

    Args:
        title: Its title.
        facts: Names and values about the run.
        metrics: What the run came to.
        sample: What to draw, and rollouts to show in full.
        text: Shows tokens as text; without it they are ids.
    """
    chosen = sample.chosen()
    parts = [
        HEAD.replace("@TITLE@", escape(title)),
        f"<h1>{escape(title)}</h1>",
        '<p class="facts">',
        *(f"<span>{escape(key)} <b>{escape(told)}</b></span>" for key, told in facts if told),
        "</p>",
        _cards(metrics),
        _section("Rewards", reward_histogram(sample.grid.rewards), "pair"),
        _section("pass@k", pass_curve(metrics.pass_at_k, metrics.majority_at_k)) + "</div>",
        _section("Tasks", _GAP + heat_map(sample.grid)),
        _section("Metrics", _metrics(metrics)),
        _viewer(chosen, metrics, text),
        SCRIPT_TAG,
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


_GAP = (
    '<svg width="0" height="0" style="position:absolute"><defs>'
    '<pattern id="gap" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<path d="M0 4L4 0" stroke="#8888" stroke-width="1.5"/></pattern></defs></svg>'
)


def _section(heading: str, content: str, begins: str = "") -> str:
    opened = f'<div class="{begins}">' if begins else ""
    return f"{opened}<section><h2>{escape(heading)}</h2>{content}</section>"


def _cards(metrics: Metrics) -> str:
    failed = metrics.rollouts - metrics.scored
    first = next((each for each in metrics.pass_at_k if each.pass_at_k is not None), None)
    last = next((each for each in reversed(metrics.pass_at_k) if each.pass_at_k is not None), None)
    tasks = f"{metrics.tasks:,} task" + "s" * (metrics.tasks != 1)
    cards = [("rollouts", f"{metrics.rollouts:,}", tasks)]
    if metrics.reward_mean is not None:
        spread = "" if metrics.reward_std is None else f"std {number(metrics.reward_std)}"
        cards.append(("mean reward", number(metrics.reward_mean), spread))
    if first is not None:
        cards.append((f"pass@{first.k}", f"{first.pass_at_k:.1%}", _interval(first.interval)))
    if last is not None and last is not first:
        cards.append((f"pass@{last.k}", f"{last.pass_at_k:.1%}", _interval(last.interval)))
    told = ", ".join(f"{name} {number}" for name, number in sorted(metrics.failures.items()))
    cards.append(("without a reward", f"{failed:,}", told))
    if metrics.truncation_rate:
        cards.append(("cut by a budget", f"{metrics.truncation_rate:.1%}", "of the scored ones"))
    made = (
        f"<section><small>{escape(name)}</small><b>{escape(value)}</b>"
        f"<small>{escape(more) or '&nbsp;'}</small></section>"
        for name, value, more in cards
    )
    return f'<div class="cards">{"".join(made)}</div>'


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"95 %: {interval[0]:.1%} to {interval[1]:.1%}"


def _metrics(metrics: Metrics) -> str:
    whole = _table(list(metric_rows(metrics)))
    if not metrics.environments:
        return whole
    head = "".join(f"<th>{escape(name)}</th>" for name in ENVIRONMENT_COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in environment_rows(metrics)
    )
    each = "".join(
        f'<details class="part"><summary>{escape(name)}</summary>'
        f"{_table(list(metric_rows(part)))}</details>"
        for name, part in metrics.environments.items()
    )
    return (
        f'{whole}<h3>by environment</h3><div class="wide" tabindex="0" role="group" '
        f'aria-label="Metrics by environment"><table class="grid"><tr>{head}</tr>{rows}</table>'
        f"</div>{each}"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return "<table>" + "".join(lines) + "</table>"


def _viewer(chosen: Sequence[Rollout], metrics: Metrics, text: TokenText | None) -> str:
    shown = "".join(_rollout(rollout, metrics, text) for rollout in chosen)
    heading = f"Rollouts ({len(chosen):,} of {metrics.rollouts:,})"
    if len(chosen) < metrics.rollouts:
        shown = f'<p class="none">{_CHOICE}</p>{shown}'
    controls = (
        '<div class="find"><input id="search" type="search" autocomplete="off" '
        'placeholder="words in messages, tool calls, verdicts ..." aria-label="Search">'
        '<select id="kind" aria-label="Which"><option value="">all</option>'
        '<option value="passed">passed</option><option value="missed">not passed</option>'
        '<option value="failed">no reward</option></select><span id="count"></span></div>'
    )
    return _section(heading, controls + shown)


_CHOICE = "Some of those that failed, the lowest rewards, the highest, and some drawn by chance."


def _rollout(rollout: Rollout, metrics: Metrics, text: TokenText | None) -> str:
    outcome = rollout.outcome
    if rollout.reward is None:
        kind, verdict = "failed", "no reward"
    else:
        part = metrics.environments.get(rollout.provenance.environment, metrics)
        passed = rollout.reward >= part.pass_threshold - 1e-9
        kind, verdict = ("passed" if passed else "missed"), f"{rollout.reward:g}"
    about = [f"task {rollout.task_id}", f"attempt {rollout.rollout_index}"]
    about += [rollout.provenance.environment, outcome.stop_reason.value]
    facts = ""
    if outcome.reward is not None:
        parts = [(name, f"{value:g}") for name, value in outcome.reward.components.items()]
        facts += _named_table("reward components", parts)
        told = [(name, _shortened(str(value))) for name, value in outcome.reward.info.items()]
        facts += _named_table("verdict", told)
    if outcome.failure is not None:
        failed = f"failed ({outcome.failure.boundary})"
        said = [(failed, _shortened(outcome.failure.message)), ("error", outcome.failure.error)]
        facts += _table(said)
    items = "".join(_item(item) for item in (*rollout.prompt, *rollout.output))
    tokens = "".join(
        _tokens(segment, place, text) for place, segment in enumerate(rollout.segments)
    )
    known = "".join(f"<bdi>{escape(each)}</bdi>" for each in about if each)
    return (
        f'<details class="rollout" data-kind="{kind}"><summary><b>{escape(verdict)}</b>'
        f"<span>{known}</span></summary>"
        f'<div class="inside">{facts}{items}{tokens}</div></details>'
    )


def _named_table(heading: str, rows: Sequence[tuple[str, str]]) -> str:
    """A part's name may be that of a note: under headings of their own, each stays what it is."""
    return f'<p class="who">{heading}</p>{_table(rows)}' if rows else ""


def _item(item: Item) -> str:
    kind, who, said = _kind_who_and_text(item)
    # JSON stays as it is written, whatever script its texts are in.
    direction = "ltr" if kind in ("call", "result") else "auto"
    return (
        f'<div class="item {kind}"><div class="who">{escape(who)}</div>'
        f'<pre dir="{direction}">{escape(_shortened(said))}</pre>{_images(item)}</div>'
    )


def _images(item: Item) -> str:
    """The pictures of a message: those that are part of it are shown, and none is fetched."""
    content = item.get("content")
    if not isinstance(content, list):
        return ""
    made: list[str] = []
    for part in content:
        if part.get("type") != "input_image":
            continue
        url = str(part.get("image_url") or "")
        if not _PICTURE.fullmatch(url):
            made.append(f'<p class="none">image: {escape(url[:200]) or "without an address"}</p>')
        elif len(url) > LARGEST_IMAGE:
            made.append(f'<p class="none">an image of {len(url) * 3 // 4000:,} kB</p>')
        else:
            made.append(f'<img alt="an image of the conversation" src="{url}">')
    return "".join(made)


def _kind_who_and_text(item: Item) -> tuple[str, str, str]:
    if item["type"] == "function_call":
        return "call", f"calls {item['name']}", _indented(item["arguments"])
    if item["type"] == "function_call_output":
        return "result", "result", _indented(item["output"])
    if item["type"] == "reasoning":
        return "thinks", "thinks", item_text(item)
    kind = "assistant" if item["role"] == "assistant" else "other"
    return kind, item["role"], item_text(item)


def _indented(text: str) -> str:
    """JSON that holds objects or lists, over several lines; anything else as it is."""
    if not text.startswith(("{", "[")) or len(text) < 60:
        return text
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return text


def _tokens(segment: Segment, number: int, text: TokenText | None) -> str:
    """A segment's tokens; those that the policy sampled, and a trainer learns from, are marked."""
    ids = [*segment.prompt_ids, *segment.completion_ids]
    mask = [0] * len(segment.prompt_ids) + list(segment.mask)
    sampled = sum(mask)
    cut = len(ids) > MOST_TOKENS
    pairs = zip(mask[:MOST_TOKENS], ids[:MOST_TOKENS], strict=True)
    runs: list[str] = []
    for marked, run in groupby(pairs, key=lambda pair: bool(pair[0])):
        chosen = [token for _, token in run]
        said = " ".join(map(str, chosen)) + " " if text is None else text(chosen)
        runs.append(f'<span class="sampled">{escape(said)}</span>' if marked else escape(said))
    head = f"tokens{f', segment {number}' if number else ''}: {sampled:,} sampled of {len(ids):,}"
    more = " ... (cut)" if cut else ""
    shown = f"<pre>{''.join(runs)}{more}</pre>"
    return f'<details class="tokens"><summary>{head}</summary>{shown}</details>'


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... (cut)"
