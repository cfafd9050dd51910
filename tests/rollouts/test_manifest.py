"""A run's manifest tells runs apart and gives no secret away."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gym_adapters import InvalidConfig
from gym_adapters.rollouts.manifest import IDENTITY, Manifest, git_state, without_secrets

MANIFEST = Manifest(
    environment="counter",
    environment_version="1",
    model="scripted:gold",
    template_hash=None,
    seed=0,
    environment_config={"lenient": True, "nested": {"k": 1}},
    sampling={"temperature": 1.0},
    limits={"max_turns": 4},
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": "mcqa"}, "environment was 'counter', and is 'mcqa' now"),
        ({"environment_version": "2"}, "environment_version was '1', and is '2' now"),
        (
            {"environment_config": {"lenient": True, "nested": {"k": 2}}},
            "environment_config.nested.k was 1, and is 2 now",
        ),
        ({"model": "tiny"}, "model was 'scripted:gold', and is 'tiny' now"),
        ({"template_hash": "ab"}, "template_hash was None, and is 'ab' now"),
        ({"seed": 1}, "seed was 0, and is 1 now"),
        ({"sampling": {"temperature": 0.5}}, "sampling.temperature was 1.0, and is 0.5 now"),
        ({"sampling": None}, "sampling was {'temperature': 1.0}, and is None now"),
        ({"limits": {"max_turns": 5}}, "limits.max_turns was 4, and is 5 now"),
        ({"blend": {"mcqa": 2.0}}, "blend was None, and is {'mcqa': 2.0} now"),
    ],
)
def test_a_run_made_differently_is_not_resumed_and_told_why(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        replace(MANIFEST, **change).check_resumable_from(MANIFEST, Path("run"))  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_every_part_of_the_identity_is_tried_above() -> None:
    assert len(IDENTITY) == 9


def test_what_does_not_change_rollouts_may_differ() -> None:
    other = replace(MANIFEST, num_repeats=9, input="b", git={"commit": "c"}, sessions=("x",))
    other.check_resumable_from(MANIFEST, Path("run"))


def test_it_reads_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(orjson.dumps(MANIFEST.to_json()))
    assert Manifest.read(path) == MANIFEST


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b'{"sessions": []}'])
def test_a_broken_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match="--overwrite"):
        Manifest.read(path)


def test_an_absent_manifest_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="not the folder of a run"):
        Manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"api_key": "sk-1", "max_tokens": 5}, {"api_key": "<not recorded>", "max_tokens": 5}),
        ({"judge": {"HF_TOKEN": "hf_1"}}, {"judge": {"HF_TOKEN": "<not recorded>"}}),
        ({"passwords": ["a", ""]}, {"passwords": ["<not recorded>", ""]}),
        ("openai:m@https://me:pw@host/v1", "openai:m@https://host/v1"),
        ("https://me:pw@host:8000/v1?x=1", "https://host:8000/v1?x=1"),
        ("openai:m@http://host/v1", "openai:m@http://host/v1"),
        ("see https://host/a@b", "see https://host/a@b"),
        ("me@host", "me@host"),
        (3, 3),
    ],
)
def test_secrets_are_not_written_down(value: object, kept: object) -> None:
    assert without_secrets(value) == kept


def test_git_state_tells_commit_and_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not what a hook of git, or the settings of whoever runs this, say of another repository.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "absent") is None

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "m")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "modified": False}
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "modified": True}


def test_of_other_environments_nothing_more_is_told() -> None:
    other = replace(MANIFEST, environment="mcqa", environment_version="2", limits={"max_turns": 1})
    with pytest.raises(InvalidConfig) as caught:
        other.check_resumable_from(MANIFEST, Path("run"))
    assert "made differently: environment was 'counter', and is 'mcqa' now. Fix" in str(
        caught.value
    )
