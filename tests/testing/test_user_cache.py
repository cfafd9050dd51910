"""A home that is read-only, or none at all, keeps nobody from a tiny policy."""

from __future__ import annotations

import logging
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from gym_adapters.errors import InvalidConfig
from gym_adapters.testing.user_cache import user_cache


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, of a user whose home can't be written, even by root."""
    home, folder = tmp_path / "home", tmp_path / "temporary"
    home.write_text("a file has no folders below it")
    folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_cache_is_below_home(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary))
    assert user_cache("name", "made") == temporary / ".cache" / "gym_adapters" / "name"
    assert list(user_cache("name", "made").iterdir()) == []


def test_where_home_can_not_be_written_it_is_the_users_alone(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = user_cache("name", "made")
    assert folder == temporary / f"gym_adapters-{os.getuid()}" / "name"
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []
    assert str(folder) in caplog.text
    assert user_cache("name", "made") == folder


def test_a_user_without_a_home_has_a_cache(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_cache("name", "made").is_relative_to(temporary)


def test_a_cache_that_has_what_is_needed_need_not_be_writable(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(temporary))
    folder = temporary / "gym_adapters" / "name"
    (folder / "made").mkdir(parents=True)
    before = folder.stat().st_mtime_ns
    assert user_cache("name", "made") == folder
    assert folder.stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_what_others_may_have_put_there_is_not_trusted(kind: str, temporary: Path) -> None:
    planted = temporary / f"gym_adapters-{os.getuid()}"
    if kind == "open to all":
        planted.mkdir()
        planted.chmod(0o777)
    elif kind == "a link":
        (temporary / "elsewhere").mkdir()
        planted.symlink_to(temporary / "elsewhere")
    else:
        planted.write_text("")
    with pytest.raises(InvalidConfig, match="Set XDG_CACHE_HOME"):
        user_cache("name", "made")
