"""The command line, run as users run it."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

pytest.importorskip("typer", reason="needs the extra cli")

ENVIRONMENT = '''
"""Words."""

from __future__ import annotations

import asyncio
import os

from gym_adapters import Environment, EnvironmentConfig, Task, tool
from gym_adapters.items import assistant_message


class EchoConfig(EnvironmentConfig):
    """How to judge."""

    lenient: bool = False


class EchoTask(Task):
    """Say `word`."""

    word: str


class Echo(Environment[EchoTask]):
    """Say the [bold]word[/bold]."""

    Config = EchoConfig
    begun = 0

    async def start(self):
        Echo.begun += 1
        if Echo.begun > int(os.environ.get("ECHO_MOST", 10**9)):
            await asyncio.Event().wait()

    @tool
    async def spell(self, word: str) -> str:
        """Spell a word [slowly].

        Args:
            word: What to spell.
        """
        return " ".join(word)

    async def verify(self, transcript):
        if self.task.word == "crash":
            raise RuntimeError("boom")
        return 1.0 if self.config.lenient else float(transcript.final_text == self.task.word)

    @classmethod
    def gold_turns(cls, task):
        return [[assistant_message(task.word)]]
'''
CARD = """
domain: words
description: Say the word.
teaches: Saying words.
licence: CC0-1.0
"""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    (folder / "data").mkdir(parents=True)
    (folder / "environment.py").write_text(ENVIRONMENT)
    (folder / "config.yaml").write_text(CARD)
    write(folder / "data" / "example.jsonl", "one", "two")
    return folder


def write(path: Path, *words: str) -> Path:
    rows = ({"responses_create_params": {"input": word}, "word": word} for word in words)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def cli(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gym_adapters.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
        timeout=100,
        check=False,
    )


def test_collect_runs_the_examples_and_shows_what_they_came_to(echo: Path) -> None:
    done = cli("collect", echo, "-m", "scripted:gold", "-k", 2)
    assert done.returncode == 0, done.stderr
    assert "mean reward" in done.stdout
    assert "1.0000" in done.stdout
    assert "4/4" in done.stderr


def test_collect_prints_json_alone_on_stdout(echo: Path) -> None:
    done = cli("collect", echo, "-m", "scripted:garbage", "--json")
    metrics = orjson.loads(done.stdout)
    assert (metrics["rollouts"], metrics["reward_mean"]) == (2, 0.0)


def test_settings_reach_the_environment(echo: Path) -> None:
    done = cli("collect", echo, "-m", "scripted:garbage", "--set", "lenient=true", "--json")
    assert orjson.loads(done.stdout)["reward_mean"] == 1.0


def test_collect_writes_refuses_resumes_and_overwrites(echo: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", "a", "b", "c")
    command = ["collect", echo, "-m", "scripted:gold", "-i", rows, "-o", tmp_path / "run"]
    assert cli(*command, "--limit", 2).returncode == 0
    refused = cli(*command)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert "Traceback" not in refused.stderr
    resumed = cli(*command, "--resume", "--json")
    assert orjson.loads(resumed.stdout)["rollouts"] == 3
    assert "3/3" in resumed.stderr
    other = cli(*command, "--resume", "--seed", 5)
    assert other.returncode == 2
    assert "seed was 0, and is 5 now" in other.stderr
    assert orjson.loads(cli(*command, "--overwrite", "--json").stdout)["rollouts"] == 3


def test_failures_are_told_by_boundary_with_the_way_to_try_again(
    echo: Path, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", "a", "crash")
    done = cli("collect", echo, "-m", "scripted:gold", "-i", rows, "-o", tmp_path / "run")
    assert done.returncode == 0
    assert "verifier 1" in done.stdout
    # What went wrong, and what to do about it, is told also where stdout is for a program.
    for told in (done, cli(*run_of_a_crash(echo, rows, tmp_path / "again"), "--json")):
        assert (
            "1 without a reward (verifier). The first: verify of Echo: RuntimeError: boom"
            in told.stderr
        )
        assert "gym-adapters reverify" in told.stderr
        assert "--resume" in told.stderr


def run_of_a_crash(echo: Path, rows: Path, output: Path) -> list[object]:
    return ["collect", echo, "-m", "scripted:gold", "-i", rows, "-o", output]


def test_what_environments_print_does_not_spoil_the_json(echo: Path) -> None:
    path = echo / "environment.py"
    loud = 'print("loud"); import os; os.system("echo louder")'
    path.write_text(
        path.read_text().replace(
            "        if self.task.word", f"        {loud}\n        if self.task.word"
        )
    )
    done = cli("collect", echo, "-m", "scripted:gold", "--json")
    assert orjson.loads(done.stdout)["reward_mean"] == 1.0
    assert done.stderr.count("loud\n") == done.stderr.count("louder\n") == 2


def test_a_folder_that_can_not_be_written_is_told_before_anything_runs(
    echo: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/none")):
        done = cli("collect", echo, "-m", "scripted:gold", "-o", output)
        assert done.returncode == 2
        assert f"error: can't write to {output}: " in done.stderr
        assert "Fix: give a folder to write with --output" in done.stderr
        assert "collecting" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [["collect", "-m", "scripted:gold", "--json"], ["envs"]])
def test_a_stdout_that_is_full_is_one_clear_line(echo: Path, command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gym_adapters.cli", command[0], str(echo), *command[1:]],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_rows_are_another_run_and_more_rows_are_not(echo: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", "a", "b")
    other = write(tmp_path / "other.jsonl", "a", "c")
    more = write(tmp_path / "more.jsonl", "c", "b", "a")
    command = ["collect", echo, "-m", "scripted:gold", "-o", tmp_path / "run", "--json"]
    assert cli(*command, "-i", first).returncode == 0
    refused = cli(*command, "-i", other, "--resume")
    assert refused.returncode == 2
    assert "1 of the 2 recorded there are not among those given" in refused.stderr
    assert f"They came from {first}, and now come from {other}" in refused.stderr
    done = cli(*command, "-i", more, "--resume")
    assert orjson.loads(done.stdout)["rollouts"] == 3


def test_compressed_rollouts_are_read_by_everything(echo: Path, tmp_path: Path) -> None:
    pytest.importorskip("zstandard", reason="needs the extra zstd")
    rows = write(tmp_path / "rows.jsonl", "a", "b", "crash")
    run = tmp_path / "run"
    command = ["collect", echo, "-m", "scripted:gold", "-i", rows, "-o", run, "--json"]
    assert cli(*command, "--compress", "zstd", "--limit", 1).returncode == 0
    assert cli(*command, "--resume").returncode == 0
    assert {path.name for path in run.glob("*.jsonl*")} == {
        "rollouts.jsonl.zst",
        "failures.jsonl.zst",
    }
    report = cli("report", run, "--json")
    assert orjson.loads(report.stdout)["failures"] == {"verifier": 1}
    again = cli("reverify", run, "-e", echo, "-o", tmp_path / "again", "--set", "lenient=true")
    assert "3 verdicts are as they were, 0 changed" in again.stdout
    replayed = cli("collect", echo, "-m", f"replay:{run}", "-i", rows, "--limit", 2, "--json")
    assert orjson.loads(replayed.stdout)["reward_mean"] == 1.0
    exported = cli("export", "sft", run, "-o", tmp_path / "sft.jsonl")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "sft.jsonl").read_bytes().count(b"\n") == 2
    plain = tmp_path / "plain"
    assert cli(*command[:-3], "-o", plain).returncode == 0
    refused = cli(*command[:-3], "-o", plain, "--resume", "--compress", "zstd")
    assert (refused.returncode, "leave out --compress" in refused.stderr) == (2, True)
    assert "--compress knows zstd, not 'gzip'" in cli(*command, "--compress", "gzip").stderr


def test_a_run_without_a_single_reward_is_a_failure(echo: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", "crash")
    done = cli("collect", echo, "-m", "scripted:gold", "-i", rows)
    assert done.returncode == 1
    assert "no rollout could be scored" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "gpt:4"], "no kind of model is called 'gpt'"),
        (["-m", "scripted:gold", "-n", "3"], "has no task generator"),
        (["-m", "scripted:gold", "--set", "lenient=maybe"], "lenient"),
        (["-m", "scripted:gold", "--set", "strict=true"], "Fields are: lenient"),
        (["-m", "scripted:gold", "-i", "absent.jsonl"], "there is no file absent.jsonl"),
        (["-m", "scripted:gold", "--resume"], "--output"),
        (["-m", "scripted:gold", "--pass-threshold", "nan"], "must be a number, not nan"),
        (["-m", "scripted:gold", "-o", "x", "--resume", "--overwrite"], "contradict"),
    ],
)
def test_what_the_user_can_change_is_one_clear_line(
    echo: Path, arguments: list[str], said: str
) -> None:
    done = cli("collect", echo, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_bad_row_is_named_before_anything_runs(echo: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", "a")
    with rows.open("ab") as file:
        file.write(b'{"responses_create_params": {"input": "x"}}\n')
    done = cli("collect", echo, "-m", "scripted:gold", "-i", rows, "-o", tmp_path / "run")
    assert done.returncode == 2
    assert "rows.jsonl:2: field 'word'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_something_unexpected_shows_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError('at import')")
    done = cli("envs", "broken:Env", cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError: at import" in done.stderr
    assert "Traceback" in done.stderr


def test_envs_shows_one_with_its_card_tools_and_a_row(echo: Path) -> None:
    done = cli("envs", echo)
    assert done.returncode == 0
    for text in ("[bold]word[/bold]", "CC0-1.0", "spell", "[slowly]", "lenient", '"word": "one"'):
        assert text in done.stdout


def test_envs_shows_a_card_in_words_and_how_to_run_it() -> None:
    shown = cli("envs", "blackjack").stdout
    for line in (
        "  licence: Apache-2.0",
        "  reward_range: -1 to 1",
        "  budget: max turns 12, max tokens per turn 512",
        "  gym-adapters collect blackjack --model scripted:gold",
    ):
        assert line in shown.splitlines()


def test_envs_as_json_gives_schemas(echo: Path) -> None:
    facts = orjson.loads(cli("envs", echo, "--json").stdout)
    assert facts["tools"][0]["parameters"]["required"] == ["word"]
    assert facts["card"]["domain"] == "words"


def test_envs_lists_them_all() -> None:
    done = cli("envs", "--json")
    from gym_adapters import environment_names

    assert [each["name"] for each in orjson.loads(done.stdout)] == environment_names()
    assert "licence" in cli("envs").stdout


def test_an_unknown_environment_lists_what_there_is() -> None:
    done = cli("envs", "no_such_env")
    assert done.returncode == 2
    assert "no environment is called 'no_such_env'" in done.stderr


def test_validate_tells_every_bad_row(echo: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", "a", "b")
    good = cli("validate", echo, rows)
    assert (good.returncode, good.stdout.strip()) == (0, f"{rows}: 2 rows, 0 bad")
    with rows.open("ab") as file:
        file.write(b"{}\nnonsense\n")
    bad = cli("validate", echo, rows)
    assert bad.returncode == 1
    assert bad.stdout.strip() == f"{rows}: 4 rows, 2 bad"
    assert "rows.jsonl:3:" in bad.stderr
    assert "rows.jsonl:4:" in bad.stderr
    same = cli("data", "validate", rows, "--env", echo)
    assert (same.returncode, same.stdout, same.stderr) == (1, bad.stdout, bad.stderr)


def test_help_teaches_with_examples() -> None:
    for command in ([], ["collect"], ["envs"], ["validate"]):
        done = cli(*command, "--help")
        assert done.returncode == 0
        assert f"gym-adapters {' '.join(command)}".strip() in done.stdout


def test_version() -> None:
    from gym_adapters import __version__

    assert cli("--version").stdout.strip() == f"gym-adapters {__version__}"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('no', name='typer')")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'typer' else real(name, *a)\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = cli("--version", env={"PYTHONPATH": path})
    assert done.returncode == 2
    assert "pip install 'gym-adapters[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_loads_no_heavy_package() -> None:
    code = (
        "import sys, gym_adapters.cli.app; "
        "print([m for m in ('torch', 'transformers', 'ray', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def interruptible(
    echo: Path, output: Path, rows: Path, stderr: int, most: int = 10**9
) -> subprocess.Popen[bytes]:
    """A run; after `most` attempts it does nothing more, and waits to be interrupted."""
    command = [sys.executable, "-m", "gym_adapters.cli", "collect", str(echo), "-c", "4"]
    options = ["-m", "scripted:gold@0.02", "-i", str(rows), "-k", "100", "-o", str(output)]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={**os.environ, "ECHO_MOST": str(most)},
    )


def wait_for_rollouts(output: Path, process: subprocess.Popen[bytes]) -> None:
    path = output / "rollouts.jsonl"
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(
    echo: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    output, rows = tmp_path / "run", write(tmp_path / "rows.jsonl", "a", "b", "c")
    with interruptible(echo, output, rows, subprocess.PIPE, most=200) as process:
        wait_for_rollouts(output, process)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in error
    assert f"gym-adapters collect {shlex.quote(str(echo))}" in error.decode()
    assert error.decode().rstrip().endswith("--resume")
    metrics = orjson.loads((output / "metrics.json").read_bytes())
    lines = (output / "rollouts.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert 0 < metrics["rollouts"] == lines.count(b"\n") < 300


def test_a_terminal_gets_a_live_bar(echo: Path, tmp_path: Path) -> None:
    output, rows = tmp_path / "run", write(tmp_path / "rows.jsonl", "a")
    ours, theirs = pty.openpty()
    shown = b""
    with interruptible(echo, output, rows, theirs) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # Linux says so when the other end has closed
    os.close(ours)
    assert process.returncode == 0
    assert b"100/100" in shown
    assert b"rollouts/s" in shown


@pytest.fixture
def recorded_run(echo: Path, tmp_path: Path) -> Path:
    rows = write(tmp_path / "rows.jsonl", "a", "b", "crash")
    output = tmp_path / "run"
    assert cli("collect", echo, "-m", "scripted:garbage", "-i", rows, "-o", output).returncode == 0
    return output


def test_report_shows_a_run_and_writes_a_page(recorded_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = cli("report", recorded_run, "--html", page)
    assert done.returncode == 0, done.stderr
    assert "verifier 1" in done.stdout
    assert "<h2>Rollouts (3 of 3)</h2>" in page.read_text()
    assert 'data-kind="failed"' in page.read_text()
    assert orjson.loads(cli("report", recorded_run, "--json").stdout)["scored"] == 2
    assert cli("report", tmp_path).returncode == 2
    nan = cli("report", recorded_run, "--pass-threshold", "nan")
    assert (nan.returncode, "--pass-threshold must be a number" in nan.stderr) == (2, True)


def test_reverify_gives_new_verdicts_in_a_new_folder(
    echo: Path, recorded_run: Path, tmp_path: Path
) -> None:
    before = (recorded_run / "rollouts.jsonl").read_bytes()
    again = tmp_path / "again"
    done = cli("reverify", recorded_run, "-e", echo, "-o", again, "--set", "lenient=true")
    assert done.returncode == 0, done.stderr
    assert "1 verdicts are as they were, 2 changed" in done.stdout
    assert orjson.loads((again / "metrics.json").read_bytes())["reward_mean"] == 1.0
    assert (recorded_run / "rollouts.jsonl").read_bytes() == before
    assert cli("reverify", recorded_run, "-e", echo, "-o", recorded_run).returncode == 2
    assert cli("reverify", recorded_run, "-e", echo, "-o", again).returncode == 2
    only = cli("reverify", recorded_run, "-e", echo, "-o", again, "--overwrite", "--failed-only")
    assert "1 verdicts are as they were, 0 changed" in only.stdout


FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "nemo_gym"


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the recorded rollouts are not here: {FIXTURES}")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ("calendar", "3 verdicts are as they were, 0 changed"),
        # Tools that change state are run again, and answer the same JSON with other spaces.
        ("example_session_state_mgmt", "3 verdicts are as they were, 0 changed"),
        # One was recorded before NeMo Gym mended its parser.
        ("mcqa", "2 verdicts are as they were, 1 changed"),
    ],
)
def test_rollouts_that_nemo_gym_recorded_are_verified_again(
    environment: str, said: str, tmp_path: Path
) -> None:
    records = map(orjson.loads, (FIXTURES / f"{environment}.jsonl").read_bytes().splitlines())
    rows = [
        {**each["task"], "response": each["response"], "reward": each["recorded_reward"]}
        for each in records
    ]
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    unnamed = cli("reverify", path, "-o", tmp_path / "unnamed")
    assert (unnamed.returncode, "add --environment ENV" in unnamed.stderr) == (2, True)
    done = cli("reverify", path, "-e", environment, "-o", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    metrics = orjson.loads((tmp_path / "again" / "metrics.json").read_bytes())
    assert (metrics["rollouts"], metrics["failures"]) == (3, {})


def test_the_environment_of_a_run_need_not_be_named_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("collect", "calendar", "-m", "scripted:gold", "-n", 4, "-o", run).returncode == 0
    done = cli("reverify", run, "-o", tmp_path / "again")
    assert "4 verdicts are as they were, 0 changed" in done.stdout
    several = tmp_path / "several"
    command = ["collect", "calendar", "mcqa", "-m", "scripted:gold", "-n", 4, "-o", several]
    assert cli(*command).returncode == 0
    refused = cli("reverify", several, "-o", tmp_path / "no")
    assert (refused.returncode, "they are of calendar, mcqa" in refused.stderr) == (2, True)


def test_a_replay_of_what_was_not_recorded_is_told_as_that(echo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("collect", echo, "-m", "scripted:gold", "-o", run).returncode == 0
    done = cli("collect", echo, "-m", f"replay:{run}", "-k", 2, "-o", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert "holds no such attempt: number 1 of task" in done.stderr
    assert "with as many attempts as were recorded" in done.stderr
    assert "endpoint" not in done.stderr
    assert "--resume" not in done.stderr
    assert "attempted again" not in done.stdout


def test_many_environments_are_told_in_one_table(tmp_path: Path) -> None:
    names = ["mcqa", "calendar", "arithmetic_tools", "reasoning_gym"]
    run, page = tmp_path / "run", tmp_path / "page.html"
    done = cli("collect", *names, "-m", "scripted:gold", "-n", 8, "-o", run)
    assert done.returncode == 0, done.stderr
    assert "4 environments, scripted:gold" in done.stdout
    assert done.stdout.count("mean over tasks") == 1
    told = cli("report", run, "--html", page)
    assert all(name in told.stdout for name in names)
    assert "<h1>4 environments, scripted:gold</h1>" in page.read_text()
