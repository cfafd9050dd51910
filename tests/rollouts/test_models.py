"""Model specs name models, and a wrong one says what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gym_adapters import Environment, InvalidConfig, Task
from gym_adapters.rollouts.models import (
    ModelSource,
    SharedModel,
    model_schemes,
    model_source,
)
from gym_adapters.testing import ScriptedChatModel


class Anything(Environment[Task]):
    """Takes anything."""


TASK = Task.from_row({"responses_create_params": {"input": "hi"}})


def test_an_unknown_scheme_lists_all_there_are() -> None:
    with pytest.raises(InvalidConfig) as caught:
        model_source("gpt:4")
    for scheme in model_schemes().values():
        assert scheme.usage in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("scripted:silver", "scripted:gold"),
        ("scripted:gold@soon", "'soon' is not a number of seconds"),
        ("scripted:gold@nan", "'nan' is not a number of seconds"),
        ("scripted:gold@-1", "'-1' is not a number of seconds"),
        ("transformers:", "transformers:PATH"),
        ("tiny:large", "takes no argument"),
    ],
)
def test_a_wrong_argument_says_what_is_right(spec: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        model_source(spec)


@pytest.mark.parametrize("spec", ["scripted:empty", "scripted:garbage", "transformers:x", "tiny"])
def test_a_source_is_named_by_its_spec(spec: str) -> None:
    source = model_source(spec)
    assert source.name == spec
    assert source.template_hash is None
    assert isinstance(source, ModelSource)


def test_a_source_that_was_not_entered_gives_no_model() -> None:
    with pytest.raises(RuntimeError, match="enter the source"):
        model_source("transformers:x").for_rollout(Anything, TASK)


async def test_one_model_serves_all_rollouts() -> None:
    model = ScriptedChatModel(["x"], name="mine")
    async with SharedModel(model) as source:
        assert source.for_rollout(Anything, TASK, 3) is model
        assert source.name == "mine"


@pytest.mark.parametrize("scheme", ["transformers", "vllm"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("{empty}", "holds no model: there is no config.json in it. Fix: "),
        ("/nonexistent", "there is no folder /nonexistent. Fix: "),
        ("./a/b", "there is no folder ./a/b. Fix: "),
        ("nobody/nothing", r"nothing is downloaded by itself. Fix: hf download nobody/nothing"),
        ("no body", "nor a model of that name"),
    ],
)
async def test_a_model_that_is_not_here_is_a_clear_error_before_anything_is_loaded(
    scheme: str, path: str, said: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="needs the extra tokens")
    with pytest.raises(InvalidConfig, match=re.escape(said)):
        async with model_source(f"{scheme}:{path.format(empty=tmp_path)}"):
            pass


def test_naming_a_model_imports_no_torch() -> None:
    code = (
        "import sys, gym_adapters.testing; from gym_adapters.rollouts import model_source; "
        "model_source('tiny'); model_source('scripted:gold'); "
        "print([m for m in ('torch', 'transformers', 'ray', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
