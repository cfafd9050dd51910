"""The stepper refuses engines that it can't step alone, and serves only while somebody steps."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from gym_adapters.errors import ModelError, Unsupported, UsageError
from gym_adapters.generation import engine_stepper
from gym_adapters.generation.engine_stepper import EngineStepper
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator
from gym_adapters.generation.step_group import Exchange


class TwoRanks:
    """The first of two, the other of which has nothing to say."""

    rank = 0
    size = 2

    def exchange(self, mine: Exchange) -> list[Exchange]:
        return [mine, Exchange(is_done=True)]


class FakeEngine:
    """As much of vLLM's synchronous engine as is used: one token a step, the prompt's last id."""

    def __init__(self, **parallel: Any) -> None:
        self.model_config = SimpleNamespace(
            max_model_len=32, logprobs_mode=parallel.pop("mode", "processed_logprobs")
        )
        parallel_config = {
            "data_parallel_size": 1,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "distributed_executor_backend": None,
        }
        self.vllm_config = SimpleNamespace(
            model_config=self.model_config,
            parallel_config=SimpleNamespace(**{**parallel_config, **parallel}),
        )
        self.requests: dict[str, list[int]] = {}
        self.loras: list[Any] = []
        self.threads: set[str] = set()

    def add_request(self, name: str, prompt: Any, params: Any, lora_request: Any) -> None:
        if len(prompt["prompt_token_ids"]) > 31:
            raise ValueError("too long")
        self.requests[name] = prompt["prompt_token_ids"]
        self.loras.append(lora_request)

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.requests.pop(name, None)

    def step(self) -> list[Any]:
        self.threads.add(threading.current_thread().name)
        finished = []
        for name, ids in self.requests.items():
            completion = SimpleNamespace(
                token_ids=ids[-1:],
                logprobs=[{ids[-1]: SimpleNamespace(logprob=-0.5)}],
                finish_reason="length",
            )
            finished.append(SimpleNamespace(request_id=name, finished=True, outputs=[completion]))
        self.requests.clear()
        return finished


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=2))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(sampling_params=sampling))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    monkeypatch.setattr(engine_stepper, "engine_params", lambda *options: options)
    monkeypatch.setattr(engine_stepper, "is_cpu", lambda: True)


def stepper_over(engine: FakeEngine, **options: Any) -> EngineStepper:
    return EngineStepper(SimpleNamespace(llm_engine=engine), **options)


async def turn(stepper: EngineStepper, *ids: int) -> Any:
    return await stepper.generate(ids, SamplingParams(max_tokens=1), request_id="r")


def test_an_engine_of_several_ranks_needs_a_group_of_that_size() -> None:
    parallel = {"tensor_parallel_size": 2, "distributed_executor_backend": "external_launcher"}
    with pytest.raises(Unsupported, match="has 2 ranks"):
        stepper_over(FakeEngine(**parallel))
    with pytest.raises(Unsupported, match="has 1 ranks"):
        stepper_over(FakeEngine(), group=TwoRanks())
    assert stepper_over(FakeEngine(**parallel), group=TwoRanks()).running == 0


def test_ranks_that_vllm_launches_itself_are_stepped_by_one() -> None:
    engine = FakeEngine(tensor_parallel_size=2, distributed_executor_backend="mp")
    assert stepper_over(engine).max_context == 32


def test_engines_that_give_raw_logprobs_or_share_a_batch_are_refused() -> None:
    with pytest.raises(Unsupported, match="processed_logprobs"):
        stepper_over(FakeEngine(mode="raw_logprobs"))
    with pytest.raises(Unsupported, match="data_parallel_size=1"):
        stepper_over(FakeEngine(data_parallel_size=2))


def test_a_session_serves_from_a_thread_of_its_own() -> None:
    engine = FakeEngine()
    adapter = object()
    stepper = stepper_over(engine, weights_version=lambda: 6, lora_request=lambda: adapter)
    assert isinstance(stepper, TokenGenerator)
    with stepper.session():
        generation = asyncio.run(turn(stepper, 4, 9))
    assert (generation.token_ids, generation.logprobs) == ([9], [-0.5])
    assert (generation.finish_reason, generation.weights_version) == ("length", 6)
    assert engine.loras == [adapter]
    assert engine.threads == {"gym_adapters-stepper"}
    with pytest.raises(UsageError, match="nobody is stepping"):
        asyncio.run(turn(stepper, 1))


def test_driving_steps_in_the_callers_thread_and_gives_the_result() -> None:
    engine = FakeEngine()
    stepper = stepper_over(engine)
    with ThreadPoolExecutor() as threads:
        result = stepper.drive(lambda: threads.submit(asyncio.run, turn(stepper, 4, 9)))
    assert result.token_ids == [9]
    assert engine.threads == {threading.main_thread().name}


def test_what_the_rollouts_raise_is_raised_by_who_drives() -> None:
    stepper = stepper_over(FakeEngine())
    failed: Future[None] = Future()
    failed.set_exception(KeyError("rollouts"))
    with pytest.raises(KeyError, match="rollouts"):
        stepper.drive(lambda: failed)

    def refuse() -> Future[None]:
        raise RuntimeError("no thread left")

    with pytest.raises(RuntimeError, match="no thread left"):
        stepper.drive(refuse)
    with stepper.session():
        assert asyncio.run(turn(stepper, 3)).token_ids == [3]


def test_a_prompt_that_vllm_refuses_is_a_model_error_of_that_rollout() -> None:
    stepper = stepper_over(FakeEngine())
    with stepper.session():
        with pytest.raises(ModelError, match="too long"):
            asyncio.run(turn(stepper, *range(40)))
        with pytest.raises(ModelError, match="empty"):
            asyncio.run(turn(stepper))
        with pytest.raises(Unsupported, match="media"):
            asyncio.run(
                stepper.generate([1], SamplingParams(), request_id="r", media=[{"type": "x"}])
            )
        assert asyncio.run(turn(stepper, 5)).token_ids == [5]


def test_a_session_inside_a_session_is_refused() -> None:
    stepper = stepper_over(FakeEngine())
    with (
        stepper.session(),
        pytest.raises(UsageError, match="already"),
        stepper.session(),
    ):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's dynamic linker")
def test_the_thread_that_steps_has_as_many_threads_of_openmp_as_torch() -> None:
    torch = pytest.importorskip("torch", reason="without torch nothing runs OpenMP")
    # Of several that a process may have loaded (sentencepiece brings its own), the one torch uses.
    openmp = ctypes.CDLL(None)
    counts: list[int] = []

    class Counting(FakeEngine):
        def step(self) -> list[Any]:
            counts.append(openmp.omp_get_max_threads())
            return super().step()

    before = torch.get_num_threads()
    # Not torch.set_num_threads, which does nothing once vLLM's CPU worker has run in this process.
    torch._C.set_num_threads(before + 1)
    try:
        stepper = stepper_over(Counting())
        with stepper.session():
            asyncio.run(turn(stepper, 1, 2))
    finally:
        torch._C.set_num_threads(before)
    assert set(counts) == {before + 1}
