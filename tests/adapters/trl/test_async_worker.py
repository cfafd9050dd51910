"""The rollout worker by itself: what it makes, when it stops, and what it tells."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import orjson
import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")
pytest.importorskip("vllm", reason="TRL's async trainer imports vLLM")

from gym_adapters import (
    Environment,
    InvalidConfig,
    JudgeError,
    Reward,
    RolloutError,
    Task,
    Transcript,
    Unsupported,
    UsageError,
)
from gym_adapters.adapters.trl import RolloutWorker, blended_spec, trl_spec
from gym_adapters.adapters.trl.async_samples import group_advantages
from gym_adapters.errors import RolloutTimeout
from gym_adapters.serving.gateway_agent import GatewayAgent
from gym_adapters.testing.scripted_generator import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("default")

TOKENIZER = tiny_tokenizer()
ANSWER = TOKENIZER.encode("ok<|im_end|>", add_special_tokens=False)
MakeWorker = Callable[..., RolloutWorker]


class Answered(Environment[Task]):
    """The rollout's index, as if somebody had judged it."""

    async def verify(self, transcript: Transcript) -> Reward:
        value = float(transcript.final_text == "ok")
        return Reward(value, {"ok": value})


def tasks(count: int = 3, **fields: Any) -> list[Task]:
    rows = [{"responses_create_params": {"input": f"q{n}"}, **fields} for n in range(count)]
    return [Task.from_row(row) for row in rows]


def settings(**changed: Any) -> Any:
    values = {
        "max_staleness": 4,
        "token_budget": 0,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "world_size": 1,
        "weight_sync_steps": 1,
        "num_generations": 2,
        "seed": 7,
        "max_completion_length": 64,
        "max_inflight_tasks": 16,
        "queue_maxsize": 64,
        "chat_template_kwargs": None,
        "vllm_server_base_url": "http://localhost:1",
        "request_timeout": 30,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
    }
    return SimpleNamespace(**{**values, **changed})


MODEL = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=4096, _name_or_path="tiny"))


@pytest.fixture(scope="module", autouse=True)
def async_trainer() -> None:
    """Imported beforehand, as everybody does who has such a trainer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        import trl.experimental.async_grpo  # noqa: F401


@pytest.fixture
def make_worker() -> Iterator[MakeWorker]:
    workers: list[RolloutWorker] = []

    def make(
        environment: Any = Answered,
        rows: Any = None,
        script: Any = None,
        agent: Any = None,
        **changed: Any,
    ) -> RolloutWorker:
        generator = script if script is not None else ScriptedGenerator(lambda *_: ANSWER)
        spec = trl_spec(
            environment,
            tasks=rows if rows is not None else tasks(),
            way="async",
            generator=generator,
            agent=agent,
        )
        worker = spec.rollout_worker
        assert worker is not None
        worker.learn(settings(**changed), MODEL, TOKENIZER)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.stop()


def taken(worker: RolloutWorker, count: int) -> list[Any]:
    """So many samples, taken as the trainer does it."""
    samples: list[Any] = []
    while len(samples) < count:
        try:
            samples.append(worker.rollout_buffer.get(timeout=1))
        except queue.Empty:
            worker.check_health(60.0)
    return samples


def ended_with(worker: RolloutWorker) -> Exception:
    """What the health check tells once the worker has ended by itself."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            worker.check_health(60.0)
        except Exception as error:
            return error
        time.sleep(0.01)
    pytest.fail("the worker goes on")


def test_samples_hold_the_ledger_and_come_group_by_group(make_worker: MakeWorker) -> None:
    script = ScriptedGenerator(lambda *_: ANSWER)
    worker = make_worker(script=script, max_staleness=50)
    worker.update_model_version(3)
    worker.start()
    samples = taken(worker, 40)
    prompt = script.calls_of("train-0-0")[0].prompt_ids
    first = next(s for s in samples if s.group_id == 0)
    assert tuple(first.input_ids) == (*prompt, *ANSWER)
    assert list(first.completion_mask) == [0] * len(prompt) + [1] * len(ANSWER)
    assert list(first.old_log_probs[: len(prompt)]) == [0.0] * len(prompt)
    assert all(first.old_log_probs[len(prompt) :] < 0)
    assert (first.input_ids.dtype, first.old_log_probs.dtype) == ("int64", "float32")
    assert {s.model_version for s in samples} == {3}
    numbers = [s.group_id for s in samples]
    assert numbers[::2] == numbers[1::2]
    assert {0, 1, 2, 3} < set(numbers)
    assert first.metrics == {"reward": 1.0, "reward_std": 0.0, "rewards/Answered/mean": 1.0}
    assert first.prompt == [{"role": "user", "content": "q0"}]
    # After the last task comes the first again, as another group.
    again = next(s for s in samples if s.group_id == 3)
    assert again.prompt == first.prompt


FOREIGN = """
import json, sys, urllib.request
task = json.load(sys.stdin)
body = json.dumps({"model": "m", "input": task["input"]}).encode()
request = urllib.request.Request(task["base_url"] + "/responses", body)
urllib.request.urlopen(request, timeout=60).read()
"""


def test_a_foreign_agents_tokens_are_samples(make_worker: MakeWorker) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    script = ScriptedGenerator(lambda *_: ANSWER)
    agent = GatewayAgent(command=[sys.executable, "-c", FOREIGN])
    worker = make_worker(script=script, agent=agent, max_inflight_tasks=2)
    worker.update_model_version(3)
    worker.start()
    samples = taken(worker, 4)
    prompt = script.calls_of("train-0-0")[0].prompt_ids
    assert tuple(samples[0].input_ids) == (*prompt, *ANSWER)
    assert list(samples[0].completion_mask) == [0] * len(prompt) + [1] * len(ANSWER)
    assert {(s.model_version, s.metrics["reward"]) for s in samples} == {(3, 1.0)}
    # Its gateway, and the programs that ask at it, end with the worker.
    worker.stop()
    assert agent._gateway._serving is None


def test_an_agent_that_can_not_drive_the_environment_is_refused_at_once() -> None:
    class Replies(Answered):
        async def reply(self, message: str) -> str | None:
            return None

    agent = GatewayAgent(command=["my-agent"])
    with pytest.raises(Unsupported, match="Replies replies to messages"):
        trl_spec(Replies, tasks=tasks(), way="async", agent=agent)


def test_a_sample_is_as_old_as_its_oldest_turn(make_worker: MakeWorker) -> None:
    class Talks(Answered):
        async def reply(self, message: str) -> str | None:
            return "again" if self.transcript_turns() < 2 else None

        async def start(self) -> None:
            self.turns = 0

        def transcript_turns(self) -> int:
            self.turns += 1
            return self.turns

    worker: RolloutWorker

    def answer(prompt: Any, request_id: str, turn: int) -> list[int]:
        if request_id == "train-0-0" and turn == 0:
            # New weights arrive once its first turn was begun.
            worker.update_model_version(2)
        return ANSWER

    worker = make_worker(Talks, script=ScriptedGenerator(answer), max_inflight_tasks=1)
    worker.update_model_version(1)
    worker.start()
    first, second = taken(worker, 2)
    assert (first.model_version, second.model_version) == (1, 2)
    worker.stop()


def test_it_samples_no_further_ahead_than_can_be_trained_on(make_worker: MakeWorker) -> None:
    worker = make_worker(max_staleness=2, per_device_train_batch_size=4, num_generations=4)
    worker.start()
    # 2 versions, a step of 4 samples each.
    filled(worker, 8)
    taken(worker, 4)
    filled(worker, 8)


def filled(worker: RolloutWorker, count: int) -> None:
    until = time.monotonic() + 60
    while worker.rollout_buffer.qsize() < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert worker.rollout_buffer.qsize() == count


def test_where_batches_are_filled_by_tokens_what_the_trainer_took_tells_how_many_it_needs(
    make_worker: MakeWorker,
) -> None:
    worker = make_worker(
        max_staleness=2, per_device_train_batch_size=4, num_generations=4, token_budget=512
    )
    worker.start()
    filled(worker, 8)
    taken(worker, 12)
    worker.update_model_version(1)
    # What is left was sampled before; 12 a version are needed.
    filled(worker, 24)
    for version in range(2, 5):
        worker.update_model_version(version)
    taken(worker, 16)
    # These were too old, and dropped: the trainer needs no more for that.
    worker.update_model_version(5)
    assert worker._used_per_version == 0


def test_no_more_rollouts_run_at_once_than_the_trainer_allows(make_worker: MakeWorker) -> None:
    async def once_three_are_there(*_: Any) -> list[int]:
        async with asyncio.timeout(60):
            while script.peak_concurrency < 3:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        # Time for a fourth.
        await asyncio.sleep(0.01)
        return ANSWER

    script = ScriptedGenerator(once_three_are_there)
    worker = make_worker(script=script, max_inflight_tasks=3, max_staleness=50)
    worker.start()
    taken(worker, 20)
    assert script.peak_concurrency == 3


class Judged(Answered):
    """Scores come from the task: a number, or no verdict."""

    async def verify(self, transcript: Transcript) -> float:
        reward = self.rng.choice([0.0, 1.0, None])
        if reward is None:
            raise JudgeError("the judge is silent")
        return reward


def test_a_failed_rollout_is_no_sample_and_no_part_of_the_baseline(
    make_worker: MakeWorker,
) -> None:
    worker = make_worker(Judged, num_generations=6, max_staleness=50)
    worker.start()
    groups: dict[int, list[Any]] = {}
    for sample in taken(worker, 40):
        groups.setdefault(sample.group_id, []).append(sample)
    whole = [group for group in groups.values() if group is not list(groups.values())[-1]]
    assert any(len(group) < 6 for group in whole)
    for group in whole:
        expected, deviation = group_advantages([s.metrics["reward"] for s in group])
        assert [s.advantage for s in group] == expected
        assert {s.metrics["reward_std"] for s in group} == {deviation}
    rates: dict[str, list[float]] = {"gym/failed": [0, 0], "gym/failed/judge": [0, 0]}
    while not worker.metrics_queue.empty():
        for name, (numerator, denominator) in worker.metrics_queue.get().items():
            assert denominator in (6.0, 1.0, 2.0, 3.0, 4.0, 5.0)
            total = rates.setdefault(name, [0, 0])
            total[0] += numerator
            total[1] += denominator
    assert 0 < rates["gym/failed"][0] < rates["gym/failed"][1]
    assert rates["gym/failed"][0] == rates["gym/failed/judge"][0]


def test_all_rollouts_can_be_kept_the_failed_ones_too(tmp_path: Path) -> None:
    generator = ScriptedGenerator(lambda *_: ANSWER)
    spec = trl_spec(Judged, tasks=tasks(), way="async", generator=generator, ledger=tmp_path)
    worker = spec.rollout_worker
    assert worker is not None
    worker.learn(settings(num_generations=6, max_staleness=50), MODEL, TOKENIZER)
    worker.start()
    samples = taken(worker, 20)
    worker.stop()
    kept = (tmp_path / "rollouts.jsonl").read_bytes().splitlines()
    failed = (tmp_path / "failures.jsonl").read_bytes().splitlines()
    assert len(kept) >= len(samples)
    assert len(failed) > 0
    indices = [orjson.loads(line)["_ng_rollout_index"] for line in [*kept, *failed]]
    identities = [(orjson.loads(line)["gym_adapters"]["task_id"]) for line in [*kept, *failed]]
    assert len(set(zip(identities, indices, strict=True))) == len(indices)


def test_without_word_of_the_tasks_used_a_resumed_run_begins_anew_under_new_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sampled(state: Any) -> list[tuple[str, int]]:
        generator = ScriptedGenerator(lambda *_: ANSWER)
        spec = trl_spec(Answered, tasks=tasks(), way="async", generator=generator, ledger=tmp_path)
        worker = spec.rollout_worker
        assert worker is not None
        worker.learn(settings(), MODEL, TOKENIZER)
        worker.begin(settings(), state)
        worker.start()
        taken(worker, 8)
        worker.stop()
        kept = (tmp_path / "rollouts.jsonl").read_bytes().splitlines()
        rows = [orjson.loads(line) for line in kept]
        return [(row["gym_adapters"]["task_id"], row["_ng_rollout_index"]) for row in rows]

    before = sampled(SimpleNamespace(global_step=0, stateful_callbacks={}))
    after = sampled(SimpleNamespace(global_step=2, stateful_callbacks={}))
    assert "resumed at step 2 with the first task: the checkpoint does not tell" in caplog.text
    assert after[: len(before)] == before
    assert len(set(after)) == len(after) >= len(before) + 8
    # Of three tasks, in groups of two.
    assert sorted({task_id for task_id, _ in after}) == sorted(t.task_id for t in tasks())


def test_advantages_are_those_of_trls_own_worker() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0])[0] == pytest.approx([1, -1, -1, 1], abs=1e-6)
    assert group_advantages([0.5])[0] == [0.0]
    assert group_advantages([2.0, 2.0]) == ([0.0, 0.0], 0.0)


class Broken(Answered):
    async def verify(self, transcript: Transcript) -> float:
        raise JudgeError("no such host")


def test_a_run_in_which_nothing_is_ever_scored_ends_with_the_first_problem(
    make_worker: MakeWorker,
) -> None:
    worker = make_worker(Broken)
    worker.start()
    error = ended_with(worker)
    assert isinstance(error, RolloutError)
    assert "64 prompts in a row" in str(error)
    assert "no such host" in str(error)


def test_a_row_that_can_not_be_sampled_ends_the_run(make_worker: MakeWorker) -> None:
    rows = [Task.from_row({"responses_create_params": {"input": "q", "max_output_tokens": "many"}})]
    worker = make_worker(rows=rows)
    worker.start()
    assert "max_output_tokens" in str(ended_with(worker))


def test_a_setting_the_engine_refuses_ends_the_run(make_worker: MakeWorker) -> None:
    script = ScriptedGenerator(lambda *_: Unsupported("min_p is not known here"))
    worker = make_worker(script=script)
    worker.start()
    assert "min_p is not known here" in str(ended_with(worker))


class Slow(Answered):
    """Waits for ever, and says when it was closed."""

    began = threading.Event()
    closed: ClassVar[list[bool]] = []

    async def start(self) -> None:
        Slow.began.set()
        await asyncio.sleep(600)

    async def close(self) -> None:
        Slow.closed.append(True)


def test_stopping_closes_every_episode_and_ends_the_thread(make_worker: MakeWorker) -> None:
    Slow.closed.clear()
    Slow.began.clear()
    worker = make_worker(Slow, max_inflight_tasks=3)
    worker.start()
    assert Slow.began.wait(30)
    threads = [t for t in threading.enumerate() if t.name == "gym_adapters-Slow"]
    assert len(threads) == 1
    worker.stop()
    assert Slow.closed
    assert not threads[0].is_alive()
    worker.stop()


def test_a_worker_that_is_stopped_says_so_and_can_be_started_again(
    make_worker: MakeWorker,
) -> None:
    worker = make_worker()
    with pytest.raises(UsageError, match="not running"):
        worker.check_health(1.0)
    worker.start()
    worker.start()
    taken(worker, 2)
    worker.stop()
    with pytest.raises(UsageError, match="not running"):
        worker.check_health(1.0)
    worker.start()
    taken(worker, 2)


class Blocks(Answered):
    """Blocks the event loop."""

    began = threading.Event()
    release = threading.Event()

    async def start(self) -> None:
        Blocks.began.set()
        Blocks.release.wait(60)


def test_an_environment_that_blocks_the_event_loop_is_told_of(make_worker: MakeWorker) -> None:
    worker = make_worker(Blocks)
    worker.start()
    try:
        assert Blocks.began.wait(30)
        # A sign of life is due each second.
        time.sleep(1.5)
        with pytest.raises(RolloutTimeout, match="blocks it"):
            worker.check_health(1.2)
    finally:
        Blocks.release.set()


def test_without_the_specs_callback_it_does_not_start() -> None:
    spec = trl_spec(Answered, tasks=tasks(), way="async")
    assert spec.rollout_worker is not None
    with pytest.raises(UsageError, match="callbacks"):
        spec.rollout_worker.start()


def test_another_trainer_is_refused_when_it_is_made() -> None:
    spec = trl_spec(Answered, tasks=tasks(), way="async")
    (callback,) = spec.callbacks
    with pytest.raises(InvalidConfig, match="AsyncGRPOTrainer"):
        callback.on_init_end(SimpleNamespace(), None, None, model=MODEL)


def test_what_the_async_trainer_would_ignore_is_refused() -> None:
    with pytest.raises(Unsupported, match="evaluates nothing"):
        trl_spec(Answered, tasks=tasks(), eval_tasks=tasks(), way="async")
    with pytest.raises(Unsupported, match="score in the environment"):
        trl_spec(Answered, tasks=tasks(), reward_funcs=[len], way="async")


def test_the_spec_gives_what_the_async_trainer_takes() -> None:
    spec = trl_spec(Answered, tasks=tasks(), way="async")
    arguments = spec.trainer_arguments()
    assert set(arguments) == {"train_dataset", "callbacks", "rollout_worker"}
    assert len(arguments["train_dataset"]) == 3


class Twice(Answered):
    """Scores twice as high, under a name of its own."""

    name = "twice"

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(2.0, {"ok": 2.0})


def test_several_environments_share_a_worker_and_keep_their_groups_and_names() -> None:
    script = ScriptedGenerator(lambda *_: ANSWER)
    spec = blended_spec(
        trl_spec(Answered, tasks=tasks(2), way="async", generator=script),
        trl_spec(Twice, tasks=tasks(4), way="async", generator=script),
    )
    worker = spec.rollout_worker
    assert worker is not None
    worker.learn(settings(max_staleness=50), MODEL, TOKENIZER)
    worker.start()
    samples = taken(worker, 40)
    worker.stop()
    of_group: dict[int, set[str]] = {}
    for sample in samples:
        name = next(key for key in sample.metrics if key.startswith("rewards/"))
        of_group.setdefault(sample.group_id, set()).add(name)
    assert [of_group[number] for number in range(6)] == [
        {f"rewards/{name}/mean"}
        for name in ("twice", "Answered", "twice", "twice", "Answered", "twice")
    ]
    told = [worker.metrics_queue.get() for _ in range(12)]
    assert {name for rates in told for name in rates if "components" in name} == {
        "gym/Answered/components/ok",
        "gym/twice/components/ok",
    }
