from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest

from gym_adapters.doctor.finding import Finding, Level
from gym_adapters.doctor.machine import GIB, Machine
from gym_adapters.doctor.memory import estimate, memory_findings
from gym_adapters.doctor.model_files import ModelFiles, Weight
from gym_adapters.doctor.setup import Setup

BILLION = 10**9


class Billion(ModelFiles):
    """A model of a billion parameters in one matrix, of which LoRA takes both sides."""

    @cached_property
    def weights(self) -> dict[str, Weight]:  # type: ignore[override]
        return {"model.layers.0.self_attn.q_proj.weight": Weight((10_000, 100_000), "BF16")}


@pytest.fixture
def model(tmp_path: Path) -> ModelFiles:
    config = {"num_hidden_layers": 16, "num_attention_heads": 16, "hidden_size": 2048}
    return Billion(tmp_path, {**config, "num_key_value_heads": 8})


def training(model: ModelFiles, setup: Setup, machine: Machine) -> Finding:
    findings = memory_findings(model, setup, machine, rollout_tokens=1000)
    return {finding.subject: finding for finding in findings}["training"]


def test_full_finetuning_in_32_bits_takes_16_bytes_a_weight(model: ModelFiles) -> None:
    setup = Setup("trl", samples=True, weight_bytes=4.0, optimiser_bytes=8.0)
    assert estimate(model, setup).total == 16 * BILLION
    assert estimate(model, replace(setup, reference=True)).total == 20 * BILLION
    assert estimate(model, replace(setup, engine="beside")).total == 18 * BILLION
    assert estimate(model, replace(setup, engine="elsewhere")).total == 16 * BILLION
    sharded = replace(setup, sharded=True, gpus=8, engine="beside")
    assert estimate(model, sharded).total == (16 / 8 + 2) * BILLION


def test_lora_in_4_bits_takes_little_more_than_its_base(model: ModelFiles) -> None:
    setup = Setup("unsloth", samples=True, weight_bytes=0.56, lora_rank=10, engine="shared")
    needs = estimate(model, setup)
    trained = 10 * (10_000 + 100_000)
    assert needs.adapters == needs.gradients == 4 * trained
    assert needs.optimiser == 8 * trained
    assert needs.total == pytest.approx(0.56 * BILLION + 16 * trained)
    assert needs.engine == 0


def test_too_much_for_the_gpu_fails_and_tight_is_warned_of(
    model: ModelFiles, machine: Machine
) -> None:
    setup = Setup("trl", samples=True, weight_bytes=4.0)
    assert training(model, setup, machine).level is Level.OK
    tight = replace(machine, gpus=(("a GPU", 16 * GIB),))
    assert training(model, setup, tight).level is Level.WARN
    small = replace(machine, gpus=(("a GPU", 80 * GIB), ("another", 12 * GIB)))
    finding = training(model, setup, small)
    assert finding.level is Level.FAIL
    assert "LoRA" in finding.fix
    nothing = training(model, setup, replace(machine, gpus=()))
    assert nothing.level is Level.OK
    assert "no GPU here to compare with" in nothing.what


def test_an_engine_whose_share_does_not_hold_the_weights_fails(
    model: ModelFiles, machine: Machine
) -> None:
    setup = Setup("trl", samples=True, engine="beside", engine_share=0.01)
    finding = training(model, setup, machine)
    assert finding.level is Level.FAIL
    assert finding.fix == "a larger gpu_memory_utilization"


def test_cache_and_weights_are_told_in_readable_units(model: ModelFiles, machine: Machine) -> None:
    told = {f.subject: f.what for f in memory_findings(model, None, machine, rollout_tokens=4096)}
    assert told["weights"] == "1.00 billion parameters, 1.9 GiB on disk"
    # 2 × 16 layers × 8 heads × 128 × 2 bytes.
    assert told["KV cache"] == "64.0 KiB a token in 16 bits, 0.2 GiB a rollout of 4,096 tokens"


def test_a_model_without_safetensors_is_told(tmp_path: Path, machine: Machine) -> None:
    (finding,) = memory_findings(ModelFiles(tmp_path, {}), None, machine, rollout_tokens=None)
    assert finding.level is Level.WARN
