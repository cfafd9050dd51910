"""The page of a run: safe to open whatever a model wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gym_adapters import ModelError, Outcome, Reward, Rollout, StopReason
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS
from gym_adapters.items import (
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)
from gym_adapters.rollout import Provenance
from gym_adapters.rollouts import RolloutMetrics
from gym_adapters.rollouts.report import (
    LARGEST_IMAGE,
    LONGEST_TEXT,
    RolloutSample,
    html_report,
)
from gym_adapters.rollouts.report_charts import (
    RewardGrid,
    heat_map,
    pass_curve,
    reward_histogram,
)
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
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
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
    assert not tags.tags & {"img", "iframe", "link", "object", "a"}
    assert tags.scripts == 1
    assert "onerror" not in tags.attributes
    # Title, heading, fact, component, info, task, and five items, twice; it is all there to read.
    assert tags.text.count(EVIL) > 12


def test_the_page_loads_nothing_and_lets_one_script_run() -> None:
    metrics, sample = RolloutMetrics(), RolloutSample()
    text = html_report("run", [], metrics.metrics(), sample)
    assert "default-src 'none'" in text
    assert re.findall(r"script-src ([^;]*);", text) == [f"'sha256-{hash_of_the_script(text)}'"]
    assert "http:" not in text
    assert "https:" not in text
    assert " src=" not in text


def hash_of_the_script(text: str) -> str:
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    return b64encode(sha256(script.encode()).digest()).decode()


def test_charts_show_every_reward_and_every_attempt() -> None:
    grid, metrics = RewardGrid(), RolloutMetrics()
    for number, reward in enumerate([1.0, 0.0, 0.5, None]):
        made = replace(rollout(number, reward), task_id="a" if number < 2 else "b")
        grid.add(made)
        metrics.add(made)
    bars = reward_histogram(grid.rewards)
    assert [f"1 rollouts with {each}" in bars for each in ("0", "0.5", "1")] == [True] * 3
    cells = heat_map(grid)
    assert cells.count("<rect") == 4
    assert "a, attempt 1: 0<" in cells
    assert "b, attempt 3: no reward<" in cells  # as the rollout itself is numbered
    told = metrics.metrics()
    curve = pass_curve(told.pass_at_k, told.majority_at_k)
    assert "pass@1: 0.2500" in curve
    assert "pass@2: 1.0000" in curve
    assert "pass^2: 0.0000" in curve


def test_a_wide_range_of_rewards_is_put_into_bins_that_hold_all() -> None:
    bars = reward_histogram([number / 7 for number in range(-50, 51)])
    counts = [int(each) for each in re.findall(r"<title>(\d+) rollouts", bars)]
    assert (len(counts), sum(counts)) == (16, 101)
    assert "1 rollouts from -8 to -7<" in bars
    assert "7 rollouts from 0 to 1<" in bars


def test_many_tasks_are_thinned_out_and_said_to_be() -> None:
    grid = RewardGrid()
    for number in range(1000):
        grid.add(replace(rollout(0, number / 1000), task_id=f"{number:04}"))
    cells = heat_map(grid)
    assert cells.count("<rect") == 300
    assert "300 of 1,000 tasks are shown" in cells


def test_tokens_are_marked_by_their_mask() -> None:
    segment = Segment([1, 2], [3, 4, 5, 6], mask=[1, 1, 0, 1], logprobs=[-1.0, -1.0, 0.0, -1.0])
    metrics, sample = RolloutMetrics(), RolloutSample()
    made = replace(rollout(0, 1.0), segments=(segment,))
    metrics.add(made)
    sample.add(made)
    ids = html_report("run", [], metrics.metrics(), sample)
    assert "3 sampled of 6" in ids
    assert '1 2 <span class="sampled">3 4 </span>5 <span class="sampled">6 </span>' in ids
    words = html_report(
        "run", [], metrics.metrics(), sample, text=lambda ids: "".join(f"<{each}>" for each in ids)
    )
    assert '&lt;1&gt;&lt;2&gt;<span class="sampled">&lt;3&gt;&lt;4&gt;</span>' in words


def test_any_rollouts_are_drawn_alike_and_the_same_ones_each_time() -> None:
    def drawn() -> list[int]:
        sample = RolloutSample(20)
        for number in range(1000):
            sample.add(rollout(number, 0.5))
        return [each.rollout_index for each in sample.any]

    first = drawn()
    assert first == drawn()
    assert len(set(first)) == 20
    assert max(first) > 500


# In a browser.

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PROBE = "<script>document.documentElement.dataset.owned = 'yes'</script>"


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)}")


def seen(browser: str, folder: Path, text: str, search: str = "", width: int = 1000) -> str:
    """What the page has become after its scripts ran, or did not."""
    path = folder / "page.html"
    path.write_text(text)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'user'}"]
    options.append(f"--window-size={width},900")
    command = [browser, *options, "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"{path.as_uri()}{search}"], capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def probed_page() -> str:
    metrics, sample = RolloutMetrics(), RolloutSample()
    for number, (reward, text) in enumerate([(1.0, PROBE), (None, PROBE), (0.0, "a needle")]):
        made = rollout(number, reward, text)
        metrics.add(made)
        sample.add(made)
    return html_report(PROBE, [("model", PROBE)], metrics.metrics(), sample)


def test_a_script_in_a_rollout_does_not_run(browser: str, tmp_path: Path) -> None:
    page = probed_page()
    shown = seen(browser, tmp_path, page)
    assert "data-owned" not in shown[:500]
    assert "3 of 3" in shown, "the page's own script did not run"
    # If it ever slipped through unescaped, the page's policy would still stop it ...
    slipped = page.replace("</main>", f"{PROBE}</main>")
    assert "data-owned" not in seen(browser, tmp_path, slipped)[:500]
    # ... and without either it would have run: the probe is a real one.
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", slipped)
    assert 'data-owned="yes"' in seen(browser, tmp_path, bare)[:500]


def test_rollouts_are_found_by_words_and_by_verdict(browser: str, tmp_path: Path) -> None:
    page = probed_page()
    for search, found in (
        ("#q=NEEDLE", "1 of 3"),
        ("#q=needle%20nowhere", "0 of 3"),
        ("#kind=failed", "1 of 3"),
        ("#kind=passed", "1 of 3"),
        ("#q=needle&kind=missed", "1 of 3"),
        ("#q=needle&kind=passed", "0 of 3"),
    ):
        shown = seen(browser, tmp_path, page, search)
        assert f'<span id="count">{found}</span>' in shown, search
        hidden = len(re.findall(r'<details class="rollout"[^>]* hidden', shown))
        assert hidden == 3 - int(found[0]), search


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


MEASURE = (
    "<script>document.querySelectorAll('details').forEach((each) => { each.open = true; });"
    "document.documentElement.dataset.width = document.documentElement.scrollWidth</script>"
)


def test_no_name_or_number_makes_the_page_wider_than_a_narrow_window(
    browser: str, tmp_path: Path
) -> None:
    made = [rollout(0, 1e300, "x" * 300), rollout(1, -1e300, "\u202e\u05e9\u05dc" * 90)]
    made.append(rollout(2, None, "z" * 300))
    names = [f"{'an_environment_with_a_name_that_is_long' * 3}_{number}" for number in range(5)]
    metrics, sample = RolloutMetrics(1.0, dict.fromkeys(names, 1.0)), RolloutSample()
    for each in made:
        metrics.add(each)
        sample.add(each)
    page = html_report("m" * 300, [("model", "m" * 300)], metrics.metrics(), sample)
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    shown = seen(browser, tmp_path, bare.replace("</main>", f"{MEASURE}</main>"), width=500)
    (width,) = re.findall(r'<html[^>]* data-width="(\d+)"', shown[:500])
    assert int(width) <= 500


PICTURE = "data:image/png;base64,iVBORw0KGgo="


def test_pictures_of_a_message_are_shown_and_none_is_fetched() -> None:
    def part(url: str) -> dict[str, str]:
        return {"type": "input_image", "image_url": url}

    urls = [PICTURE, "https://example.org/a.png", "data:text/html,<script>", f"{PICTURE}' onload="]
    urls.append("data:image/png;base64," + "A" * (LARGEST_IMAGE + 1))
    message = user_message("look")
    message["content"] = [{"type": "input_text", "text": "look"}, *map(part, urls)]  # type: ignore[list-item]
    metrics, sample = RolloutMetrics(), RolloutSample()
    made = replace(rollout(0, 1.0), prompt=[message])
    metrics.add(made)
    sample.add(made)
    page = html_report("run", [], metrics.metrics(), sample)
    assert re.findall(r'<img [^>]*src="([^"]*)"', page) == [PICTURE]
    assert "img-src data:;" in page
    assert "image: https://example.org/a.png" in page
    assert "data:text/html,&lt;script&gt;" in page
    assert "an image of 300 kB" in page


def test_a_component_is_told_from_a_note_and_a_metric_of_the_same_name() -> None:
    made = rollout(0, 1.0)
    reward = Reward(1.0, {"pass@1": 0.25}, {"pass@1": "noted"})
    made = replace(made, outcome=Outcome.scored(reward, StopReason.ANSWERED))
    metrics, sample = RolloutMetrics(), RolloutSample()
    metrics.add(made)
    sample.add(made)
    page = html_report("run", [], metrics.metrics(), sample)
    # Space before a name is kept by the page's style.
    assert "<th>  pass@1</th><td>0.2500</td>" in page
    assert "<th>pass@1</th><td>1.0000</td>" in page
    parts, notes = page.split("reward components</p>")[1].split("verdict</p>")
    assert "<th>pass@1</th><td>0.25</td>" in parts
    assert "<th>pass@1</th><td>noted</td>" in notes


def test_many_environments_have_a_row_each() -> None:
    names = [f"env{number}" for number in range(50)]
    metrics, sample = RolloutMetrics(1.0, dict.fromkeys(names, 1.0)), RolloutSample()
    for number, name in enumerate(names):
        made = replace(rollout(number, number / 100), provenance=Provenance(environment=name))
        metrics.add(made)
        sample.add(made)
    page = html_report("run", [], metrics.metrics(), sample)
    assert "<tr><td>env7</td><td>1</td><td>1</td><td>0</td><td>0.0700</td>" in page
    assert page.count('<details class="part">') == 50


def test_a_map_of_more_attempts_than_tasks_runs_along_them_and_says_what_it_leaves_out() -> None:
    grid = RewardGrid()
    for number in range(100):
        grid.add(replace(rollout(number, 1.0), task_id="t"))
    cells = heat_map(grid)
    assert cells.count("<rect") == 64
    assert '<svg width="896" height="14"' in cells
    assert "a row for each task" in cells
    assert "Of up to 100 attempts, the first 64 are shown." in cells


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.sampled_from([1.0, 1e-9, 1e-300]),
)
def test_every_reward_is_in_one_bar_and_drawn(rewards: list[float], scale: float) -> None:
    rewards = [reward * scale for reward in rewards]
    counts = re.findall(r"<title>([\d,]+) rollouts (?:with|from) ", reward_histogram(rewards))
    assert sum(int(each.replace(",", "")) for each in counts) == len(rewards)
    assert len(counts) <= 21
    grid, metrics, sample = RewardGrid(), RolloutMetrics(), RolloutSample(1)
    for number, reward in enumerate(rewards):
        made = rollout(number, reward)
        grid.add(made)
        metrics.add(made)
        sample.add(made)
    assert heat_map(grid).count("<rect") == min(len(rewards), 300)
    # No number fills the page.
    page = html_report("run", [], metrics.metrics(), sample)
    assert re.search(r"\d{30}", page) is None


def test_rewards_that_differ_little_have_labels_that_differ() -> None:
    bars = reward_histogram([1 + number * 1e-8 for number in range(40)])
    labels = re.findall(r'class="mid">([^<]*)<', bars)
    assert len(set(labels)) == len(labels) > 2


def test_text_runs_as_its_script_does_and_json_from_the_left() -> None:
    page = html_report("run", [], RolloutMetrics().metrics(), sample_of(rollout(0, 1.0, "\u05e9")))
    directions = re.findall(r'<div class="item (\w+)">.*?<pre dir="(\w+)">', page)
    assert directions == [
        ("other", "auto"),
        ("thinks", "auto"),
        ("call", "ltr"),
        ("result", "ltr"),
        ("assistant", "auto"),
    ]


def sample_of(rollout: Rollout) -> RolloutSample:
    sample = RolloutSample()
    sample.add(rollout)
    return sample
