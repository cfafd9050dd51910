from __future__ import annotations

from collections.abc import Iterator

import pytest

from gym_adapters.adapters.verl import version as module
from gym_adapters.errors import MissingExtra


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    module.check_verl.cache_clear()
    yield
    module.check_verl.cache_clear()


def test_the_tested_version_passes_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda _: "0.9.7")
    module.check_verl()


def test_another_version_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda _: "0.10.0")
    with pytest.warns(UserWarning, match=r"tested with verl 0\.9, and this is verl 0\.10\.0"):
        module.check_verl()


def test_without_verl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise module.PackageNotFoundError("verl")

    monkeypatch.setattr(module, "version", absent)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[verl\]"):
        module.check_verl()
