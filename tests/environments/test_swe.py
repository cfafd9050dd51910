"""Issues are solved when hidden tests say so, and only then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.swe.environment import (
    Swe,
    SweConfig,
    SweTask,
    _tell_that_images_are_not_used,
)
from gym_adapters.environments.swe.unified_diff import PatchError, patched

from gym_adapters import Episode, InvalidRow, Outcome
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message, function_call
from gym_adapters.registry import load_environment
from gym_adapters.sandbox import Sandbox, SandboxLimits
from gym_adapters.sandbox.docker import DockerSandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_episode_resources(Swe) as opened:
        yield opened


def task(name: str = "slugline__slugline-7", **changes: Any) -> SweTask:
    rows = [asked.to_row() for asked in load_environment("swe").example_tasks()]
    (row,) = [row for row in rows if row["instance_id"] == name]
    return SweTask.from_row({**row, **changes})


async def play(
    sandbox: Any, *commands: str, asked: SweTask | None = None
) -> tuple[list[dict[str, Any]], Outcome | None]:
    heard = []
    async with Episode(Swe, asked or task(), resources=sandbox) as episode:
        await episode.start()
        for command in commands:
            arguments = json.dumps({"command": command})
            step = await episode.advance([function_call("shell", arguments, "c0")])
            heard += [json.loads(item["output"]) for item in step.items]
        await episode.advance([assistant_message("Done.")])
    return heard, episode.outcome


def verdict(outcome: Outcome | None) -> tuple[float, dict[str, float]]:
    assert outcome is not None
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value, dict(outcome.reward.components)


async def test_the_repository_as_it_is_fails_what_must_be_fixed_and_passes_the_rest(
    sandbox: Sandbox,
) -> None:
    for asked in load_environment("swe").example_tasks():
        _, outcome = await play(sandbox, asked=asked)
        assert verdict(outcome) == (0.0, {"fail_to_pass": 0.0, "pass_to_pass": 1.0})


async def test_a_fix_by_shell_is_worth_1(sandbox: Sandbox) -> None:
    fix = "sed -i 's/\\[:longest\\]$/[:longest].rstrip(\"-\")/' slugline.py"
    heard, outcome = await play(sandbox, "ls; pwd", fix, "python -m unittest 2>&1 | tail -1")
    assert heard[0]["output"] == "README.md\nslugline.py\ntests\n/repo\n"
    assert heard[2]["output"] == "OK\n"
    assert verdict(outcome) == (1.0, {"fail_to_pass": 1.0, "pass_to_pass": 1.0})


@pytest.mark.parametrize(
    "cheat",
    [
        "mkdir -p tests; echo 'x = 1' > tests/test_cut.py; echo 'x = 1' > tests/test_slug.py",
        "printf 'import os\\nos._exit(0)\\n' > slugline.py",
        "printf 'print(\"OK\")\\nraise SystemExit(0)\\n' > slugline.py",
        "printf 'def main(*a, **k): pass\\n' > unittest.py",
        "rm -rf tests && ln -s /tmp tests",
        "rm -rf ./*",
        "sleep 1000 & disown; rm slugline.py",
    ],
)
async def test_what_only_seems_to_solve_it_is_worth_0(sandbox: Sandbox, cheat: str) -> None:
    _, outcome = await play(sandbox, cheat)
    assert verdict(outcome)[0] == 0.0


async def test_breaking_what_worked_costs_the_reward(sandbox: Sandbox) -> None:
    fix = "sed -i 's/\\[:longest\\]$/[:longest].rstrip(\"-\")/; s/NFKD/NFC/' slugline.py"
    _, outcome = await play(sandbox, fix)
    assert verdict(outcome) == (0.0, {"fail_to_pass": 1.0, "pass_to_pass": 0.75})


async def test_long_output_is_shortened_and_there_is_no_network(sandbox: Sandbox) -> None:
    connect = "python -c \"import socket; socket.create_connection(('127.0.0.1', 22), 1)\""
    heard, _ = await play(sandbox, "head -c 20000 /dev/zero | tr '\\0' x", connect)
    assert "12000 characters left out" in heard[0]["output"]
    assert heard[1]["exit_code"] == 1
    assert "PermissionError" in heard[1]["output"]


async def test_pytest_can_run_the_tests(sandbox: Sandbox) -> None:
    names = {
        "FAIL_TO_PASS": ["tests/test_cut.py::CutTest::test_a_cut_name_does_not_end_in_a_hyphen"],
        "PASS_TO_PASS": ["tests/test_slug.py::SlugTest::test_accents_are_dropped"],
    }
    asked = task(**names)
    config = SweConfig(runner="pytest")
    async with Episode(Swe, asked, resources=sandbox, config=config) as episode:
        await episode.start()
        await episode.advance([assistant_message("Done.")])
    assert verdict(episode.outcome) == (0.0, {"fail_to_pass": 0.0, "pass_to_pass": 1.0})


async def test_a_test_patch_that_does_not_fit_leaves_the_rollout_unscored(
    sandbox: Sandbox,
) -> None:
    diff = "--- a/slugline.py\n+++ b/slugline.py\n@@ -1,1 +1,1 @@\n-nothing\n+x\n"
    _, outcome = await play(sandbox, asked=task(test_patch=diff))
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.boundary == "verifier"


def test_rows_may_hold_lists_as_text_and_ids_name_no_folders() -> None:
    asked = task(FAIL_TO_PASS='["a.b"]', PASS_TO_PASS="[]")
    assert (asked.FAIL_TO_PASS, asked.PASS_TO_PASS) == (["a.b"], [])
    with pytest.raises(InvalidRow, match="FAIL_TO_PASS"):
        task(FAIL_TO_PASS="a.b")
    with pytest.raises(InvalidRow, match="instance_id"):
        SweTask.from_row({**task().to_row(), "instance_id": "../x"})


async def test_a_row_without_its_repository_names_the_setting(sandbox: Sandbox) -> None:
    asked = SweTask.from_row({**task().to_row(), "instance_id": "absent"})
    with pytest.raises(InvalidRow, match="set archives"):
        await Swe(asked, resources=sandbox).start()


# Plays docker's part: notes the image, and runs the command. No real engine runs here.
DOCKER = """#!/bin/sh
while [ "$1" != --workdir ]; do shift; done
cd "$2"
while [ "$2 $3" != "sh -c" ]; do shift; done
echo "$1" >> "$(dirname "$0")/images"
shift
exec "$@"
"""


@pytest.fixture
def docker(tmp_path: Path) -> DockerSandbox:
    program = tmp_path / "docker"
    program.write_text(DOCKER, encoding="utf-8")
    program.chmod(0o755)
    limits = SandboxLimits(wall_time=60.0)
    return DockerSandbox(str(program), "everybodys", limits=limits, concurrency=2)


@pytest.mark.parametrize(
    ("named", "image"),
    [
        ({"image_name": "docker.io/xingyaoww/sweb.eval.x86_64.a_s_b-1:v1"}, None),
        ({"docker_image": "own@sha256:0"}, None),
        ({"image_name": "this", "docker_image": "that"}, "this"),
        ({"image_name": None}, "everybodys"),
        ({}, "everybodys"),
    ],
)
async def test_commands_run_in_the_image_that_the_row_names(
    docker: DockerSandbox, tmp_path: Path, named: dict[str, str], image: str | None
) -> None:
    fix = "sed -i 's/\\[:longest\\]$/[:longest].rstrip(\"-\")/' slugline.py"
    heard, outcome = await play(docker, fix, "pwd", asked=task(**named))
    assert heard[1]["output"] == "/repo\n"
    assert verdict(outcome)[0] == 1.0
    used = set((tmp_path / "images").read_text().splitlines())
    assert used == {image or next(iter(named.values()))}


async def test_in_a_local_sandbox_images_are_not_used_and_that_is_told_once(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    _tell_that_images_are_not_used.cache_clear()
    for _ in range(2):
        _, outcome = await play(sandbox, asked=task(image_name="img"))
        assert verdict(outcome)[0] == 0.0
    assert caplog.text.count("sandbox.provider=docker") == 1


@pytest.mark.parametrize("image", ["--privileged", "a b", "a\nb", ""])
def test_what_can_be_no_image_is_refused(image: str) -> None:
    with pytest.raises(InvalidRow, match="image_name"):
        task(image_name=image)


TEXT = "a\nb\nc\n"


@pytest.mark.parametrize(
    ("diff", "after"),
    [
        ("--- a/f\n+++ b/f\n@@ -2 +2,2 @@\n-b\n+B\n+x\n", {"f": "a\nB\nx\nc\n"}),
        ("--- /dev/null\n+++ b/g\n@@ -0,0 +1 @@\n+new\n", {"g": "new\n"}),
        ("--- a/f\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-a\n-b\n-c\n", {"f": None}),
        (
            "diff --git a/f b/f\nindex 1..2 1\n--- a/f\n+++ b/f\n@@ -3 +3 @@ x\n-c\n+C\n\\ No\n",
            {"f": "a\nb\nC"},
        ),
        (
            "--- a/f\n+++ b/f\n@@ -1,1 +1,1 @@\n-a\n+A\n@@ -3,1 +3,1 @@\n-c\n+C\n",
            {"f": "A\nb\nC\n"},
        ),
    ],
)
def test_diffs_are_applied(diff: str, after: dict[str, str | None]) -> None:
    assert patched(diff, lambda name: TEXT) == after


@pytest.mark.parametrize(
    "diff",
    [
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-x\n+y\n",
        "--- a/f\n+++ b/f\n@@ -1,2 +1 @@\n-a\n",
        "@@ -1 +1 @@\n-a\n+b\n",
        "--- a/f\n+++ b/f\n@@ nonsense\n",
    ],
)
def test_diffs_that_do_not_fit_are_refused(diff: str) -> None:
    with pytest.raises(PatchError):
        patched(diff, lambda name: TEXT)


def test_a_form_feed_does_not_end_a_line() -> None:
    diff = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\x0cb\n-c\n+d\n"
    assert patched(diff, lambda name: "a\x0cb\nc\n") == {"f": "a\x0cb\nd\n"}


def test_a_renamed_file_is_gone_from_its_old_place() -> None:
    diff = "--- a/f\n+++ b/g\n@@ -1 +1 @@\n-c\n+d\n"
    assert patched(diff, lambda name: "c\n") == {"f": None, "g": "d\n"}


@pytest.mark.parametrize("field", ["patch", "test_patch"])
def test_what_is_no_diff_is_refused(field: str) -> None:
    with pytest.raises(InvalidRow, match=field):
        task(**{field: "change it"})


async def test_the_word_cannot_be_read_off_the_runners_names(sandbox: Sandbox) -> None:
    forged = (
        "import __main__, os, sys; word = vars(__main__).get('word') or sys.stdin.readline(); "
        "os.write(1, word.encode()); os._exit(0)"
    )
    _, outcome = await play(
        sandbox, f'for f in $(find . -name "*.py"); do echo "{forged}" > $f; done'
    )
    assert verdict(outcome)[0] == 0.0
