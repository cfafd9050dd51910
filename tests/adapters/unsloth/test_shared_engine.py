from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gym_adapters import Unsupported
from gym_adapters.adapters.trl.colocated_vllm import colocated_generator
from gym_adapters.adapters.unsloth import SharedEngine, shared_engine

FOLDING = "UNSLOTH_VLLM_MERGED_ROLLOUT"


class Stepper:
    """An `EngineStepper` that notes which adapters its requests would name."""

    def __init__(self, llm: Any, *, lora_request: Any, weights_version: Any) -> None:
        self.llm, self.adapters, self.version = llm, lora_request, weights_version
        self.stepping = False

    @contextmanager
    def session(self) -> Iterator[None]:
        self.llm.diary.append("step")
        self.stepping = True
        yield
        self.stepping = False


class Engine:
    shared_weights = True

    def __init__(self) -> None:
        self.diary: list[str] = []

    def wake_up(self, tags: list[str] | None = None) -> None:
        self.diary.append(f"wake {tags}")

    def sleep(self, level: int) -> None:
        self.diary.append(f"sleep {level}")


class Owner:
    """TRL's ``VLLMGeneration`` as Unsloth patches it."""

    tensor_parallel_size = 1

    def __init__(self, engine: Engine, *, sleeps: bool) -> None:
        self.llm = engine
        self.enable_sleep_mode = self._llm_weights_sleeping = sleeps

    def sync_weights(self) -> None:
        self.llm.wake_up()
        self._llm_weights_sleeping = False


class Model:
    def __init__(self, engine: Engine | None) -> None:
        self.vllm_engine = engine
        self.folders: list[Path] = []
        self.folding: list[str | None] = []

    def load_lora(self, name: str, load_tensors: bool = False) -> Any:
        assert load_tensors
        assert self.vllm_engine is not None
        self.vllm_engine.diary.append("adapters")
        self.folding.append(os.environ.get(FOLDING))
        self.folders.append(Path(name))
        return SimpleNamespace(lora_int_id=len(self.folders))


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trainer whose engine sleeps between batches."""
    monkeypatch.setattr(shared_engine, "EngineStepper", Stepper)
    return make(Engine())


def make(engine: Engine, *, sleeps: bool = True) -> Any:
    class Trainer:
        use_vllm, vllm_mode = True, "colocate"
        state = SimpleNamespace(global_step=3)

        def __init__(self) -> None:
            self.model, self.vllm_generation = Model(engine), Owner(engine, sleeps=sleeps)

    return Trainer()


def test_every_batch_names_the_newest_adapters_while_the_engine_is_awake(trainer: Any) -> None:
    source = SharedEngine()
    seen = []
    for _ in range(2):
        with source(trainer) as stepper:
            assert isinstance(stepper, Stepper)
            assert stepper.stepping
            seen.append(stepper.adapters().lora_int_id)
            assert stepper.version() == 3
        assert stepper.adapters() is None
    assert seen == [1, 2]
    batch = ["wake None", "wake ['kv_cache']", "adapters", "step", "sleep 2"]
    assert trainer.vllm_generation.llm.diary == batch * 2


def test_an_engine_that_never_sleeps_is_only_stepped(trainer: Any) -> None:
    trainer = make(Engine(), sleeps=False)
    with SharedEngine()(trainer):
        pass
    assert trainer.vllm_generation.llm.diary == ["adapters", "step"]


@pytest.mark.parametrize("chosen", [None, "1"])
def test_adapters_are_asked_for_unfolded_whatever_the_user_chose(
    trainer: Any, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDING, chosen or "")
    if chosen is None:
        monkeypatch.delenv(FOLDING)
    with SharedEngine()(trainer):
        assert os.environ.get(FOLDING) == chosen
    assert trainer.model.folding == ["0"]


def test_the_engine_gets_a_copy_of_the_weights_in_training(trainer: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    request = SimpleNamespace(lora_int_id=1, lora_tensors={"lora_B": weight})
    trainer.model.load_lora = lambda *_, **__: request
    with SharedEngine()(trainer) as stepper:
        # As vLLM does with what it is given.
        stepper.adapters().lora_tensors["lora_B"].mul_(4)  # type: ignore[attr-defined]
    assert weight.tolist() == [1.0, 1.0]


def test_a_promise_to_fold_is_refused(trainer: Any) -> None:
    trainer.model.load_lora = lambda *_, **__: "merged"
    with pytest.raises(Unsupported, match=rf"'merged'.*{FOLDING}=0"), SharedEngine()(trainer):
        pass
    assert trainer.vllm_generation.llm.diary[-1] == "sleep 2"


def test_a_model_without_lora_is_refused(trainer: Any) -> None:
    trainer.model = SimpleNamespace(vllm_engine=trainer.vllm_generation.llm)
    with pytest.raises(Unsupported, match="get_peft_model"), SharedEngine()(trainer):
        pass


def test_an_engine_that_the_trainer_does_not_use_is_refused(trainer: Any) -> None:
    trainer.model.vllm_engine = Engine()
    with pytest.raises(Unsupported, match="import unsloth before trl"), SharedEngine()(trainer):
        pass


def test_a_trainer_without_a_shared_engine_generates_as_trl_has_it(trainer: Any) -> None:
    @contextmanager
    def own(_: Any) -> Iterator[str]:
        yield "trl's own"

    source = SharedEngine()
    source._own = own  # type: ignore[assignment]
    plain = make(Engine())
    plain.model.vllm_engine, plain.vllm_generation.llm.shared_weights = None, False
    with source(plain) as generator:
        assert generator == "trl's own"
    del plain.vllm_generation
    with source(plain) as generator:
        assert generator == "trl's own"


def test_what_was_written_for_the_engine_is_gone_after_the_batch(trainer: Any) -> None:
    with SharedEngine()(trainer):
        folder = trainer.model.folders[0].parent
        assert folder.is_dir()
    assert not folder.exists()


def test_after_closing_it_begins_anew(trainer: Any) -> None:
    source = SharedEngine()
    with source(trainer) as first, source(trainer) as second:
        assert first is second
    asyncio.run(source.aclose())
    with source(trainer) as third:
        assert third is not first


def test_trls_adapter_refuses_an_engine_of_base_weights(trainer: Any) -> None:
    with pytest.raises(Unsupported, match="unsloth_spec in place of trl_spec"):
        colocated_generator(trainer)
