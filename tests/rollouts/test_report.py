"""The page of a run: safe to open whatever a model wrote."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from gym_adapters import ModelError, Outcome, Reward, Rollout, StopReason
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS
from gym_adapters.items import (
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)
from gym_adapters.rollouts import RolloutMetrics
from gym_adapters.rollouts.report import LONGEST_TEXT, RolloutSample, html_report
from gym_adapters.segment import Segment, Span

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&</pre>"


def rollout(number: int, reward: float | None, text: str = "hi") -> Rollout:
    outcome = (
        Outcome.unscored(ModelError(text))
        if reward is None
        else Outcome.scored(Reward(reward, {text: reward}, {text: text}), StopReason.ANSWERED)
    )
    return Rollout(
        row={},
        task_id=f"{text}{number}",
        rollout_index=number,
        prompt=[user_message(text)],
        output=[
            reasoning(text),
            function_call(text, text, "a"),
            function_call_output("a", text),
            assistant_message(text),
        ],
        tools=[],
        outcome=outcome,
    )


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def page(*rollouts: Rollout, title: str = "run") -> Tags:
    metrics, sample = RolloutMetrics(), RolloutSample()
    for each in rollouts:
        metrics.add(each)
        sample.add(each)
    tags = Tags()
    tags.feed(html_report(title, [("model", title)], metrics.metrics(), sample))
    return tags


def test_nothing_that_a_model_wrote_becomes_markup() -> None:
    tags = page(rollout(0, 1.0, EVIL), rollout(1, None, EVIL), title=EVIL)
    assert not tags.tags & {"script", "img", "iframe", "link", "object", "a"}
    assert "onerror" not in tags.attributes
    # Title, heading, fact, component, info, task, and five items, twice; it is all there to read.
    assert tags.text.count(EVIL) > 12


def test_the_page_loads_nothing_and_forbids_scripts() -> None:
    metrics, sample = RolloutMetrics(), RolloutSample()
    text = html_report("run", [], metrics.metrics(), sample)
    assert "default-src 'none'" in text
    assert "http:" not in text
    assert "https:" not in text
    assert "src=" not in text.replace("default-src", "")


def test_long_texts_are_cut() -> None:
    tags = page(rollout(0, 1.0, "y" * (LONGEST_TEXT + 1)))
    assert "(cut)" in tags.text


def test_the_worst_the_best_and_failures_are_shown() -> None:
    sample = RolloutSample(2)
    rewards = [0.5, 0.1, None, 0.9, 0.1, 0.9, 0.1, None, None, 0.7]
    for number, reward in enumerate(rewards):
        sample.add(rollout(number, reward))
    assert [each.rollout_index for each in sample.worst] == [1, 4]
    assert [each.rollout_index for each in sample.best] == [3, 5]
    assert [each.rollout_index for each in sample.failed] == [2, 7]


def test_a_sample_of_nothing_keeps_nothing() -> None:
    sample = RolloutSample(0)
    sample.add(rollout(0, 1.0))
    sample.add(rollout(1, None))
    assert (sample.worst, sample.best, sample.failed) == ([], [], [])


def test_a_run_under_constraints_says_how_far_it_is_off_policy() -> None:
    span = Span(0, 1, sampled=True, extras={CONSTRAINED_LOGPROBS: [-1.0]})
    segment = Segment([1], [2], mask=[1], logprobs=[-3.0], spans=(span,))
    metrics = RolloutMetrics()
    metrics.add(replace(rollout(0, 1.0), segments=(segment,)))

    page = html_report("run", [], metrics.metrics(), RolloutSample())

    assert "off-policy: 1 of 1 tokens were sampled under a constraint" in page
    assert "2.000 nats" in page
