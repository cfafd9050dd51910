"""Real trainings with AsyncGRPOTrainer; what they take on a CPU is in `async_cpu`."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")
pytest.importorskip("vllm", reason="TRL's async trainer imports vLLM")

import numpy as np
import torch

from gym_adapters import JudgeError, Reward, Task, Transcript, load_environment
from gym_adapters.adapters.trl import async_worker, trl_spec
from gym_adapters.items import item_text
from gym_adapters.rollout import Rollout
from gym_adapters.testing.tiny_model import TinyPolicy

from .async_cpu import Gaps, LocalPolicy, MakeTrainer, learning_twice

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    name = "graded_total"

    async def verify(self, transcript: Transcript) -> Reward:
        text = "".join(item_text(i) + str(i.get("arguments", "")) for i in transcript.output)
        value = sum(map(ord, text)) % 7 / 6
        return Reward(value, {"grade": value})


class Fragile(Graded):
    """Fails in a third of the attempts, always the same."""

    name = "fragile"

    async def verify(self, transcript: Transcript) -> Reward:
        if self.rng.random() < 0.33:
            raise JudgeError("the judge is silent")
        return await super().verify(transcript)


class AsksBack(Graded):
    """Answers the first message, so that a rollout has several turns whatever the policy says."""

    name = "asks_back"

    async def start(self) -> None:
        await super().start()
        self.asked = False

    async def reply(self, message: str) -> str | None:
        first, self.asked = not self.asked, True
        return "sure?" if first else None


class Seen:
    """What the worker made, and what the trainer took of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from trl.experimental.async_grpo.async_grpo_trainer import DataCollatorForRollout

        self.groups: list[tuple[list[Rollout], list[Any]]] = []
        self.batches: list[list[dict[str, Any]]] = []
        made, told = async_worker.group_samples, DataCollatorForRollout._log_metrics

        def group_samples(rollouts: Any, **options: Any) -> Any:
            samples = made(rollouts, **options)
            self.groups.append((list(rollouts), samples))
            return samples

        def log_metrics(collator: Any, rows: Any, all_examples: Any, padded: Any) -> None:
            self.batches.append(list(all_examples))
            told(collator, rows=rows, all_examples=all_examples, padded=padded)

        monkeypatch.setattr(async_worker, "group_samples", group_samples)
        monkeypatch.setattr(DataCollatorForRollout, "_log_metrics", log_metrics)

    @property
    def rollouts(self) -> list[Rollout]:
        return [rollout for group, _ in self.groups for rollout in group]

    @property
    def samples(self) -> list[Any]:
        return [sample for _, samples in self.groups for sample in samples]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def recomputed(local: LocalPolicy, version: int, segment: Any) -> torch.Tensor:
    """Probabilities of a segment's completion under the weights of a version."""
    model = local.model
    model.load_state_dict(local.versions[version - 1])
    ids = torch.tensor([[*segment.prompt_ids, *segment.completion_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(segment.prompt_ids) - 1 : -1]
    return logits.softmax(-1).gather(1, ids[0, len(segment.prompt_ids) :, None])[:, 0]


def test_async_grpo_trains_on_the_ledger_and_agrees_with_its_probabilities(
    make_async: MakeTrainer, policy: TinyPolicy, sums: list[Task], seen: Seen
) -> None:
    local = LocalPolicy(policy)
    spec = trl_spec(Graded, tasks=sums, way="async", generator=local)
    trainer = make_async(
        policy,
        {**spec.trainer_arguments(), "weight_transfer": local},
        max_steps=6,
        max_staleness=0,
    )
    trainer.optimizer, trainer.lr_scheduler = learning_twice(trainer.model)
    gaps = Gaps(trainer)
    trainer.train()

    # Weights move twice; from then on the trainer must find what was sampled, to the digit.
    heads = [sent["lm_head.weight"] for sent in local.versions]
    assert len(heads) == 7
    assert [torch.equal(a, b) for a, b in itertools.pairwise(heads)] == (
        [False, False, True, True, True, True]
    )
    assert max(gaps.steps[:1] + gaps.steps[4:]) < 1e-3
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert all(entry["grad_norm"] > 0 for entry in logged)

    # Every sampled token was given the probability that the version it is stamped with gives, or
    # the next one, where the turn had to wait for new weights.
    assert any(0 in segment.mask for r in seen.rollouts for segment in r.segments)
    versions = set()
    for rollout in seen.rollouts:
        (segment,) = rollout.segments
        for span in (span for span in segment.spans if span.sampled):
            versions.add(span.weights_version)
            ours = torch.tensor(segment.logprobs[span.start : span.end]).exp()
            stamped = span.weights_version
            candidates = [
                recomputed(local, version, segment)[span.start : span.end]
                for version in range(stamped, min(stamped + 2, len(heads) + 1))
            ]
            assert min(float((ours - theirs).abs().max()) for theirs in candidates) < 1e-3
    assert versions >= {1, 2, 3, 4}

    # What is trained on is what was made, and the rewards logged are ours.
    made = {tuple(sample.input_ids): sample for sample in seen.samples}
    rewards = [
        [made[tuple(row["input_ids"])].metrics["reward"] for row in batch] for batch in seen.batches
    ]
    means = [sum(batch) / len(batch) for batch in rewards]
    # The trainer reads a batch ahead.
    expected = [(means[0] + means[1]) / 2, *means[2:7]]
    assert [entry["reward"] for entry in logged] == pytest.approx(expected, abs=1e-6)
    assert [entry["rewards/graded_total/mean"] for entry in logged] == pytest.approx(
        expected, abs=1e-6
    )
    assert local.calls == ["init", "destroy"]
    spec.close()


def test_failed_rollouts_give_no_sample_and_leave_the_others_advantages_alone(
    make_async: MakeTrainer, policy: TinyPolicy, sums: list[Task], seen: Seen
) -> None:
    local = LocalPolicy(policy)
    spec = trl_spec(Fragile, tasks=sums, way="async", generator=local)
    trainer = make_async(
        policy, {**spec.trainer_arguments(), "weight_transfer": local}, max_steps=2
    )
    trainer.train()
    for rollouts, samples in seen.groups:
        rewards = [r.reward for r in rollouts if r.reward is not None]
        if not rewards:
            continue
        assert [tuple(s.input_ids) for s in samples] == [
            (*r.segments[0].prompt_ids, *r.segments[0].completion_ids)
            for r in rollouts
            if r.reward is not None
        ]
        expected = (np.array(rewards) - np.mean(rewards)) / (np.std(rewards) + 1e-8)
        assert [s.advantage for s in samples] == pytest.approx(expected.tolist(), abs=1e-9)
    trained = {tuple(row["input_ids"]) for batch in seen.batches for row in batch}
    assert trained <= {tuple(s.input_ids) for s in seen.samples}
    logged = [entry for entry in trainer.state.log_history if "gym/failed" in entry]
    assert all(e["gym/failed"] == e.get("gym/failed/judge", 0.0) < 1 for e in logged)
    assert any(e["gym/failed"] > 0 for e in logged)
    assert any(r.reward is None for r in seen.rollouts)
    spec.close()


def test_a_template_that_rewrites_history_gives_a_sample_a_segment(
    make_async: MakeTrainer, policy: TinyPolicy, sums: list[Task], seen: Seen
) -> None:
    # A question loses a blank once it is not the newest message any more.
    template = policy.tokenizer.chat_template
    end = "text(message.content) + '<|im_end|>\\n' -}}\n{%- endif -%}\n{%- endfor"
    assert template.count(end) == 1
    shown = template.replace(end, end.replace("+", "+ (' ' if loop.last else '') +", 1))
    policy = replace(policy, tokenizer=copy.deepcopy(policy.tokenizer))
    policy.tokenizer.chat_template = shown
    local = LocalPolicy(policy)
    spec = trl_spec(AsksBack, tasks=sums, way="async", generator=local)
    trainer = make_async(
        policy, {**spec.trainer_arguments(), "weight_transfer": local}, max_steps=2
    )
    gaps = Gaps(trainer)
    trainer.train()
    several = [r for r in seen.rollouts if len(r.segments) > 1]
    assert several
    for rollouts, samples in seen.groups:
        segments = [segment for r in rollouts for segment in r.segments]
        assert [
            (
                tuple(s.input_ids),
                [x for x, m in zip(s.input_ids, s.completion_mask, strict=True) if m],
            )
            for s in samples
        ] == [((*g.prompt_ids, *g.completion_ids), g.sampled_ids) for g in segments]
        owners = [r for r in rollouts for _ in r.segments]
        advantages = dict(zip(map(id, owners), [s.advantage for s in samples], strict=True))
        assert [advantages[id(owner)] for owner in owners] == [s.advantage for s in samples]
        # TRL's mean is one over rollouts.
        assert sum("reward" in s.metrics for s in samples) == len(rollouts)
    assert gaps.steps[0] < 1e-3
    spec.close()
