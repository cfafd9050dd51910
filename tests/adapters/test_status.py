"""The status page can't say what the code and the tests don't."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gym_adapters.adapters.status import RUNS, Run, Trainer, status_page, versions

ROOT = Path(__file__).resolve().parents[2]
SHOWN = sorted({it.test for of in RUNS.values() for it in of.values() if it.test is not None})


def test_the_page_is_what_the_code_says() -> None:
    assert status_page() in (ROOT / "docs" / "status.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("run", list(Run))
def test_every_trainer_stands_somehow(run: Run) -> None:
    assert set(RUNS[run]) == set(Trainer)
    assert set(versions()) == set(Trainer)


@pytest.mark.parametrize("test", SHOWN)
def test_what_is_said_to_be_tested_has_that_test(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_every_refusal_of_the_page_has_its_reason() -> None:
    table, _, reasons = status_page().partition("Why not:")
    numbers = {int(part.partition(")")[0]) for part in table.split("refused (")[1:]}
    told = {int(line.partition(".")[0]) for line in reasons.split("\n") if line}
    assert numbers == told == set(range(1, len(told) + 1))
