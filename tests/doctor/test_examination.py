from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import Environment, Reward, Task, Transcript, UnknownEnvironment
from gym_adapters.doctor import Asked, Finding, Level, examine, worst
from gym_adapters.doctor.machine import Machine
from gym_adapters.doctor.setup import setup_of
from gym_adapters.training.recipe import Recipe, load_recipe, recipe_names

MakeModel = Callable[..., Path]


class Talks(Environment[Task]):
    """Answers twice, and has no tools."""

    async def reply(self, message: str) -> str | None:
        return "go on"

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(0.0)


class Broken(Environment[Task]):
    """Can't be started."""

    async def start(self) -> None:
        raise OSError("the service is down")

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(0.0)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    row = {"responses_create_params": {"input": [{"role": "user", "content": "Talk."}]}}
    path.write_text(json.dumps(row))
    return path


def recipe(trainer: str, model: Path, **changes: Any) -> Recipe:
    data = {
        "description": "For a test.",
        "trainer": trainer,
        "method": "grpo",
        "model": str(model),
        "environments": {"arithmetic_tools": {"generate": 4, "difficulty": 0.0}},
        **changes,
    }
    return Recipe.model_validate(data)


def found(asked: Asked, machine: Machine) -> dict[tuple[str, str], Finding]:
    """By part and subject, without what is installed here."""
    findings = [f for f in examine(asked, machine) if f.part != "trainers"]
    assert all(f.fix for f in findings if f.level is not Level.OK), "each says what to do"
    return {(f.part, f.subject): f for f in findings}


def levels(findings: dict[tuple[str, str], Finding], level: Level) -> list[tuple[str, str]]:
    return [key for key, finding in findings.items() if finding.level is level]


def test_a_good_model_and_environment_have_no_faults(
    make_model: MakeModel, machine: Machine
) -> None:
    findings = found(Asked(model=str(make_model()), environments=("arithmetic_tools",)), machine)
    assert levels(findings, Level.FAIL) == levels(findings, Level.WARN) == []
    assert findings["chat template", "tool calls"].what.startswith("hermes; rendered and read back")
    assert findings["chat template", "thinking"].what.endswith("read back")
    assert findings["stop tokens", "end of turn"].what == "<|im_end|> (258)"
    assert findings["lengths", "context"].level is Level.OK


def test_a_wrong_stop_token_fails(make_model: MakeModel, machine: Machine) -> None:
    model = make_model(generation={"eos_token_id": 256}, tokenizer={"eos_token": "<|pad|>"})
    findings = found(Asked(model=str(model)), machine)
    assert levels(findings, Level.FAIL) == [("stop tokens", "end of turn")]
    finding = findings["stop tokens", "end of turn"]
    assert "ends turns with <|im_end|>" in finding.what
    assert "eos_token_id = 258" in finding.fix


def test_a_generation_config_that_disagrees_is_warned_of(
    make_model: MakeModel, machine: Machine
) -> None:
    model = make_model(generation={"eos_token_id": [256]})
    findings = found(Asked(model=str(model)), machine)
    assert levels(findings, Level.FAIL) == []
    assert levels(findings, Level.WARN) == [("stop tokens", "generation config")]
    silent = make_model(generation={"eos_token_id": None}, tokenizer={"pad_token": "<|im_end|>"})
    findings = found(Asked(model=str(silent)), machine)
    assert levels(findings, Level.WARN) == [
        ("stop tokens", "generation config"),
        ("stop tokens", "padding"),
    ]


def test_a_tokenizer_larger_than_its_model_fails(make_model: MakeModel, machine: Machine) -> None:
    findings = found(Asked(model=str(make_model(config={"vocab_size": 100}))), machine)
    assert levels(findings, Level.FAIL) == [("stop tokens", "vocabulary")]


def test_a_template_that_ends_no_turn_fails(make_model: MakeModel, machine: Machine) -> None:
    findings = found(Asked(model=str(make_model(template="ends no turn"))), machine)
    assert findings["stop tokens", "end of turn"].level is Level.FAIL
    assert "no control token" in findings["stop tokens", "end of turn"].what


def test_a_turn_may_end_with_the_opening_of_the_next(
    make_model: MakeModel, machine: Machine
) -> None:
    start = {"eos_token": "<|im_start|>"}
    model = make_model(
        template="ends with the next", generation={"eos_token_id": 257}, tokenizer=start
    )
    finding = found(Asked(model=str(model)), machine)["stop tokens", "end of turn"]
    assert (finding.level, finding.what) == (Level.OK, "<|im_start|> (257)")


def test_a_template_that_refuses_a_turn_is_told_and_the_rest_is_looked_at(
    make_model: MakeModel, machine: Machine
) -> None:
    findings = found(Asked(model=str(make_model(template="refuses questions"))), machine)
    assert findings["chat template", "user turns"].level is Level.FAIL
    assert findings["chat template", "rendering"].level is Level.FAIL
    assert ("memory", "weights") in findings


@pytest.mark.parametrize(
    ("trainer", "level"),
    [(None, Level.WARN), ("verl", Level.WARN), ("trl", Level.FAIL), ("unsloth", Level.FAIL)],
)
def test_dropped_thinking_is_as_bad_as_the_trainer_makes_it(
    trainer: str | None,
    level: Level,
    make_model: MakeModel,
    machine: Machine,
    rows: Path,
) -> None:
    model, name = make_model(template="drops thinking"), f"{__name__}:Talks"
    environments = {name: {"rows": str(rows)}}
    asked = Asked(
        model=str(model),
        recipe=recipe(trainer or "trl", model, environments=environments) if trainer else None,
    )
    finding = found(asked, machine)["chat template", "user turns after thinking"]
    assert finding.level is level
    assert "rewritten" in finding.what


def test_thinking_that_is_switched_off_drops_nothing(
    make_model: MakeModel, machine: Machine, rows: Path
) -> None:
    model, name = make_model(template="drops thinking"), f"{__name__}:Talks"
    quiet = recipe(
        "trl",
        model,
        environments={name: {"rows": str(rows)}},
        arguments={"chat_template_kwargs": {"enable_thinking": False}},
    )
    findings = found(Asked(recipe=quiet), machine)
    assert levels(findings, Level.FAIL) == []
    assert findings["chat template", "history"].what == "kept as sampled: user turns"


def test_calls_that_are_not_read_back_fail_where_there_are_tools(
    make_model: MakeModel, machine: Machine
) -> None:
    model = str(make_model(template="writes other calls"))
    finding = found(Asked(model=model, environments=("arithmetic_tools",)), machine)[
        "chat template", "tool calls"
    ]
    assert finding.level is Level.FAIL
    assert "not read back: 0 calls" in finding.what
    assert found(Asked(model=model), machine)["chat template", "tool calls"].level is Level.WARN


def test_tools_that_the_template_hides_fail(make_model: MakeModel, machine: Machine) -> None:
    model = str(make_model(template="shows no tools"))
    findings = found(Asked(model=model, environments=("arithmetic_tools",)), machine)
    assert findings["chat template", "tools"].level is Level.FAIL
    # mcqa has none.
    assert levels(found(Asked(model=model, environments=("mcqa",)), machine), Level.FAIL) == []


@pytest.mark.parametrize(
    ("context", "completion", "level"),
    [(4096, 1000, Level.OK), (1000, 990, Level.FAIL), (40, 10, Level.FAIL)],
)
def test_prompt_and_budget_must_fit_the_context(
    context: int, completion: int, level: Level, make_model: MakeModel, machine: Machine
) -> None:
    model = make_model(config={"max_position_embeddings": context})
    given = recipe("trl", model, arguments={"max_completion_length": completion})
    assert found(Asked(recipe=given), machine)["lengths", "context"].level is level


def test_the_cards_budget_is_warned_of_where_no_recipe_sets_one(
    make_model: MakeModel, machine: Machine
) -> None:
    model = make_model(config={"max_position_embeddings": 500})
    asked = Asked(model=str(model), environments=("arithmetic_tools",))
    assert found(asked, machine)["lengths", "context"].level is Level.WARN


def test_a_prompt_longer_than_verl_is_told_to_take_fails(
    make_model: MakeModel, machine: Machine
) -> None:
    limits = {"max_prompt_length": 10, "max_response_length": 50}
    given = recipe("verl", make_model(), arguments={"data": limits})
    finding = found(Asked(recipe=given), machine)["lengths", "prompt limit"]
    assert finding.level is Level.FAIL
    assert "data.max_prompt_length" in finding.fix


def test_an_environment_that_cannot_start_fails_and_the_rest_is_still_looked_at(
    make_model: MakeModel, machine: Machine, rows: Path
) -> None:
    environments = {f"{__name__}:Broken": {"rows": str(rows)}}
    given = recipe("trl", make_model(), environments=environments)
    findings = found(Asked(recipe=given), machine)
    (key,) = levels(findings, Level.FAIL)
    assert key[1] == "episodes"
    assert "the service is down" in findings[key].what
    assert ("memory", "weights") in findings


def test_a_model_that_is_not_here_fails_only_where_it_was_asked_for(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given = recipe("trl", Path("nobody/nothing"))
    assert found(Asked(recipe=given), machine)["model", "files"].level is Level.WARN
    asked = Asked(model="nobody/nothing")
    assert found(asked, machine)["model", "files"].level is Level.FAIL


def test_an_unknown_environment_is_an_error(machine: Machine) -> None:
    with pytest.raises(UnknownEnvironment, match="arithmetic_tools"):
        list(examine(Asked(environments=("arithmetic_tool",)), machine))


@pytest.mark.parametrize("name", recipe_names())
def test_the_numbers_of_every_recipe_that_ships_are_found(name: str) -> None:
    setup = setup_of(load_recipe(name))
    assert setup.rollouts_per_step is not None
    assert setup.rollouts_per_step >= 8
    if setup.samples:
        assert setup.max_completion is not None or setup.max_total is not None
        assert setup.steps is not None


def test_several_environments_each_have_their_own_lengths(
    make_model: MakeModel, machine: Machine
) -> None:
    names = ("arithmetic_tools", "calendar")
    findings = found(Asked(model=str(make_model()), environments=names), machine)
    assert worst(findings.values()) is not Level.FAIL
    for name in names:
        assert ("lengths", f"context ({name})") in findings
