"""A cluster of one's own starts whatever the home and the temporary folder are like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gym_adapters.errors import InvalidConfig
from gym_adapters.rollouts.ray_cluster import (
    LONGEST_FOLDER,
    join_cluster,
    variables_to_start_ray,
)


class Ray:
    """Keeps what it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: dict[str, Any] = {}
        self.error = error

    def init(self, address: str | None, **options: Any) -> None:
        self.told = {"address": address, **options}
        if self.error is not None:
            raise self.error


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home to write to, a short temporary folder, and no settings of Ray's."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # What is set first is put back, also where the code under test has set it meanwhile.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_ray_chooses_where_it_can(home: Path) -> None:
    ray = Ray()
    join_cluster(ray, None, 2.0)
    assert ray.told == {
        "address": None,
        "num_cpus": 2.0,
        "log_to_driver": False,
        "include_dashboard": False,
    }
    assert variables_to_start_ray() == {}
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "moved"),
    [
        ("/" + "a" * (LONGEST_FOLDER - 1), False),
        ("/" + "a" * LONGEST_FOLDER, True),
        ("/" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * (LONGEST_FOLDER // 2 + 1), True),
    ],
)
def test_sockets_lie_where_their_paths_are_short_enough(
    folder: str, moved: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    assert variables_to_start_ray() == ({"RAY_TMPDIR": "/tmp"} if moved else {})
    monkeypatch.setenv("RAY_TMPDIR", "/chosen")
    assert variables_to_start_ray() == {}


def test_without_a_home_to_write_to_the_token_is_not_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "file"
    file.write_text("a file has no folders below it")
    monkeypatch.setenv("HOME", str(file))
    join_cluster(Ray(), None, 1.0)
    made = os.environ["RAY_AUTH_TOKEN"]
    assert len(made) == 64
    join_cluster(Ray(), None, 1.0)
    assert os.environ["RAY_AUTH_TOKEN"] == made


def test_a_cluster_that_is_there_has_its_own_folder_and_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "a" * 100)
    monkeypatch.setenv("HOME", "/proc/none")
    ray = Ray()
    join_cluster(ray, "10.0.0.1:6379", 1.0)
    assert set(ray.told) == {"address", "log_to_driver", "include_dashboard"}
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert variables_to_start_ray() == {}
    with pytest.raises(InvalidConfig, match="no Ray cluster at nowhere: refused"):
        join_cluster(Ray(ConnectionError("refused")), "nowhere", 1.0)
