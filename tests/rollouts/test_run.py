"""A run ends with every rollout once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gym_adapters import Rollout
from gym_adapters.registry import load_environment
from gym_adapters.rollouts import RolloutMetrics, read_rollouts, run_folder
from gym_adapters.rollouts.append_file import AppendFile
from gym_adapters.rollouts.compressed import compressed, open_stored, stored
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.run import RunSettings, run
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.rollouts.task_input import TaskInput

ENVIRONMENT = '''
from __future__ import annotations

import asyncio
import os

from gym_adapters import Environment, EnvironmentConfig, ModelError, Task, ToolInfrastructureError
from gym_adapters.items import assistant_message


class EchoConfig(EnvironmentConfig):
    """Which tasks break."""

    down: bool = False


class EchoTask(Task):
    """Say `word`."""

    word: str


class Echo(Environment[EchoTask]):
    """Say the word."""

    Config = EchoConfig
    begun = 0

    async def start(self):
        Echo.begun += 1
        if Echo.begun > int(os.environ.get("ECHO_MOST", 10**9)):
            await asyncio.Event().wait()
        if self.config.down and self.task.word.endswith("3"):
            raise ToolInfrastructureError("the service is down")

    async def verify(self, transcript):
        return float(transcript.final_text == self.task.word)

    @classmethod
    def generate_tasks(cls, count, *, seed=0, difficulty=0.5):
        for number in range(count):
            word = f"word{number}"
            yield EchoTask.from_row({"responses_create_params": {"input": word}, "word": word})

    @classmethod
    def gold_turns(cls, task):
        return [[assistant_message(task.word)]]
'''


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "environment.py").write_text(ENVIRONMENT)
    return folder


def settings(echo: Path, output: Path | None, **options: object) -> RunSettings:
    entry = load_environment(str(echo))
    made = RunSettings(
        entry=entry,
        config=entry.config(),
        model="scripted:gold",
        tasks=TaskInput(entry, generate=20),
        output=output,
        num_repeats=2,
        retries=0,
    )
    return replace(made, **options)  # type: ignore[arg-type]


def keys(output: Path) -> Counter[tuple[str, int]]:
    return Counter(
        (rollout.task_id, rollout.rollout_index)
        for rollout in read_rollouts(stored(output / "rollouts.jsonl"))
    )


def files_below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]


class Watcher:
    """Remembers what a run told, and raises `error` at the given rollout."""

    def __init__(self, error: BaseException | None = None, at: int = 0) -> None:
        self.skipped: list[int] = []
        self.rollouts: list[Rollout] = []
        self._error, self._at = error, at

    def began(self, recorded: RolloutMetrics, skipped: int) -> None:
        self.skipped.append(skipped)

    def finished(self, rollout: Rollout) -> None:
        self.rollouts.append(rollout)
        if self._error is not None and len(self.rollouts) == self._at:
            raise self._error


async def test_a_run_leaves_rollouts_metrics_and_manifest(echo: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    watcher = Watcher()
    metrics = await run(settings(echo, output), watcher)
    assert (metrics.tasks, metrics.rollouts, metrics.reward_mean) == (20, 40, 1.0)
    assert set(keys(output).values()) == {1}
    assert len(keys(output)) == len(watcher.rollouts) == 40
    written = orjson.loads((output / "metrics.json").read_bytes())
    assert written == orjson.loads(orjson.dumps(metrics.to_json()))
    manifest = Manifest.read(output / "manifest.json")
    assert (manifest.environment, manifest.model, manifest.num_repeats) == (
        "Echo",
        "scripted:gold",
        2,
    )


async def test_without_a_folder_nothing_is_written(echo: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    metrics = await run(settings(echo, None))
    assert metrics.rollouts == 40
    assert files_below(tmp_path) == before


async def test_a_run_that_stopped_goes_on_and_ends_with_every_rollout_once(
    echo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    # Few at once: all that finishes while a disk is slow is written before anybody is told.
    with pytest.raises(RuntimeError, match="stop here"):
        await run(settings(echo, output, concurrency=4), Watcher(RuntimeError("stop here"), at=7))
    there = len(keys(output))
    assert 7 <= there < 40
    watcher = Watcher()
    metrics = await run(settings(echo, output, on_existing=OnExisting.RESUME), watcher)
    assert watcher.skipped == [there]
    assert len(watcher.rollouts) == 40 - there
    assert sorted(keys(output).values()) == [1] * 40
    assert metrics.rollouts == 40


async def test_a_cancelled_run_leaves_metrics_of_what_is_there(echo: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(asyncio.CancelledError):
        await run(settings(echo, output), Watcher(asyncio.CancelledError(), at=5))
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    assert metrics["rollouts"] == len(keys(output)) >= 5


async def test_more_repeats_add_to_a_run(echo: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    await run(settings(echo, output))
    metrics = await run(settings(echo, output, num_repeats=5, on_existing=OnExisting.RESUME))
    assert sorted(keys(output).values()) == [1] * 100
    assert [each.k for each in metrics.pass_at_k] == [1, 2, 4, 5]


async def test_failures_are_kept_apart_and_tried_again_when_resumed(
    echo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    broken = settings(echo, output, config=load_environment(str(echo)).config(["down=true"]))
    metrics = await run(replace(broken, retries=1))
    assert metrics.failures == {"tool": 4}
    assert metrics.retried == {"tool": 4}
    assert len(keys(output)) == 36
    watcher = Watcher()
    again = await run(replace(broken, on_existing=OnExisting.RESUME, max_attempts=3), watcher)
    assert len(watcher.rollouts) == 4
    assert again.failures == {"tool": 4}
    assert again.retried == {"tool": 8}
    finally_given_up = Watcher()
    await run(replace(broken, on_existing=OnExisting.RESUME, max_attempts=3), finally_given_up)
    assert finally_given_up.rollouts == []


async def test_a_full_disk_ends_the_run_and_leaves_it_resumable(
    echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    real, room = AppendFile.append, 10

    def filling(self: AppendFile, lines: bytes) -> None:
        nonlocal room
        if lines.count(b"\n") > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= lines.count(b"\n")
        real(self, lines)

    monkeypatch.setattr(AppendFile, "append", filling)
    with pytest.raises(OSError, match="No space left"):
        await run(settings(echo, output, concurrency=4))
    monkeypatch.setattr(AppendFile, "append", real)
    # How many lines come at once is the disk's to say; those that there is no room for are four.
    assert len(keys(output)) == 10 - room > 10 - 4
    await run(settings(echo, output, on_existing=OnExisting.RESUME))
    assert sorted(keys(output).values()) == [1] * 40


async def test_a_disk_without_room_for_the_metrics_either_is_told_by_what_was_lost(
    echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    full = errno.ENOSPC, "No space left on device"

    def refuse(self: AppendFile, lines: bytes) -> None:
        raise OSError(*full, str(self.path))

    def unsettled(file: object) -> None:
        raise OSError(*full, "metrics.json.draft")

    def begun() -> None:
        monkeypatch.setattr(AppendFile, "append", refuse)
        monkeypatch.setattr(run_folder, "_settle", unsettled)

    watcher = Watcher()
    monkeypatch.setattr(watcher, "began", lambda *told: begun())
    with pytest.raises(OSError, match="No space left") as caught:
        await run(settings(echo, output), watcher)
    assert caught.value.filename == str(output / "rollouts.jsonl")
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock",
        "failures.jsonl",
        "manifest.json",
        "rollouts.jsonl",
    ]


async def test_a_folder_that_can_not_be_used_is_refused_before_the_model_is_loaded(
    echo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    await run(settings(echo, output))
    with pytest.raises(Exception, match="--resume"):
        await run(settings(echo, output, model="transformers:/no/such/model"))


def killable(
    echo: Path, output: Path, *more: str, most: int | None = None
) -> subprocess.Popen[bytes]:
    """A run; after `most` attempts it does nothing more, and waits to be killed."""
    held = {} if most is None else {"ECHO_MOST": str(most)}
    command = [sys.executable, "-m", "gym_adapters.cli", "collect", str(echo)]
    options = ["-m", "scripted:gold@0.02", "-n", "60", "-k", "3", "-c", "8", "-o", str(output)]
    return subprocess.Popen(
        [*command, *options, "--resume", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **held},
    )


def lines_of(path: Path) -> int:
    if not path.exists():
        return 0
    with open_stored(path) as file:
        return file.read().count(b"\n")


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    while lines_of(path) < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("compress", [False, True])
def test_killed_twice_and_resumed_it_ends_with_every_rollout_once(
    compress: bool, echo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("typer", reason="needs the extra cli")
    output = tmp_path / "run"
    path, more, torn = output / "rollouts.jsonl", [], b'{"responses_create_params": {"inp'
    if compress:
        pytest.importorskip("zstandard", reason="needs the extra zstd")
        path, more = output / "rollouts.jsonl.zst", ["--compress", "zstd"]
        torn = compressed(torn + b'ut": "x"}}\n')[:-3]
    for enough in (20, 60):
        with killable(echo, output, *more, most=60) as process:
            wait_for_lines(path, enough, process)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert enough <= lines_of(path) < 180
    # A writer that dies in the middle of a line leaves part of it.
    with path.open("ab") as file:
        file.write(torn)
    with killable(echo, output, *more) as process:
        out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    assert sorted(keys(output).values()) == [1] * 180
    assert len({task_id for task_id, _ in keys(output)}) == 60


@pytest.fixture(autouse=True)
def no_leftover_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_gym_adapters_folder_"):
            del sys.modules[name]


async def test_a_resumed_run_records_the_rows_of_now_and_the_most_attempts(
    echo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    await run(settings(echo, output, num_repeats=3))
    entry = load_environment(str(echo))
    more = TaskInput(entry, generate=25)
    again = settings(
        echo, output, num_repeats=1, tasks=more, input="25", on_existing=OnExisting.RESUME
    )
    metrics = await run(again)
    assert (metrics.tasks, metrics.rollouts) == (25, 65)
    manifest = Manifest.read(output / "manifest.json")
    assert (manifest.num_repeats, manifest.input) == (3, "25")
