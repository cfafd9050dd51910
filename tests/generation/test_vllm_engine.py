"""What `VLLMGenerator` asks of an engine that can sleep, which no engine on a CPU can."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gym_adapters.errors import ModelError, Unsupported
from gym_adapters.generation import vllm_engine
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.vllm_engine import VLLMGenerator


class FakeEngine:
    """As much of vLLM's asynchronous engine as is used, keeping a diary."""

    def __init__(self, *, sleeps: bool = True) -> None:
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(
                logprobs_mode="processed_logprobs", max_model_len=32, enable_sleep_mode=sleeps
            )
        )
        self.errored = False
        self.diary: list[str] = []

    async def generate(
        self, prompt: Any, params: Any, name: str, *, lora_request: object | None
    ) -> AsyncIterator[Any]:
        self.diary.append(f"sample with {lora_request}")
        completion = SimpleNamespace(
            token_ids=[9], logprobs=[{9: SimpleNamespace(logprob=-0.5)}], finish_reason="length"
        )
        yield SimpleNamespace(request_id=name, finished=True, outputs=[completion])

    async def sleep(self, level: int) -> None:
        self.diary.append(f"sleep {level}")

    async def wake_up(self, tags: list[str] | None) -> None:
        self.diary.append(f"wake {tags}")

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        self.diary.append(f"pause {mode}")

    async def resume_generation(self) -> None:
        self.diary.append("resume")

    async def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        if "broken" in kwargs["weights_path"]:
            raise RuntimeError("no such shape")
        self.diary.append(method)

    async def reset_prefix_cache(self, *, reset_running_requests: bool) -> None:
        self.diary.append("forget")

    async def abort(self, names: list[str]) -> None:
        self.diary.append(f"abort {names}")


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=2))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(sampling_params=sampling))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    monkeypatch.setattr(vllm_engine, "engine_params", lambda *options: options)
    monkeypatch.setattr(vllm_engine, "is_cpu", lambda: False)
    monkeypatch.setattr(vllm_engine, "loads_weights", lambda engine: True)
    monkeypatch.setattr(vllm_engine, "checkpoint_names", lambda folder: frozenset({"w"}))


async def turn(generator: VLLMGenerator) -> Any:
    return await generator.generate([4], SamplingParams(max_tokens=1), request_id="r")


async def test_an_engine_that_kept_its_weights_goes_on_after_its_sleep() -> None:
    engine = FakeEngine()
    generator = VLLMGenerator(engine)
    await generator.sleep()
    await generator.wake(["weights"])
    await generator.wake()
    assert (await turn(generator)).token_ids == [9]
    assert engine.diary == ["sleep 1", "wake ['weights']", "wake None", "sample with None"]


async def test_an_engine_that_dropped_its_weights_samples_nothing_until_it_has_new_ones(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    generator = VLLMGenerator(engine, weights_version=3)
    await generator.sleep(2)
    await generator.wake()
    with pytest.raises(ModelError, match="dropped by sleep"):
        await turn(generator)
    assert await generator.update_weights(tmp_path) == 4
    assert (await turn(generator)).weights_version == 4
    loading = ["pause keep", "reload_weights", "forget", "resume"]
    assert engine.diary == ["sleep 2", "wake None", *loading, "sample with None"]


async def test_after_a_failed_update_nothing_is_sampled_until_one_succeeds(tmp_path: Path) -> None:
    generator = VLLMGenerator(FakeEngine(), weights_version="old")
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(ModelError, match="no such shape"):
        await generator.update_weights(broken)
    with pytest.raises(ModelError, match="last weight update failed"):
        await turn(generator)
    assert generator.weights_version == "old"
    await generator.update_weights(tmp_path, version="new")
    assert (await turn(generator)).weights_version == "new"


async def test_an_engine_without_sleep_mode_says_so() -> None:
    with pytest.raises(Unsupported, match="enable_sleep_mode=True"):
        await VLLMGenerator(FakeEngine(sleeps=False)).sleep()


async def test_an_adapter_is_asked_for_with_every_turn() -> None:
    engine = FakeEngine()
    await turn(VLLMGenerator(engine, lora_request="adapter"))
    assert engine.diary == ["sample with adapter"]
