"""A run as one HTML page that stands alone: no scripts, nothing loaded from elsewhere.

Everything that a model, a tool or a row wrote is escaped, and the page forbids scripts besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from html import escape
from itertools import count

from gym_adapters.items import Item, item_text
from gym_adapters.rollout import Rollout
from gym_adapters.rollouts.metrics import Metrics

__all__ = ["RolloutSample", "html_report"]

# A page is for reading: what is longer is in the run's files.
LONGEST_TEXT = 20_000


@dataclass(slots=True)
class RolloutSample:
    """Picks rollouts worth reading from a stream: the worst, the best and some failures.

    Args:
        size: How many of each.
    """

    size: int = 10
    failed: list[Rollout] = field(default_factory=list)
    _worst: list[tuple[float, int, Rollout]] = field(default_factory=list)
    _best: list[tuple[float, int, Rollout]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def add(self, rollout: Rollout) -> None:
        """Consider one more rollout."""
        if rollout.reward is None:
            if len(self.failed) < self.size:
                self.failed.append(rollout)
            return
        # The counter breaks ties, so that the earliest of equals is kept.
        order = -next(self._order)
        for heap, worth in ((self._worst, -rollout.reward), (self._best, rollout.reward)):
            entry = (worth, order, rollout)
            if len(heap) < self.size:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)

    @property
    def worst(self) -> list[Rollout]:
        """The lowest rewards, lowest first."""
        return [rollout for *_, rollout in sorted(self._worst, key=_by_worth, reverse=True)]

    @property
    def best(self) -> list[Rollout]:
        """The highest rewards, highest first."""
        return [rollout for *_, rollout in sorted(self._best, key=_by_worth, reverse=True)]


def _by_worth(entry: tuple[float, int, Rollout]) -> tuple[float, int]:
    return entry[:2]


def html_report(
    title: str, facts: Iterable[tuple[str, str]], metrics: Metrics, sample: RolloutSample
) -> str:
    """The page.

    Args:
        title: Its title.
        facts: Names and values about the run.
        metrics: What the run came to.
        sample: Rollouts to show in full.
    """
    rows = [*facts, *_metric_rows(metrics)]
    parts = [_HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>", _table(rows)]
    for heading, rollouts in (
        ("Lowest rewards", sample.worst),
        ("Highest rewards", sample.best),
        ("Failures", sample.failed),
    ):
        if rollouts:
            parts.append(f"<h2>{heading}</h2>")
            parts.extend(_rollout(rollout) for rollout in rollouts)
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0; }}
main {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }}
th {{ font-weight: 600; }}
details {{ border: 1px solid #8886; border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem; }}
summary {{ cursor: pointer; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .8rem; }}
.who {{ font-weight: 600; opacity: .7; }}
</style></head><body><main>"""


def _metric_rows(metrics: Metrics) -> Iterator[tuple[str, str]]:
    yield "tasks", str(metrics.tasks)
    yield "rollouts", f"{metrics.rollouts}, of which {metrics.scored} scored"
    if metrics.reward_mean is not None:
        yield "mean reward", f"{metrics.reward_mean:.4f}"
    for each in metrics.pass_at_k:
        if each.pass_at_k is not None:
            short = f" ({each.tasks_short} tasks have too few attempts)" if each.tasks_short else ""
            yield f"pass@{each.k}", f"{each.pass_at_k:.4f}{short}"
    for name, value in metrics.components.items():
        yield f"component {name}", f"{value:.4f}"
    for name, counts in (
        ("failures", metrics.failures),
        ("stopped by", metrics.stop_reasons),
        ("tool errors", metrics.tool_errors),
    ):
        if counts:
            yield name, ", ".join(f"{key} {value}" for key, value in sorted(counts.items()))
    if metrics.output_tokens:
        yield "tokens", f"{metrics.input_tokens} read, {metrics.output_tokens} sampled"
    if metrics.constrained is not None:
        yield "constraints", str(metrics.constrained)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return "<table>" + "".join(lines) + "</table>"


def _rollout(rollout: Rollout) -> str:
    outcome = rollout.outcome
    verdict = f"reward {rollout.reward:g}" if rollout.reward is not None else "no reward"
    facts: list[tuple[str, str]] = [("stopped by", outcome.stop_reason.value)]
    if outcome.reward is not None:
        facts += [(name, f"{value:g}") for name, value in outcome.reward.components.items()]
        facts += [(name, str(value)) for name, value in outcome.reward.info.items()]
    if outcome.failure is not None:
        facts.append((f"failed ({outcome.failure.boundary})", outcome.failure.message))
    head = f"{verdict} - task {rollout.task_id}, attempt {rollout.rollout_index}"
    items = "".join(_item(item) for item in (*rollout.prompt, *rollout.output))
    table = _table([(name, _shortened(value)) for name, value in facts])
    return f"<details><summary>{escape(head)}</summary>{table}{items}</details>"


def _item(item: Item) -> str:
    who, text = _who_and_text(item)
    return f'<div class="who">{escape(who)}</div><pre>{escape(_shortened(text))}</pre>'


def _who_and_text(item: Item) -> tuple[str, str]:
    if item["type"] == "function_call":
        return f"calls {item['name']}", item["arguments"]
    if item["type"] == "function_call_output":
        return "result", item["output"]
    if item["type"] == "reasoning":
        return "thinks", item_text(item)
    return item["role"], item_text(item)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... (cut)"
