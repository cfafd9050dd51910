from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm.sampling_params", reason="needs vLLM")

from gym_adapters.adapters.trl.stepped_vllm import SteppedVllm, vllm_params
from gym_adapters.errors import ModelError, Unsupported
from gym_adapters.generation.protocol import SamplingParams


class Engine:
    """Samples one token a step and request: its prompt's last id, plus one each time."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[list[int], Any]] = {}
        self.most = 0
        self.aborted: list[str] = []
        self.fails = False
        self.began = threading.Event()

    def add_request(self, name: str, prompt: Any, params: Any) -> None:
        if len(prompt["prompt_token_ids"]) > 100:
            raise ValueError("the prompt is too long")
        assert name not in self.running
        self.running[name] = ([prompt["prompt_token_ids"][-1]], params)
        self.began.set()

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            self.running.pop(name, None)

    def step(self) -> list[Any]:
        if self.fails:
            self.running = {}
            raise RuntimeError("out of memory")
        self.most = max(self.most, len(self.running))
        outputs = []
        for name, (ids, params) in list(self.running.items()):
            ids.append(ids[-1] + 1)
            stopped = ids[-1] in params.stop_token_ids
            if stopped or len(ids) > params.max_tokens:
                del self.running[name]
                sampled = ids[1:]
                completion = SimpleNamespace(
                    token_ids=sampled,
                    logprobs=[{i: SimpleNamespace(logprob=-i / 8)} for i in sampled],
                    finish_reason="stop" if stopped else "length",
                )
                outputs.append(
                    SimpleNamespace(request_id=name, finished=True, outputs=[completion])
                )
        return outputs


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def generator(engine: Engine) -> SteppedVllm:
    return SteppedVllm(SimpleNamespace(llm_engine=engine), lambda: 3)


async def test_a_turn_comes_back_with_its_ids_logprobs_reason_and_version(
    generator: SteppedVllm,
) -> None:
    cut = await generator.generate([5], SamplingParams(max_tokens=2), request_id="a")
    assert (cut.token_ids, cut.logprobs) == ([6, 7], [-0.75, -0.875])
    assert (cut.finish_reason, cut.weights_version) == ("length", 3)
    stop = SamplingParams(max_tokens=9, stop_token_ids=(8,))
    assert (await generator.generate([5], stop, request_id="a")).finish_reason == "stop"


async def test_concurrent_turns_share_the_engines_steps_and_leave_when_done(
    generator: SteppedVllm, engine: Engine
) -> None:
    turns = [
        generator.generate([10 * n], SamplingParams(max_tokens=1 + 40 * n), request_id=str(n))
        for n in range(8)
    ]
    given = await asyncio.gather(*turns)
    assert [len(g.token_ids) for g in given] == [1 + 40 * n for n in range(8)]
    assert [g.token_ids[0] for g in given] == [10 * n + 1 for n in range(8)]
    assert engine.most > 1


async def test_cancelling_aborts_the_request(generator: SteppedVllm, engine: Engine) -> None:
    sampling = SamplingParams(max_tokens=10**9)
    turn = asyncio.create_task(generator.generate([1], sampling, request_id="a"))
    await asyncio.to_thread(engine.began.wait, 10)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    await generator.generate([1], SamplingParams(max_tokens=1), request_id="b")
    assert engine.aborted == ["a-turn-0"]
    assert engine.running == {}


async def test_a_prompt_the_engine_refuses_fails_alone(generator: SteppedVllm) -> None:
    sampling = SamplingParams(max_tokens=3)
    good, bad = await asyncio.gather(
        generator.generate([1], sampling, request_id="a"),
        generator.generate([1] * 101, sampling, request_id="b"),
        return_exceptions=True,
    )
    assert good.token_ids == [2, 3, 4]  # type: ignore[union-attr]
    assert isinstance(bad, ModelError)
    assert "too long" in str(bad)


async def test_a_failing_engine_fails_every_turn_in_flight_and_no_later_one(
    generator: SteppedVllm, engine: Engine
) -> None:
    engine.fails = True
    sampling = SamplingParams(max_tokens=3)
    with pytest.raises(ModelError, match="out of memory"):
        await generator.generate([1], sampling, request_id="a")
    engine.fails = False
    assert (await generator.generate([1], sampling, request_id="a")).token_ids == [2, 3, 4]


async def test_images_and_unknown_settings_are_refused(generator: SteppedVllm) -> None:
    with pytest.raises(Unsupported, match="media"):
        await generator.generate([1], SamplingParams(), request_id="a", media=[{}])
    with pytest.raises(Unsupported, match="no_such_setting"):
        vllm_params(SamplingParams(extras={"no_such_setting": 1}))


def test_settings_reach_vllm() -> None:
    params = vllm_params(
        SamplingParams(
            max_tokens=7,
            temperature=0.5,
            stop_token_ids=(3,),
            seed=11,
            extras={"min_p": 0.1, "repetition_penalty": 1.2},
        )
    )
    assert (params.max_tokens, params.temperature, params.seed) == (7, 0.5, 11)
    assert (params.min_p, params.repetition_penalty, params.logprobs) == (0.1, 1.2, 0)
    assert list(params.stop_token_ids) == [3]
