from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gym_adapters import InvalidConfig, Unsupported
from gym_adapters.training import Recipe, load_recipe, recipe_names
from gym_adapters.training.recipe import merged

MINIMAL = {
    "description": "For tests.",
    "trainer": "trl",
    "method": "grpo",
    "model": "tiny",
    "environments": {"arithmetic_tools": {}},
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return path


def test_what_a_recipe_does_not_say_has_a_default(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert recipe == Recipe.model_validate(MINIMAL)
    assert (recipe.held_out, recipe.steps, recipe.seed, recipe.loggers) == (0.0, None, 0, ())
    assert (recipe.launch.processes, recipe.launch.nodes) == (1, 1)


def test_overrides_reach_every_depth_and_are_yaml(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path),
        [
            "model=./there",
            "environments.arithmetic_tools.generate=12",
            "arguments.learning_rate=2e-6",
            "loggers=[wandb]",
            "launch.variables.WANDB_MODE=offline",
        ],
    )
    assert recipe.model == "./there"
    assert recipe.environments["arithmetic_tools"].generate == 12
    assert recipe.arguments == {"learning_rate": 2e-6}
    assert recipe.loggers == ("wandb",)
    assert recipe.launch.variables == {"WANDB_MODE": "offline"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("modell=x", "no key 'modell'. Did you mean 'model'?"),
        ("environments.arithmetic_tools.weigth=2", "no key 'weigth'. Did you mean 'weight'?"),
        ("launch.proceses=2", "no key 'proceses'. Did you mean 'processes'?"),
        ("rollouts.export.min_rewards=1", "Did you mean 'min_reward'?"),
        ("warm_start.argumnets.x=1", "Did you mean 'arguments'?"),
        ("trainer=trll", "trainer: "),
        ("held_out=2", "held_out: "),
        ("environments={}", "environments: "),
        ("method=dapo", "trl has no dapo; it has grpo, sft, dpo, kto"),
        ("evaluate_every=5", "set 'held_out'"),
        ("launch.script=train.py", "trl has no launch.script; it has processes, nodes, devices"),
        (
            "environments.arithmetic_tools={rows: a.jsonl, generate: 3}",
            "arithmetic_tools: give rows, or generate, not both; generate=null leaves that out",
        ),
        ("rollouts={}", "grpo samples its own rollouts"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_that_is_right(
    tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(told)) as caught:
        load_recipe(written(tmp_path), [override])
    assert "mine.yaml" in str(caught.value)


def test_a_name_that_is_not_known_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidConfig, match=r"no recipe 'trl/gpro'. Did you mean 'trl/grpo'\?"):
        load_recipe("trl/gpro")
    with pytest.raises(InvalidConfig, match="can't be read"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=r"bad\.yaml"):
        load_recipe(path)


def test_what_is_laid_over_joins_mappings_and_replaces_the_rest() -> None:
    under = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert merged(under, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert under["a"] == {"b": 1, "c": [1, 2]}


def test_smoke_lies_over_the_recipe_and_under_its_own_part_and_the_overrides(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path,
        model="Qwen/Qwen3-8B",
        arguments={"use_vllm": True, "top_k": 5},
        launch={"processes": 8},
        smoke={"steps": 3, "arguments": {"beta": 0.5}},
    )
    recipe = load_recipe(path, ["arguments.num_generations=4"], smoke=True)
    assert (recipe.model, recipe.steps, recipe.launch.processes) == ("tiny", 3, 1)
    assert recipe.arguments["use_vllm"] is False
    assert recipe.arguments["top_k"] == 5
    assert (recipe.arguments["beta"], recipe.arguments["num_generations"]) == (0.5, 4)


def test_null_leaves_an_environment_out() -> None:
    recipe = load_recipe("trl/grpo_blend", ["environments.calendar=null"])
    assert set(recipe.environments) == {"arithmetic_tools", "instruction_following"}
    smoke = load_recipe("trl/grpo_blend", smoke=True)
    assert set(smoke.environments) == {"arithmetic_tools", "mcqa"}


def test_nemo_rl_has_no_smoke_run() -> None:
    with pytest.raises(Unsupported, match="--dry-run checks"):
        load_recipe("nemo_rl/grpo", smoke=True)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_is_read_and_explained(name: str, repository: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.description.endswith(".")
    assert recipe.trainer == name.partition("/")[0]
    readme = (repository / "recipes" / "README.md").read_text()
    section = readme.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert f"gym-adapters train {name}" in section


def test_the_recipes_that_were_promised_ship() -> None:
    assert {
        *("trl/grpo", "trl/grpo_multi_gpu", "trl/grpo_vllm_colocate", "trl/grpo_vllm_server"),
        *("trl/sft", "trl/dpo", "trl/kto", "trl/sft_grpo", "trl/grpo_blend"),
        *("verl/grpo", "verl/dapo", "verl/grpo_multi_node", "verl/grpo_blend"),
        *("nemo_rl/grpo", "nemo_rl/grpo_multi_node", "unsloth/grpo", "unsloth/sft"),
    } <= set(recipe_names())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"- a", b""])
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig, match=r"mine\.yaml"):
        load_recipe(path)


def test_rows_of_ones_own_give_way_to_generated_tasks_in_a_smoke_run(tmp_path: Path) -> None:
    path = written(tmp_path, environments={"arithmetic_tools": {"rows": "mine.jsonl"}})
    tasks = load_recipe(path, smoke=True).environments["arithmetic_tools"]
    assert (tasks.rows, tasks.generate) == (None, 160)
