from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "parity.md").read_text(encoding="utf-8")


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 1
    for block in blocks:
        exec(compile(block, "docs/parity.md", "exec"), {})


def test_every_command_has_options_that_there_are() -> None:
    pytest.importorskip("typer", reason="needs the extra gym-adapters[cli]")
    import inspect

    from gym_adapters.cli.check import check_command

    named = set(re.findall(r"--([a-z][a-z-]+)", PAGE))
    parameters = set(inspect.signature(check_command).parameters)
    assert named <= parameters | {"no-shapes", "input", "json"}
