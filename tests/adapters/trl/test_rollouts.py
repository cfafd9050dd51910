from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from gym_adapters import (
    Environment,
    InvalidRow,
    JudgeError,
    Reward,
    Task,
    Transcript,
    Unsupported,
    load_environment,
)
from gym_adapters.adapters.trl import rollout_function, rollouts, trl_spec
from gym_adapters.items import item_text
from gym_adapters.rollout import Rollout
from gym_adapters.testing.tiny_model import TinyPolicy

ArithmeticTools = load_environment("arithmetic_tools").environment


def number_of(transcript: Transcript) -> int:
    """Some number that depends on all the policy wrote."""
    texts = [item_text(i) + str(i.get("arguments", "")) for i in transcript.output]
    return sum(map(ord, "".join(texts)))


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    name = "graded"

    async def verify(self, transcript: Transcript) -> Reward:
        value = number_of(transcript) % 97 / 96
        return Reward(value, {"grade": value})


class Fragile(Graded):
    """Fails on every second attempt of the run."""

    name = "fragile"
    attempts = 0

    async def start(self) -> None:
        Fragile.attempts += 1
        self.fails = Fragile.attempts % 2 == 0

    async def verify(self, transcript: Transcript) -> Reward:
        if self.fails:
            raise JudgeError("the judge is silent")
        return await super().verify(transcript)


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[list[Rollout]]:
    """Rollouts of each call of a rollout function."""
    batches: list[list[Rollout]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        batches.append(list(batch))
        return original(batch, **options)

    monkeypatch.setattr(rollouts, "rollout_columns", kept)
    return batches


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_grpo_trains_on_the_ledger_and_agrees_with_its_logprobs(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    finished: list[list[Rollout]],
    temperature: float,
) -> None:
    import torch

    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(policy, spec.trainer_arguments(), temperature=temperature)
    recorder = record(trainer)
    differences: list[float] = []
    scored = trainer._generate_and_score_completions

    def recomputed(inputs: Any) -> Any:
        output = scored(inputs)
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attended = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        with torch.no_grad():
            logps, _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, attended, output["completion_ids"].size(1)
            )
        gap = (logps - output["sampling_per_token_logps"]).abs()
        differences.append(
            float(gap[output["tool_mask"].bool() & (output["completion_mask"] > 0)].max())
        )
        return output

    trainer._generate_and_score_completions = recomputed
    before = trainer.model.lm_head.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.lm_head.weight)
    assert len(finished) == 3
    for batch, batch_rollouts in enumerate(finished):
        segments = [rollout.segments[0] for rollout in batch_rollouts]
        assert recorder.rows(batch) == [
            (list(s.prompt_ids), list(s.completion_ids), list(s.mask)) for s in segments
        ]
        assert {span.weights_version for s in segments for span in s.spans if span.sampled} == {
            batch
        }
    assert max(differences) < 1e-3
    assert any(0 in rollout.segments[0].mask for rollout in finished[0])


def test_rows_come_back_in_order_each_for_its_own_prompt(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(policy, spec.trainer_arguments())
    trainer.train()
    for step, batch in enumerate(finished):
        # Attempts are counted over the whole run: a task may come back.
        assert [r.rollout_index - 4 * step for r in batch] == [0, 1, 2, 3] * 2
        assert len({r.task_id for r in batch[:4]}) == len({r.task_id for r in batch[4:]}) == 1
    attempts = [tuple(r.segments[0].completion_ids) for r in finished[0][:4]]
    assert len(set(attempts)) > 1


def test_the_same_seed_gives_the_same_tokens(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    for _ in range(2):
        spec = trl_spec(Graded, tasks=sums)
        make_trainer(policy, spec.trainer_arguments(), max_steps=2).train()
    tokens = [[r.segments[0].completion_ids for r in batch] for batch in finished]
    assert tokens[:2] == tokens[2:]


@pytest.mark.parametrize("budget", [5, 60, 70, 90])
def test_no_completion_is_longer_than_the_trainer_allows(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    finished: list[list[Rollout]],
    budget: int,
) -> None:
    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(
        policy, spec.trainer_arguments(), max_completion_length=budget, max_steps=1
    )
    recorder = record(trainer)
    trainer.train()
    assert all(0 < len(ids) <= budget for _, ids, _ in recorder.rows(0))
    cut = [r for r in finished[0] if r.outcome.status.value == "truncated"]
    assert all(r.reward is not None for r in finished[0])
    assert cut or budget > 60


def survivors_advantages(rewards: list[float | None], group: int, scale: str) -> list[float]:
    """What GRPO gives when each group never had its failed rollouts."""
    import torch

    kept = torch.tensor([r for r in rewards if r is not None])
    advantages: list[float] = []
    for start in range(0, len(rewards), group):
        values = torch.tensor([r for r in rewards[start : start + group] if r is not None])
        deviation = {"group": values.std(), "batch": kept.std(), "none": None}[scale]
        for reward in rewards[start : start + group]:
            if reward is None:
                advantages.append(0.0)
                continue
            advantage = reward - values.mean()
            scaled = advantage if deviation is None else advantage / (deviation + 1e-4)
            advantages.append(float(scaled))
    return advantages


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_failed_rollouts_leave_their_group_as_if_they_had_never_been(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    finished: list[list[Rollout]],
    scale: str,
) -> None:
    Fragile.attempts = 0
    spec = trl_spec(Fragile, tasks=sums)
    trainer = make_trainer(
        policy, spec.trainer_arguments(), scale_rewards=scale, max_steps=1, num_generations=8
    )
    recorder = record(trainer)
    trainer.train()
    rewards = [r.reward for r in finished[0]]
    assert rewards.count(None) == 4
    assert recorder.batches[0]["advantages"].tolist() == pytest.approx(
        survivors_advantages(rewards, 8, scale), abs=1e-5
    )
    masks = [mask for *_, mask in recorder.rows(0)]
    assert [any(mask) for mask in masks] == [reward is not None for reward in rewards]
    history = trainer.state.log_history[0]
    assert history["gym/failed"] == history["gym/failed/judge"] == 0.5


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo", "cispo"])
def test_no_gradient_comes_from_a_failed_rollouts_tokens(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], record: Any, loss_type: str
) -> None:
    import torch

    Fragile.attempts = 0
    spec = trl_spec(Fragile, tasks=sums)
    trainer = make_trainer(
        policy,
        spec.trainer_arguments(),
        max_steps=1,
        num_generations=8,
        loss_type=loss_type,
        learning_rate=0.0,
    )
    recorder = record(trainer)
    trainer.train()
    (batch,) = recorder.batches
    failed = ~batch["tool_mask"].mul(batch["completion_mask"]).bool().any(dim=1)
    assert failed.sum() == 4
    assert batch["num_items_in_batch"] == (batch["tool_mask"] * batch["completion_mask"]).sum()

    def gradient(data: dict[str, Any]) -> torch.Tensor:
        trainer.model.zero_grad()
        trainer.model.train()
        trainer._compute_loss(trainer.model, data).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    other = dict(batch, completion_ids=batch["completion_ids"].clone())
    other["completion_ids"][failed] = 65
    grown = gradient(batch)
    assert grown.abs().max() > 0
    assert torch.equal(grown, gradient(other))


def test_evaluation_rolls_out_with_its_own_group_size(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    spec = trl_spec(Graded, tasks=sums[:4], eval_tasks=sums[4:8])
    trainer = make_trainer(
        policy,
        spec.trainer_arguments(),
        num_generations_eval=2,
        per_device_eval_batch_size=4,
    )
    metrics = trainer.evaluate()
    assert [len(batch) for batch in finished] == [4, 4]
    assert [r.rollout_index for batch in finished for r in batch] == [0, 1] * 4
    assert [r.task_id for r in finished[0]] != [r.task_id for r in finished[1]]
    rewards = [r.reward for batch in finished for r in batch if r.reward is not None]
    assert metrics["eval_reward"] == pytest.approx(sum(rewards) / 8, abs=1e-5)
    spec.close()


class Ranked(Graded):
    """The rank in the group."""

    name = "ranked"

    @classmethod
    async def compare(cls, rollouts, **_):  # type: ignore[no-untyped-def]
        return [float(r.rollout_index) for r in rollouts]


def test_groups_torn_between_processes_can_not_be_compared(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec(Ranked, tasks=sums)
    trainer = make_trainer(policy, spec.trainer_arguments())
    prompts = [spec.train_dataset["prompt"][0]] * 6
    with pytest.raises(Unsupported, match="multiple of num_generations"):
        spec.rollout_func(prompts, trainer)
    spec.close()


class Says(Environment[Task]):
    """Takes any row."""

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(number_of(transcript) % 5 / 4)


def test_a_row_that_asks_for_its_own_temperature_is_overruled_and_told_once(
    make_trainer: Any, raw_policy: TinyPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"responses_create_params": {"input": "q", "temperature": 0.1, "top_p": 0.5}}
    spec = trl_spec(Says, tasks=[Task.from_row({**row, "n": n}) for n in range(4)])
    make_trainer(
        raw_policy, spec.trainer_arguments(), max_steps=2, max_completion_length=12
    ).train()
    told = [r for r in caplog.records if "the trainer's settings win" in r.message]
    assert len(told) == 1
    assert "temperature and top_p" in told[0].getMessage()


def test_a_setting_the_generator_does_not_know_is_refused_at_the_first_step(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(raw_policy, spec.trainer_arguments(), min_p=0.1)
    with pytest.raises(Unsupported, match="min_p"):
        trainer.train()
    spec.close()


def test_a_dataset_of_another_making_is_refused_at_the_first_step(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    from datasets import Dataset

    spec = trl_spec(Graded, tasks=sums)
    dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": "hi"}]] * 8})
    arguments = {**spec.trainer_arguments(), "train_dataset": dataset}
    with pytest.raises(InvalidRow, match="trl_spec"):
        make_trainer(raw_policy, arguments).train()


def test_an_interrupt_closes_the_episodes_and_leaves_the_run_usable(
    make_trainer: Any, raw_policy: TinyPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, closed = threading.Semaphore(0), []

    class Slow(Environment[Task]):
        wait = 60.0

        async def start(self) -> None:
            began.release()
            await asyncio.sleep(self.wait)

        async def verify(self, transcript: Transcript) -> float:
            return 1.0

        async def close(self) -> None:
            closed.append(True)

    spec = trl_spec(Slow, tasks=[Task.from_row({"responses_create_params": {"input": "q"}})])
    trainer = make_trainer(raw_policy, spec.trainer_arguments(), max_completion_length=8)
    prompts = [spec.train_dataset["prompt"][0]] * 4
    main = threading.main_thread().ident

    def interrupt() -> None:
        for _ in range(4):
            assert began.acquire(timeout=60)
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    # A test run in the background of a shell ignores SIGINT, and Python then leaves it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            spec.rollout_func(prompts, trainer)
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed == [True] * 4
    monkeypatch.setattr(Slow, "wait", 0.0)
    assert len(spec.rollout_func(prompts, trainer)["completion_ids"]) == 4
    spec.close()


def test_resources_that_can_not_be_opened_end_the_run(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    from contextlib import asynccontextmanager

    from gym_adapters.errors import EnvironmentFailure

    class Closed(Graded):
        @classmethod
        @asynccontextmanager
        async def open_resources(cls, config):  # type: ignore[no-untyped-def]
            raise ConnectionError("no service")
            yield

    trainer = make_trainer(raw_policy, trl_spec(Closed, tasks=sums).trainer_arguments())
    with pytest.raises(EnvironmentFailure, match="no service"):
        trainer.train()


def test_max_concurrency_must_be_positive() -> None:
    with pytest.raises(Exception, match="max_concurrency"):
        rollout_function(Graded, max_concurrency=0)
