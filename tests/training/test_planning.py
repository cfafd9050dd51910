"""Each recipe's commands are held against the real parsers and configurations of its trainer."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gym_adapters import InvalidConfig, Reward, Rollout
from gym_adapters.errors import UsageError
from gym_adapters.reward import Outcome, StopReason
from gym_adapters.rollouts.recorded import read_rollouts
from gym_adapters.rollouts.training_ledger import TrainingLedger
from gym_adapters.training import recipe_names
from gym_adapters.training.planning import Asked, check_plan, plan_of
from gym_adapters.training.steps import Plan, Step

NAMES = recipe_names()
WITHOUT_CHECKOUT = [name for name in NAMES if not name.startswith("nemo_rl/")]


def planned(name: str, *overrides: str, smoke: bool = False) -> Plan:
    trainer = name.partition("/")[0]
    pytest.importorskip({"unsloth": "trl", "nemo_rl": "transformers"}.get(trainer, trainer))
    return plan_of(Asked(name, overrides, smoke), Path("run"))


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", WITHOUT_CHECKOUT)
def test_the_trainer_takes_every_argument_of_the_recipe(name: str, smoke: bool) -> None:
    assert check_plan(planned(name, smoke=smoke)) == []


@pytest.mark.parametrize(
    ("name", "override", "told"),
    [
        ("trl/grpo", "arguments.lerning_rate=1", "Did you mean 'learning_rate'?"),
        ("trl/sft", "arguments.max_seq_len=1", "no argument of TRL for sft 'max_seq_len'"),
        ("trl/dpo", "arguments.num_generations=1", "no argument of TRL for dpo"),
        ("trl/grpo", "arguments.learning_rate=quick", "invalid float value: 'quick'"),
        ("trl/grpo", "arguments.way=sideways", "invalid choice: 'sideways'"),
        ("trl/sft_grpo", "warm_start.arguments.betas=1", "for sft 'betas'"),
        ("trl/grpo_multi_gpu", "launch.accelerate.zero_stge=3", "accelerate launch"),
        ("unsloth/grpo", "arguments.lora_rnk=1", "Did you mean 'lora_rank'?"),
        ("unsloth/sft", "arguments.lora_rank=many", "invalid int value: 'many'"),
        ("unsloth/grpo", "arguments.lora_rank=0", "lora_rank must be at least 1"),
        (
            "verl/grpo",
            "arguments.actor_rollout_ref.actor.optim.lrr=1",
            "Did you mean 'actor_rollout_ref.actor.optim.lr'?",
        ),
        ("verl/grpo", "arguments.actor.lr=1", "no key 'actor.lr'"),
        ("verl/grpo", "arguments.algorithm.adv_estimator=remax", "ReMax"),
        ("verl/grpo", "arguments.trainer.use_v1=false", "V0 trainer"),
    ],
)
def test_a_key_that_the_trainer_does_not_have_is_an_error(
    name: str, override: str, told: str
) -> None:
    plan = planned(name, override)
    with pytest.raises(UsageError, match=re.escape(told)):
        check_plan(plan)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("nemo_rl/")])
def test_nemo_rls_classes_take_every_key_of_the_recipe(name: str) -> None:
    pytest.importorskip("ray")
    if not os.environ.get("NEMO_RL_CHECKOUT"):
        pytest.skip("needs a NeMo RL checkout: set NEMO_RL_CHECKOUT")
    assert check_plan(planned(name)) == []
    with pytest.raises(InvalidConfig, match=r"Did you mean 'policy\.max_total_sequence_length'"):
        check_plan(planned(name, "arguments.policy.max_total_sequence_len=8"))
    with pytest.raises(InvalidConfig, match="num_prompts_per_step"):
        check_plan(planned(name, "arguments.grpo.num_prompts_per_step=many"))
    with pytest.raises(InvalidConfig, match="max_tern"):
        check_plan(planned(name, "arguments.env.nemo_gym.gym_adapters.+max_tern=8"))


def test_what_can_not_be_checked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEMO_RL_CHECKOUT", raising=False)
    (note,) = check_plan(planned("nemo_rl/grpo"))
    assert "NEMO_RL_CHECKOUT" in note


@pytest.mark.full
def test_vllm_takes_every_option_of_the_server() -> None:
    pytest.importorskip("vllm", reason="needs vLLM")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    server = planned("trl/grpo_vllm_server").steps[1]
    assert server.background
    assert server.command[:2] == ("vllm", "serve")
    known = make_arg_parser(FlexibleArgumentParser())
    options = {option for action in known._actions for option in action.option_strings}
    asked = {word for word in server.command if word.startswith("--")}
    assert asked <= options


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_command_is_the_command(name: str) -> None:
    plan = planned(name)
    for step in plan.steps:
        # To a shell, a backslash at the end of a line is nothing.
        text = step.shell().removesuffix(" &").replace("\\\n", "")
        if step.folder is not None:
            before, _, text = text.partition(" && ")
            assert before == f"cd {step.folder}"
        words = shlex.split(text)
        variables = words[: len(step.variables)]
        assert dict(word.split("=", 1) for word in variables) == dict(step.variables)
        assert tuple(words[len(variables) :]) == step.command


def step(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


def options_of(command: tuple[str, ...]) -> dict[str, str]:
    return {
        word: command[at + 1]
        for at, word in enumerate(command[:-1])
        if word.startswith("--") and not command[at + 1].startswith("--")
    }


def test_what_the_recipe_says_is_told_to_trl() -> None:
    plan = planned(
        "trl/grpo",
        *("model=./m", "steps=7", "save_every=2", "seed=3", "loggers=[wandb, trackio]"),
        "environments.arithmetic_tools.settings.tolerance=1",
    )
    given = options_of(step(plan, "training").command)
    assert given["--model_name_or_path"] == "./m"
    assert (given["--max_steps"], given["--save_steps"], given["--seed"]) == ("7", "2", "3")
    assert given["--settings"] == "tolerance=1"
    words = step(plan, "training").command
    at = words.index("--report_to")
    assert words[at + 1 : at + 3] == ("wandb", "trackio")
    assert "--eval_tasks" in given


def test_loggers_are_off_unless_asked_for() -> None:
    assert options_of(step(planned("trl/grpo"), "training").command)["--report_to"] == "none"
    verl = planned("verl/grpo").steps[-1].command
    assert "trainer.logger=[console,file]" in verl
    nemo = planned("nemo_rl/grpo").steps[-1].command
    assert not any("wandb_enabled" in word for word in nemo)
    asked = planned("nemo_rl/grpo", "loggers=[wandb]").steps[-1].command
    assert "logger.wandb_enabled=True" in asked


def test_null_leaves_an_argument_out() -> None:
    words = step(planned("trl/grpo", "arguments.beta=null"), "training").command
    assert "--beta" not in words


def test_several_processes_are_started_by_accelerate() -> None:
    plan = planned("trl/grpo", "launch.processes=4", "launch.nodes=2")
    words = step(plan, "training").command
    given = options_of(words)
    assert words[1:3] == ("-m", "accelerate.commands.launch")
    assert (given["--num_processes"], given["--num_machines"]) == ("8", "2")


def test_a_trainer_on_one_gpu_refuses_more() -> None:
    with pytest.raises(InvalidConfig, match="one GPU"):
        planned("unsloth/grpo", "launch.processes=2")


def test_an_offline_method_collects_unless_there_is_a_run() -> None:
    names = [each.name for each in planned("trl/dpo").steps]
    assert names == ["rollouts", "files", "held-out files", "training"]
    given = planned("trl/dpo", "rollouts.path=there/")
    assert [each.name for each in given.steps] == names[1:]
    assert "there" in step(given, "files").command
    with pytest.raises(InvalidConfig, match="kto has no export rule 'all_pairs'"):
        planned("trl/kto", "rollouts.export.all_pairs=true")


def test_resuming_gives_trl_the_newest_checkpoint_and_verl_its_own_word(tmp_path: Path) -> None:
    for number in (2, 10):
        (tmp_path / "policy" / f"checkpoint-{number}").mkdir(parents=True)
        (tmp_path / "policy" / f"checkpoint-{number}" / "trainer_state.json").touch()
    (tmp_path / "policy" / "checkpoint-12").mkdir()  # one that was being written
    plan = plan_of(Asked("trl/grpo", resume=True), tmp_path)
    given = options_of(step(plan, "training").command)
    assert given["--resume_from_checkpoint"] == str(tmp_path / "policy" / "checkpoint-10")
    pytest.importorskip("verl")
    verl = plan_of(Asked("verl/grpo", resume=True), tmp_path).steps[-1].command
    assert "trainer.resume_mode=auto" in verl


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["environments.arithmetic_tool={}"], "environments.arithmetic_tool: no environment is"),
        (
            ["environments.arithmetic_tools={rows: no/such.jsonl}"],
            "environments.arithmetic_tools: there is no file no/such.jsonl",
        ),
        (["environments.arithmetic_tools.settings.tolerence=1"], "tolerence"),
        (
            ["method=sft", "rollouts.path=no/such/run"],
            "rollouts.path: there is no no/such/run",
        ),
        (["warm_start.rollouts.path=no/such"], "warm_start.rollouts.path: there is no no/such"),
    ],
)
def test_what_is_trained_on_is_looked_for_before_anything_runs(
    overrides: list[str], told: str
) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(told)):
        check_plan(planned("trl/grpo", *overrides))


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("trl/grpo", "runs/trl/grpo"),
        ("mine.yaml", "runs/mine"),
        ("../their recipes/mine.v2.yml", "runs/mine.v2"),
        ("/etc/recipes/mine.yaml", "runs/mine"),
    ],
)
def test_a_run_goes_below_runs_wherever_its_recipe_is(source: str, folder: str) -> None:
    assert Asked(source).folder == Path(folder)


def recorded(folder: Path, group_size: int, steps: range) -> None:
    ledger = TrainingLedger(folder, group_size=group_size)
    rollout = Rollout(
        row={},
        task_id="a",
        rollout_index=0,
        prompt=[],
        output=[],
        tools=[],
        outcome=Outcome.scored(Reward(1.0), StopReason.ANSWERED),
    )
    numbers = range(steps.start * group_size, steps.stop * group_size)
    ledger.append([replace(rollout, rollout_index=number) for number in numbers])


def kept_steps(folder: Path, group_size: int) -> list[int]:
    numbers = [each.rollout_index for each in read_rollouts(folder / "rollouts.jsonl")]
    assert len(set(numbers)) == len(numbers)
    return sorted({number // group_size for number in numbers})


@pytest.mark.parametrize(
    ("name", "checkpoint", "first", "kept", "evaluated"),
    [
        # TRL samples for its step n when n are done; the evaluation after two is of step two.
        ("trl/grpo", "checkpoint-2/trainer_state.json", 0, [0, 1], [0, 1, 2]),
        ("unsloth/grpo", "checkpoint-2/trainer_state.json", 0, [0, 1], [0, 1, 2]),
        ("trl/grpo", None, 0, [], []),
        # verl counts from 1, and validates anew what it goes on from.
        ("verl/grpo", "latest_checkpointed_iteration.txt", 1, [1, 2], [0, 1]),
        ("verl/grpo", None, 1, [], []),
    ],
)
def test_a_resumed_run_keeps_the_rollouts_up_to_its_checkpoint(
    tmp_path: Path,
    name: str,
    checkpoint: str | None,
    first: int,
    kept: list[int],
    evaluated: list[int],
) -> None:
    pytest.importorskip({"unsloth": "trl"}.get(name.partition("/")[0], name.partition("/")[0]))
    plan = plan_of(Asked(name, resume=True), tmp_path)
    if checkpoint is not None:
        path = plan.paths.policy / checkpoint
        path.parent.mkdir(parents=True)
        path.write_text("2", encoding="utf-8")
    recorded(plan.paths.rollouts, 4, range(first, 5))
    recorded(plan.paths.evaluation, 1, range(5))
    plan.rewind()
    assert kept_steps(plan.paths.rollouts, 4) == kept
    assert kept_steps(plan.paths.evaluation, 1) == evaluated


def test_rollouts_that_were_collected_are_not_rewound(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    plan = plan_of(Asked("trl/sft", resume=True), tmp_path)
    recorded(plan.paths.rollouts, 4, range(3))
    plan.rewind()
    assert kept_steps(plan.paths.rollouts, 4) == [0, 1, 2]
