from __future__ import annotations

import os
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from gym_adapters import InvalidConfig, Unsupported
from gym_adapters.adapters.unsloth import UnslothConfig, load_policy, policy as policies

STANDBY = "UNSLOTH_VLLM_STANDBY"


class Tokenizer:
    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return tokens


class Model:
    """What Unsloth gives, with its engine or without."""

    def __init__(self, engine: object | None) -> None:
        if engine is not None:
            self.vllm_engine = engine


class FakeUnsloth(ModuleType):
    """Takes what the real functions take, and keeps it."""

    def __init__(self, *, engine: object | None = "engine", tokenizer: object = None) -> None:
        super().__init__("unsloth")
        self.engine, self.tokenizer = engine, tokenizer or Tokenizer()
        self.FastLanguageModel = self
        self.loaded: dict[str, Any] = {}
        self.adapted: dict[str, Any] = {}
        self.standby = ""

    def from_pretrained(self, **arguments: Any) -> tuple[Model, object]:
        self.loaded, self.standby = arguments, os.environ.get(STANDBY, "")
        return Model(self.engine if arguments["fast_inference"] else None), self.tokenizer

    def get_peft_model(self, model: Model, **arguments: Any) -> Model:
        self.adapted = arguments
        return model


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a fake Unsloth and a GPU into the machine."""

    def put(unsloth: FakeUnsloth, *, gpu: bool = True, imported: bool = False) -> FakeUnsloth:
        monkeypatch.setattr(policies, "check_unsloth", lambda: None)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
        monkeypatch.setenv(STANDBY, "0")
        monkeypatch.delenv(STANDBY)
        monkeypatch.delitem(sys.modules, "unsloth", raising=False)
        if imported:
            monkeypatch.setitem(sys.modules, "unsloth", unsloth)
        original = policies.require

        def require(module: str, extra: str, needed_for: str) -> Any:
            if module in ("unsloth", "vllm"):
                return unsloth
            return original(module, extra, needed_for)

        monkeypatch.setattr(policies, "require", require)
        return unsloth

    return put


def test_unsloth_is_told_all_that_the_config_says(install: Any) -> None:
    unsloth = install(FakeUnsloth())
    policy = load_policy(
        UnslothConfig(
            model="Qwen/Qwen3-4B",
            max_seq_length=2048,
            load_in_4bit=True,
            dtype="bfloat16",
            lora_rank=32,
            lora_alpha=64,
            target_modules=("q_proj",),
            gpu_memory_utilization=0.8,
            seed=11,
            model_arguments={"float8_kv_cache": True},
            lora_arguments={"use_rslora": True},
        )
    )
    assert unsloth.loaded == {
        "model_name": "Qwen/Qwen3-4B",
        "max_seq_length": 2048,
        "dtype": torch.bfloat16,
        "load_in_4bit": True,
        "fast_inference": True,
        "max_lora_rank": 32,
        "gpu_memory_utilization": 0.8,
        "float8_kv_cache": True,
    }
    assert unsloth.adapted == {
        "r": 32,
        "lora_alpha": 64,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj"],
        "use_gradient_checkpointing": "unsloth",
        "random_state": 11,
        "use_rslora": True,
    }
    assert policy.shares_engine


@pytest.mark.parametrize(("checkpointing", "told"), [("on", True), ("off", False)])
def test_checkpointing_is_told_in_unsloths_words(
    install: Any, checkpointing: Any, told: bool
) -> None:
    unsloth = install(FakeUnsloth())
    load_policy(UnslothConfig(model="m", gradient_checkpointing=checkpointing))
    assert unsloth.adapted["use_gradient_checkpointing"] is told


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({}, "1"),
        ({"standby": False}, "0"),
        ({"fast_inference": False}, "0"),
    ],
)
def test_standby_is_set_before_unsloth_is_imported(
    install: Any, choice: dict[str, Any], told: str
) -> None:
    unsloth = install(FakeUnsloth())
    policy = load_policy(UnslothConfig(model="m", **choice))
    assert unsloth.standby == told
    assert policy.shares_engine is policy.config.fast_inference


def test_standby_after_the_import_is_refused(install: Any) -> None:
    install(FakeUnsloth(), imported=True)
    with pytest.raises(InvalidConfig, match=rf"imported with {STANDBY}=0.*{STANDBY}=1"):
        load_policy(UnslothConfig(model="m"))
    assert load_policy(UnslothConfig(model="m", standby=False)).shares_engine


def test_an_engine_without_a_gpu_is_refused_before_anything_is_imported(install: Any) -> None:
    unsloth = install(FakeUnsloth(), gpu=False)
    with pytest.raises(InvalidConfig, match="fast_inference=False"):
        load_policy(UnslothConfig(model="m"))
    assert not unsloth.loaded
    load_policy(UnslothConfig(model="m", fast_inference=False))


def test_a_model_that_came_without_its_engine_is_refused(install: Any) -> None:
    install(FakeUnsloth(engine=None))
    with pytest.raises(Unsupported, match="without its vLLM engine"):
        load_policy(UnslothConfig(model="m"))


def test_a_processor_of_images_is_refused(install: Any) -> None:
    install(FakeUnsloth(tokenizer=object()))
    with pytest.raises(Unsupported, match="choose a text model"):
        load_policy(UnslothConfig(model="m"))


def test_peft_alone_gives_the_same_adapters_for_the_same_seed(config: UnslothConfig) -> None:
    state = torch.random.get_rng_state()
    first, second = load_policy(config), load_policy(config)
    other = load_policy(replace(config, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    names = [name for name, weight in first.model.named_parameters() if weight.requires_grad]
    assert len(names) == 28  # A and B of seven layers in each of two blocks
    assert all("lora_" in name for name in names)
    weights = [dict(policy.model.named_parameters()) for policy in (first, second, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in names)
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in names)
    assert not first.shares_engine
