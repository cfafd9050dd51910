"""A run's folder is whole after any crash, and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gym_adapters import (
    InvalidConfig,
    InvalidRow,
    ModelError,
    Outcome,
    Reward,
    Rollout,
    Segment,
    Span,
    StopReason,
    UsageError,
)
from gym_adapters.items import assistant_message, user_message
from gym_adapters.rollouts import RolloutMetrics, RunFolder, read_rollouts, run_folder
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.recorded import recorded_metrics
from gym_adapters.rollouts.run_folder import OnExisting

MANIFEST = Manifest("counter", "1", "scripted:gold", None, 0, num_repeats=2)
FAILED = Outcome.unscored(ModelError("down"))


def rollout(task_id: str, index: int, outcome: Outcome | float = 1.0) -> Rollout:
    if not isinstance(outcome, Outcome):
        outcome = Outcome.scored(Reward(outcome, info={"k": [1]}), StopReason.ANSWERED)
    return Rollout(
        row={"responses_create_params": {"input": "hi"}, "extra": task_id},
        task_id=task_id,
        rollout_index=index,
        prompt=[user_message("hi")],
        output=[assistant_message("\u2028 line\nbreaks")],
        tools=[],
        outcome=outcome,
        segments=[Segment([1, 2], [3], [1], [-0.5], (Span(0, 1, sampled=True),))],
        task_index=3,
    )


def record(path: Path, *rollouts: Rollout, **options: object) -> RunFolder:
    with RunFolder(path, MANIFEST, **options) as folder:  # type: ignore[arg-type]
        for each in rollouts:
            folder.append(each)
    return folder


def resumed(path: Path, **options: object) -> RunFolder:
    return record(path, on_existing=OnExisting.RESUME, **options)


def test_rollouts_read_back_as_they_were(tmp_path: Path) -> None:
    written = [rollout("a", 0), rollout("a", 1, 0.5)]
    record(tmp_path / "run", *written)
    read = list(read_rollouts(tmp_path / "run" / "rollouts.jsonl"))
    assert [each.to_json() for each in read] == [each.to_json() for each in written]
    assert read[1].outcome == written[1].outcome


def test_failures_go_to_their_own_file(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0), rollout("b", 0, FAILED))
    assert [each.task_id for each in read_rollouts(tmp_path / "rollouts.jsonl")] == ["a"]
    (failed,) = read_rollouts(tmp_path / "failures.jsonl")
    assert failed.outcome == FAILED


def test_a_folder_with_a_run_is_refused_and_told_both_ways_out(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0))
    with pytest.raises(UsageError, match=r"--resume.*--overwrite"):
        record(tmp_path)


@pytest.mark.parametrize("on_existing", list(OnExisting))
def test_a_folder_with_other_things_is_never_touched(
    tmp_path: Path, on_existing: OnExisting
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        record(tmp_path, on_existing=on_existing)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_throws_the_run_away_and_nothing_else(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0), rollout("b", 0, FAILED))
    (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path, replace(MANIFEST, seed=5), on_existing=OnExisting.OVERWRITE) as folder:
        assert folder.skip == frozenset()
    assert (tmp_path / "rollouts.jsonl").read_bytes() == b""
    assert (tmp_path / "failures.jsonl").read_bytes() == b""
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_an_empty_folder_begins_a_run(tmp_path: Path) -> None:
    assert resumed(tmp_path / "new").skip == frozenset()


def test_resuming_skips_what_is_scored_and_retries_what_failed(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0), rollout("a", 1, FAILED), rollout("b", 0))
    assert resumed(tmp_path).skip == {("a", 0), ("b", 0)}


def test_failures_are_retried_up_to_a_limit(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0, FAILED))
    for _ in range(2):
        folder = record(tmp_path, rollout("a", 0, FAILED), on_existing=OnExisting.RESUME)
        assert folder.skip == frozenset()
    assert resumed(tmp_path).skip == {("a", 0)}
    assert resumed(tmp_path, max_attempts=4).skip == frozenset()


def test_attempts_that_were_retried_at_once_count_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path, MANIFEST) as folder:
        folder.append_retried(rollout("a", 0, FAILED))
        folder.append(rollout("a", 0, FAILED))
    assert resumed(tmp_path, max_attempts=2).skip == {("a", 0)}


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_cut_away_and_run_again(tmp_path: Path, cut: int) -> None:
    record(tmp_path, rollout("a", 0), rollout("a", 1))
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with RunFolder(tmp_path, MANIFEST, on_existing=OnExisting.RESUME) as folder:
        assert folder.skip == {("a", 0)}
        folder.append(rollout("a", 1))
    assert [each.rollout_index for each in read_rollouts(path)] == [0, 1]


def test_a_whole_line_that_is_no_rollout_is_an_error_that_names_it(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0))
    with (tmp_path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"reward": 1}\n')
    with pytest.raises(InvalidRow, match=r"rollouts\.jsonl:2: "):
        resumed(tmp_path)
    # And the folder is free again for whoever repairs it.
    with pytest.raises(InvalidRow):
        resumed(tmp_path)


def test_a_different_run_is_not_resumed(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidConfig, match="seed was 0, and is 7 now"):
        RunFolder(tmp_path, replace(MANIFEST, seed=7), on_existing=OnExisting.RESUME)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_checking_says_the_same_before_the_template_is_known(tmp_path: Path) -> None:
    templated = replace(MANIFEST, template_hash="ab")
    RunFolder(tmp_path, templated).close()
    RunFolder.check(tmp_path, MANIFEST, OnExisting.RESUME)
    with pytest.raises(InvalidConfig, match="seed"):
        RunFolder.check(tmp_path, replace(MANIFEST, seed=7), OnExisting.RESUME)
    with pytest.raises(UsageError, match="--resume"):
        RunFolder.check(tmp_path, MANIFEST, OnExisting.REFUSE)
    RunFolder.check(tmp_path / "absent", MANIFEST, OnExisting.REFUSE)
    RunFolder(tmp_path / "absent", MANIFEST).close()


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, MANIFEST),
        pytest.raises(UsageError, match="another process is writing"),
    ):
        RunFolder(tmp_path, MANIFEST, on_existing=OnExisting.RESUME)
    resumed(tmp_path)


def test_the_manifest_lists_every_session(tmp_path: Path) -> None:
    record(tmp_path)
    with RunFolder(
        tmp_path, replace(MANIFEST, num_repeats=8), on_existing=OnExisting.RESUME
    ) as folder:
        pass
    manifest = Manifest.read(tmp_path / "manifest.json")
    assert manifest == folder.manifest
    assert (len(manifest.sessions), manifest.num_repeats) == (2, 8)


def test_metrics_after_a_resume_are_those_of_the_whole_run(tmp_path: Path) -> None:
    record(tmp_path, rollout("a", 0, 1.0), rollout("a", 1, FAILED), rollout("b", 0, FAILED))
    with RunFolder(tmp_path, MANIFEST, on_existing=OnExisting.RESUME) as folder:
        assert folder.metrics.failures == {"model": 2}
        folder.append(rollout("a", 1, 0.0))
        assert folder.failed == 1
        metrics = folder.write_metrics()
    assert (metrics.rollouts, metrics.scored, metrics.reward_mean) == (3, 2, 0.5)
    assert (metrics.failures, metrics.retried) == ({"model": 1}, {"model": 1})
    assert orjson.loads((tmp_path / "metrics.json").read_bytes())["reward_mean"] == 0.5
    assert recorded_metrics(tmp_path, RolloutMetrics()) == metrics


def test_groups_that_are_not_whole_are_run_again_where_rewards_are_relative(
    tmp_path: Path,
) -> None:
    record(tmp_path, rollout("a", 0), rollout("a", 1, FAILED), rollout("b", 0), rollout("c", 3))
    folder = resumed(tmp_path, whole_groups=True)
    assert folder.skip == {("a", 0), ("a", 1)}
    assert [each.task_id for each in read_rollouts(tmp_path / "rollouts.jsonl")] == ["a"]
    assert folder.metrics.rollouts == 2


def test_metrics_of_a_folder_that_is_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="not the folder of a run"):
        recorded_metrics(tmp_path, RolloutMetrics())


@pytest.mark.parametrize("on_existing", list(OnExisting))
def test_a_process_that_died_before_its_manifest_was_whole_began_no_run(
    tmp_path: Path, on_existing: OnExisting
) -> None:
    (tmp_path / "manifest.json.draft").write_bytes(b'{"environ')
    record(tmp_path, rollout("a", 0), on_existing=on_existing)
    assert [each.task_id for each in read_rollouts(tmp_path / "rollouts.jsonl")] == ["a"]
    assert not list(tmp_path.glob("*.draft"))


def test_metrics_are_written_whatever_names_a_verifier_gives(tmp_path: Path) -> None:
    odd = Outcome.scored(Reward(1.0, {"half \ud800": 0.5}), StopReason.ANSWERED)
    broken = Outcome.unscored(ModelError("half \ud800"))
    record(tmp_path, rollout("a", 0, odd), rollout("a", 1, broken)).write_metrics()
    metrics = orjson.loads((tmp_path / "metrics.json").read_bytes())
    assert metrics["components"] == {"half \ufffd": 0.5}
    assert metrics["failure_examples"] == {"model": "ModelError: half \ufffd"}


@pytest.mark.parametrize("at_once", [1, 700, 1 << 20])
def test_many_rollouts_are_written_piece_by_piece_and_each_counts_once(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "AT_ONCE", at_once)
    many = [rollout("a", index, FAILED if index % 3 == 2 else 1.0) for index in range(20)]
    with RunFolder(tmp_path, MANIFEST) as folder:
        folder.append(*many)
        metrics = folder.write_metrics()
    assert (metrics.rollouts, metrics.scored, metrics.failures) == (20, 14, {"model": 6})
    for name, outcome in (("rollouts.jsonl", True), ("failures.jsonl", False)):
        indexes = [each.rollout_index for each in read_rollouts(tmp_path / name)]
        assert indexes == [index for index in range(20) if (index % 3 != 2) is outcome]
