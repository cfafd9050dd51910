from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError

import pytest

from gym_adapters import MissingExtra, Unsupported
from gym_adapters.adapters.unsloth import version


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    version.check_unsloth.cache_clear()
    yield
    version.check_unsloth.cache_clear()


def test_a_later_month_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda _: "2099.1.3")
    with pytest.warns(UserWarning, match=r"Unsloth 2099\.1\.3.*docs/unsloth\.md"):
        version.check_unsloth()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        version.check_unsloth()


@pytest.mark.parametrize("old", ["2026.9.14", "2025.12.1", "2024.9.post4"])
def test_an_older_one_is_refused(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda _: old)
    with pytest.raises(Unsupported, match=rf"Unsloth {old} is older than 2026\.10"):
        version.check_unsloth()


def test_the_tested_month_passes_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda _: "2026.10.9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        version.check_unsloth()


def test_without_unsloth_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise PackageNotFoundError("unsloth")

    monkeypatch.setattr(version, "version", absent)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[unsloth\]"):
        version.check_unsloth()
