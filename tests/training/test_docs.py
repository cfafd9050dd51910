"""What the pages on recipes say to type is taken as typed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("trl", reason="needs the extra trl")
pytest.importorskip("verl", reason="needs the extra verl")

import yaml
from typer.testing import CliRunner

from gym_adapters import load_environment
from gym_adapters.cli.app import app
from gym_adapters.training.recipe import checked

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/recipes.md", "recipes/README.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("gym-adapters train")]


@pytest.mark.parametrize(
    ("page", "command"), [(page, command) for page in PAGES for command in commands(page)]
)
def test_every_command_plans_what_it_says(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEMO_RL_CHECKOUT", raising=False)
    (tmp_path / "run").mkdir()  # which some train on
    words = shlex.split(command, comments=True)[1:]
    dry = [] if len(words) == 1 or "--dry-run" in words else ["--dry-run"]
    done = CliRunner().invoke(app, [*words, *dry])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "training" in done.output or len(words) == 1
    # A dry run writes nothing.
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]


def test_the_recipe_of_the_page_is_one() -> None:
    (text,) = blocks("docs/recipes.md", "yaml")
    recipe = checked(yaml.safe_load(text), "docs/recipes.md")
    assert recipe.arguments == {"learning_rate": 1e-6, "gradient_accumulation_steps": 8}


def test_the_environments_of_the_readme_can_be_swapped_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = load_environment("mcqa").example_path
    assert examples is not None
    shutil.copy(examples, tmp_path / "train.jsonl")
    text = (ROOT / "recipes/README.md").read_text(encoding="utf-8")
    found = re.search(r"`'(environments=.*?)'`", text)
    assert found is not None
    done = CliRunner().invoke(app, ["train", "trl/grpo", found[1], "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "--environment mcqa" in done.output
