from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gym_adapters.errors import MissingExtra, UsageError
from gym_adapters.extras import require


def test_an_installed_module_is_returned_itself() -> None:
    assert require("json", "cli", "the test") is sys.modules["json"]


def test_a_dotted_name_gives_the_inner_module() -> None:
    assert require("importlib.metadata", "cli", "the test").__name__ == "importlib.metadata"


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtra) as caught:
        require("no_such_trainer.core", "trl", "the TRL adapter")

    assert str(caught.value) == (
        "the TRL adapter needs the package 'no_such_trainer', which is not installed. "
        "Install it with: pip install 'gym-adapters[trl]'"
    )
    assert caught.value.extra == "trl"
    assert caught.value.package == "no_such_trainer"


def test_a_missing_package_can_be_caught_as_import_error_and_as_usage_error() -> None:
    for expected in (ImportError, UsageError):
        with pytest.raises(expected):
            require("no_such_trainer", "trl", "the TRL adapter")


def test_a_package_whose_own_dependency_is_missing_names_that_dependency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed_trainer.py").write_text("import no_such_queue.client\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingExtra, match=r"needs the package 'no_such_queue', .*\[verl\]"):
        require("half_installed_trainer", "verl", "the verl adapter")


def test_an_installed_package_without_the_module_is_not_called_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"json\.no_such_part") as caught:
        require("json.no_such_part", "trl", "the TRL adapter")

    assert not isinstance(caught.value, MissingExtra)


def test_an_error_inside_an_installed_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_trainer.py").write_text("raise RuntimeError('no driver')\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(RuntimeError, match="no driver"):
        require("broken_trainer", "trl", "the TRL adapter")
