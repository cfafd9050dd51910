from __future__ import annotations

from pathlib import Path

from gym_adapters.training.trainer_metrics import Trend, read_metrics, trend, write_flat


def test_lines_are_read_flat_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "data": {"loss": 1.0}}\n{"step": 3, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert read_metrics(tmp_path / "absent") == []


def test_nothing_is_written_where_there_is_nothing(tmp_path: Path) -> None:
    write_flat(tmp_path / "absent", tmp_path / "flat")
    assert not (tmp_path / "flat").exists()


def test_a_trend_is_the_mean_of_the_first_and_of_the_last_quarter() -> None:
    entries = [{"reward": value, "loss": 1.0} for value in (0.0, 0.2, 5.0, 5.0, 5.0, 5.0, 0.6, 1.0)]
    assert trend([*entries, {"train_loss": 3.0}]) == Trend("reward", 0.1, 0.8, 8)
    assert trend([{"loss": 2.0}]) == Trend("loss", 2.0, 2.0, 1)
    assert trend([{"step": 1}]) is None


def test_metrics_of_a_run_that_went_on_are_those_of_both_its_sessions(tmp_path: Path) -> None:
    own, flat = tmp_path / "own.jsonl", tmp_path / "flat.jsonl"
    for steps in ((1, 2, 3), (3, 4)):
        lines = [b'{"step": %d, "data": {"loss": %d}}\n' % (n, len(steps)) for n in steps]
        own.write_bytes(b"".join(lines))
        write_flat(own, flat)
        write_flat(own, flat)
    found = [(each["step"], each["loss"]) for each in read_metrics(flat)]
    assert found == [(1, 3), (2, 3), (3, 2), (4, 2)]
