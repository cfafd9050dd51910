from __future__ import annotations

import sys
import warnings
from importlib.metadata import PackageNotFoundError
from types import ModuleType

import pytest

from gym_adapters import MissingExtra
from gym_adapters.adapters.tested_version import is_tested
from gym_adapters.adapters.trl import version


@pytest.mark.parametrize(
    ("installed", "tested"),
    [("1.16.0", True), ("1.16.3", True), ("1.17.0", False), ("2.0", False), ("1", False)],
)
def test_only_the_tested_minor_version_counts(installed: str, tested: bool) -> None:
    assert is_tested(installed, version.TESTED) is tested


def test_another_version_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    version.check_trl.cache_clear()
    monkeypatch.setattr(version, "version", lambda _: "9.9.9")
    with pytest.warns(UserWarning, match=r"TRL 9\.9\.9.*docs/trl\.md"):
        version.check_trl()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        version.check_trl()
    version.check_trl.cache_clear()


def test_unsloths_trl_is_tested_only_where_unsloth_rewrites_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version, "version", lambda _: "1.15.0")
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    version.check_trl.cache_clear()
    with pytest.warns(UserWarning, match=r"TRL 1\.15\.0"):
        version.check_trl()
    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    version.check_trl.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        version.check_trl()
    version.check_trl.cache_clear()


def test_without_trl_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise PackageNotFoundError("trl")

    version.check_trl.cache_clear()
    monkeypatch.setattr(version, "version", absent)
    with pytest.raises(MissingExtra, match=r"gym-adapters\[trl\]"):
        version.check_trl()
    version.check_trl.cache_clear()
