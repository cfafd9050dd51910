"""GRPOTrainer with a real colocated vLLM; on a CPU that takes two workarounds, made here alone."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM")

from gym_adapters import Reward, Task, Transcript, Unsupported, load_environment
from gym_adapters.adapters.trl import colocated_vllm, rollouts, trl_spec
from gym_adapters.adapters.trl.colocated_vllm import awake, colocated_generator
from gym_adapters.items import item_text
from gym_adapters.rollout import Rollout
from gym_adapters.testing.tiny_model import TinyPolicy

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    async def verify(self, transcript: Transcript) -> Reward:
        text = "".join(item_text(i) + str(i.get("arguments", "")) for i in transcript.output)
        return Reward(sum(map(ord, text)) % 7 / 6)


class Owner:
    """What `awake` uses of TRL's ``VLLMGeneration``, keeping a diary."""

    def __init__(self, *, sleeps: bool) -> None:
        self.enable_sleep_mode = self._llm_weights_sleeping = sleeps
        self.diary: list[str] = []
        self.llm = self

    def sync_weights(self) -> None:
        self._llm_weights_sleeping = False
        self.diary.append("sync")

    def wake_up(self, tags: list[str]) -> None:
        self.diary.append(f"wake {tags}")

    def sleep(self, level: int) -> None:
        self.diary.append(f"sleep {level}")


def test_a_sleeping_engine_gets_weights_and_cache_and_sleeps_again() -> None:
    owner = Owner(sleeps=True)
    with pytest.raises(RuntimeError, match="torn"), awake(owner):
        raise RuntimeError("torn")
    assert owner.diary == ["sync", "wake ['kv_cache']", "sleep 2"]
    assert owner._llm_weights_sleeping


def test_an_engine_that_never_sleeps_is_left_alone() -> None:
    owner = Owner(sleeps=False)
    with awake(owner):
        pass
    assert owner.diary == []


class TwoRanks:
    """The ranks of a tensor-parallel engine."""

    rank = 0
    size = 2


def test_an_engine_of_several_processes_is_stepped_by_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parallel = SimpleNamespace(
        data_parallel_size=1,
        tensor_parallel_size=2,
        pipeline_parallel_size=1,
        distributed_executor_backend="external_launcher",
    )
    model = SimpleNamespace(max_model_len=64, logprobs_mode="processed_logprobs")
    config = SimpleNamespace(model_config=model, parallel_config=parallel)
    engine = SimpleNamespace(model_config=model, vllm_config=config)
    owner = SimpleNamespace(tensor_parallel_size=2, llm=SimpleNamespace(llm_engine=engine))
    trainer = SimpleNamespace(vllm_generation=owner, state=SimpleNamespace(global_step=3))
    monkeypatch.setattr(colocated_vllm, "_step_group", TwoRanks)
    stepper = colocated_generator(trainer)
    assert stepper.max_context == 64
    owner.tensor_parallel_size = 1
    with pytest.raises(Unsupported, match="has 2 ranks that must step together"):
        colocated_generator(trainer)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_grpo_trains_on_what_its_colocated_engine_sampled(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        # TRL sets them for vLLM: set and deleted here, they are gone again after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    import trl.generation.vllm_generation as trl_vllm
    from vllm import LLM, _custom_ops
    from vllm.distributed import cleanup_dist_env_and_memory

    # Weights can't be loaded into layers that were packed for oneDNN.
    monkeypatch.setattr(_custom_ops, "_supports_onednn", False)
    exact = functools.partial(LLM, dtype="float32", enforce_eager=True)
    monkeypatch.setattr(trl_vllm, "LLM", exact)
    finished: list[list[Rollout]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        finished.append(list(batch))
        return original(batch, **options)

    monkeypatch.setattr(rollouts, "rollout_columns", kept)
    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(
        policy,
        spec.trainer_arguments(),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.1,
        vllm_max_model_length=512,
    )
    recorder = record(trainer)
    trainer.train()
    for batch, batch_rollouts in enumerate(finished):
        assert recorder.rows(batch) == [
            (list(s.prompt_ids), list(s.completion_ids), list(s.mask))
            for s in (rollout.segments[0] for rollout in batch_rollouts)
        ]
    assert any(0 in mask for *_, mask in recorder.rows(0))
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(history) == 3
    assert all(e["sampling/sampling_logp_difference/max"] < 1e-3 for e in history)
    assert [e["sampling/importance_sampling_ratio/mean"] for e in history] == pytest.approx(
        [1.0] * 3, abs=1e-2
    )
    del trainer
    cleanup_dist_env_and_memory()
