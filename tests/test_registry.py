"""Environments are found by folder, module, entry point and name."""

from __future__ import annotations

import re
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gym_adapters import (
    Episode,
    InvalidConfig,
    InvalidEnvironment,
    InvalidRow,
    UnknownEnvironment,
    environment_names,
    load_environment,
    registry,
)
from gym_adapters.items import assistant_message

SOURCE = """
from gym_adapters import Environment, EnvironmentConfig, Task, Transcript
from .words import GREETING

class GreetTask(Task):
    name: str

class GreetConfig(EnvironmentConfig):
    polite: bool = False

class Greet(Environment[GreetTask]):
    Config = GreetConfig

    async def verify(self, transcript: Transcript) -> float:
        greeting = "Dear" if self.config.polite else GREETING
        return float(transcript.final_text == f"{greeting} {self.task.name}")
"""
CARD = """
domain: games
description: Greet.
teaches: Manners.
licence: Apache-2.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an environment that nobody installed."""
    path = tmp_path / "greeter"
    (path / "data").mkdir(parents=True)
    (path / "environment.py").write_text(textwrap.dedent(SOURCE))
    (path / "words.py").write_text('GREETING = "Hello"\n')
    (path / "config.yaml").write_text(CARD + "config: {polite: true}\n")
    row = '{"responses_create_params": {"input": "greet Ann"}, "name": "Ann", "more": 1}\n'
    (path / "data" / "example.jsonl").write_text(row)
    return path


def test_built_in_environments_are_found_by_name() -> None:
    assert "arithmetic_tools" in environment_names()
    entry = load_environment("arithmetic_tools")
    assert entry.environment.name == "arithmetic_tools"
    assert entry.folder is not None
    assert entry.folder.name == "arithmetic_tools"
    assert entry.card is not None
    assert entry.card.domain == "math"
    assert load_environment("arithmetic_tools").environment is entry.environment


async def test_a_folder_is_an_environment(folder: Path) -> None:
    entry = load_environment(str(folder))
    assert entry.name == "greeter"
    [task] = entry.example_tasks()
    assert task.to_row()["more"] == 1
    async with Episode(entry.environment, task, config=entry.config()) as episode:
        await episode.start()
        step = await episode.advance([assistant_message("Dear Ann")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 1.0


def test_a_folder_may_be_named_relatively(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_environment("./greeter").environment is load_environment(str(folder)).environment
    assert load_environment("greeter").folder == folder


def test_folders_of_one_name_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "greeter"
    other.mkdir(parents=True)
    (other / "environment.py").write_text(textwrap.dedent(SOURCE))
    (other / "words.py").write_text('GREETING = "Hi"\n')
    one, two = load_environment(str(folder)), load_environment(str(other))
    assert one.environment is not two.environment
    assert two.card is None
    assert two.example_tasks() == []
    assert two.config().model_dump() == {"polite": False}


def test_a_module_and_class_are_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = textwrap.dedent(SOURCE).replace("from .words import GREETING", 'GREETING = "Hi"')
    (tmp_path / "my_module.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        entry = load_environment("my_module:Greet")
        assert entry.environment.name == "Greet"
        assert load_environment("my_module:").environment is entry.environment
        with pytest.raises(InvalidEnvironment, match="no Environment class called 'GreetTask'"):
            load_environment("my_module:GreetTask")
    finally:
        sys.modules.pop("my_module", None)


def test_a_module_that_is_not_there_is_told_and_one_that_breaks_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownEnvironment, match=r"no module 'nowhere_to_be'.*PYTHONPATH"):
        load_environment("nowhere_to_be.found:Greet")
    (tmp_path / "breaks.py").write_text("import nowhere_to_be\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be"):
        load_environment("breaks:Greet")


def test_an_entry_point_is_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "gym_adapters.environments.arithmetic_tools.environment:ArithmeticTools"
    point = EntryPoint("my_sums", target, registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert "my_sums" in environment_names()
    entry = load_environment("my_sums")
    assert entry.name == "my_sums"
    assert entry.environment.name == "arithmetic_tools"
    assert entry.card is not None


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UnknownEnvironment, match=r"called 'sums'.*arithmetic_tools.*mcqa"):
        load_environment("sums")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mqca", "Did you mean 'mcqa'"),
        ("Text-World", "Did you mean 'text_world'"),
        ("counter.py", "here counter:YourClass"),
        ("my/counter/environment.py", "Give its folder, 'my/counter'"),
    ],
)
def test_what_was_probably_meant_is_named(name: str, hint: str) -> None:
    with pytest.raises(UnknownEnvironment, match=re.escape(hint)):
        load_environment(name)


@pytest.mark.parametrize(
    "name", [":", ":Greet", "..:Greet", "a b:Greet", "./counter.py:Greet", "m:Greet:x", "m:a.b"]
)
def test_what_names_no_module_and_class_is_told_how_to_write_it(name: str) -> None:
    with pytest.raises(UnknownEnvironment, match=r"Write it as module:Class"):
        load_environment(name)


def test_a_folder_without_an_environment_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownEnvironment, match=r"has no environment\.py"):
        load_environment(str(tmp_path))


def test_a_class_that_is_not_there_is_told_which_are() -> None:
    module = "gym_adapters.environments.blackjack.environment"
    with pytest.raises(InvalidEnvironment, match="called 'Blakjack'; it has Blackjack"):
        load_environment(f"{module}:Blakjack")


def test_a_folder_with_two_classes_must_name_one(folder: Path) -> None:
    path = folder / "environment.py"
    path.write_text(path.read_text() + "\nclass Other(Greet):\n    pass\n")
    with pytest.raises(InvalidEnvironment, match=r"must define one .*Greet, Other"):
        load_environment(str(folder))
    (folder / "config.yaml").write_text(CARD + 'environment: "environment:Other"\n')
    assert load_environment(str(folder)).environment.name == "Other"


def test_a_folder_without_a_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "environment.py").write_text("x = 1\n")
    with pytest.raises(InvalidEnvironment, match="none"):
        load_environment(str(tmp_path))


def test_the_config_is_the_cards_with_overrides(folder: Path) -> None:
    entry = load_environment(str(folder))
    assert entry.config().model_dump() == {"polite": True}
    assert entry.config(["polite=false"]).model_dump() == {"polite": False}
    with pytest.raises(InvalidConfig, match=r"config of greeter: rude: .*Fields are: polite"):
        entry.config(["rude=true"])
    with pytest.raises(InvalidConfig, match="polite: Input should be a valid boolean"):
        entry.config(["polite=[1]"])


def test_tasks_are_read_with_file_and_line(folder: Path) -> None:
    entry = load_environment(str(folder))
    path = folder / "data" / "rows.jsonl"
    path.write_text('{"responses_create_params": {"input": "x"}, "name": "A"}\n{"name": "B"}\n')
    tasks = entry.read_tasks(path)
    assert next(tasks).model_dump()["name"] == "A"
    with pytest.raises(InvalidRow) as caught:
        next(tasks)
    assert str(caught.value).startswith(f"{path}:2: field 'responses_create_params'")
