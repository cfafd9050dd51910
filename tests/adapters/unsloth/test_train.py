"""The command line of Unsloth's path, as far as it goes without loading a model."""

from __future__ import annotations

import shlex

import pytest

pytest.importorskip("trl", reason="needs the extra unsloth")

from gym_adapters import InvalidConfig
from gym_adapters.adapters.unsloth.train import _read, _settings, argument_names, main


def test_what_is_unsloths_what_is_ours_and_what_is_trls_are_told_apart() -> None:
    words = shlex.split(
        "--model m --load_in_4bit true --lora_rank 8 --target_modules q_proj v_proj --seed 4 "
        '--model_arguments \'{"revision": "x"}\' --environment mcqa --settings lenient=true '
        "--output_dir out --learning_rate 1e-5 --num_generations 4"
    )
    given = _read("grpo", words)
    policy = given.policy
    assert (policy.model, policy.load_in_4bit, policy.lora_rank, policy.seed) == ("m", True, 8, 4)
    assert policy.target_modules == ("q_proj", "v_proj")
    assert policy.model_arguments == {"revision": "x"}
    assert (given.own.environment, given.own.settings) == ("mcqa", ["lenient=true"])
    settings = _settings("grpo", given.rest)
    assert settings == {
        "seed": 4,
        "output_dir": "out",
        "learning_rate": 1e-5,
        "num_generations": 4,
    }


def test_what_is_not_said_is_unsloths_default() -> None:
    policy = _read("sft", ["--model", "m", "--train_file", "f", "--output_dir", "o"]).policy
    assert (policy.fast_inference, policy.standby, policy.load_in_4bit) == (True, True, False)


def test_a_policy_that_can_not_be_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--model", "m", "--lora_rank", "0", "--train_file", "f", "--output_dir", "o"]
    with pytest.raises(InvalidConfig, match="lora_rank"):
        _read("sft", words)
    assert main(["sft", *words]) == 2
    assert "lora_rank must be at least 1" in capsys.readouterr().err
    assert main(["dpo"]) == 2


def test_every_method_takes_unsloths_arguments_ours_and_trls() -> None:
    assert {"lora_rank", "environment", "ledger", "num_generations"} <= argument_names("grpo")
    assert {"lora_rank", "train_file", "max_length"} <= argument_names("sft")
    assert "help" not in argument_names("sft")
