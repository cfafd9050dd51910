from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from gym_adapters import InvalidConfig, Task, Unsupported
from gym_adapters.adapters.trl import rollouts
from gym_adapters.adapters.unsloth import (
    SharedEngine,
    UnslothConfig,
    UnslothPolicy,
    grpo_trainer,
    load_policy,
    sft_trainer,
    unsloth_spec,
)
from gym_adapters.adapters.unsloth.config import PROJECTIONS
from gym_adapters.adapters.unsloth.trainers import check_trainer
from gym_adapters.rollout import Rollout


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def frozen(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}


def logprobs_of(model: Any, rollout: Rollout) -> list[float]:
    (segment,) = rollout.segments
    ids = torch.tensor([[*segment.prompt_ids, *segment.completion_ids]])
    with torch.no_grad():
        scores = model(ids).logits[0].log_softmax(-1)
    start = len(segment.prompt_ids) - 1
    return [
        float(scores[start + place, token])
        for place, token in enumerate(segment.completion_ids)
        if segment.mask[place]
    ]


def furthest(model: Any, batch: list[Rollout]) -> float:
    gaps = []
    for rollout in batch:
        (segment,) = rollout.segments
        told = [p for p, m in zip(segment.logprobs or (), segment.mask, strict=True) if m]
        scored = logprobs_of(model, rollout)
        gaps += [abs(a - b) for a, b in zip(told, scored, strict=True)]
    return max(gaps)


def test_grpo_samples_from_the_adapters_and_trains_them_alone(
    config: UnslothConfig,
    settings: dict[str, Any],
    graded: type[Any],
    sums: list[Task],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = load_policy(config)
    gaps: list[tuple[float, float]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        newest = furthest(policy.model, batch)
        with policy.model.disable_adapter():
            gaps.append((newest, furthest(policy.model, batch)))
        return original(batch, **options)

    monkeypatch.setattr(rollouts, "rollout_columns", kept)
    with torch.no_grad():
        # As after some training: a fresh adapter adds nothing to the base.
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    adapters, base = trained(policy.model), frozen(policy.model)
    trainer = grpo_trainer(
        policy,
        unsloth_spec(graded, tasks=sums),
        {**settings, "num_generations": 4, "max_completion_length": 160},
    )
    trainer.train()
    assert [newest < 1e-3 < apart for newest, apart in gaps] == [True, True], gaps
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert all(entry["grad_norm"] > 0 for entry in history)
    assert all(not torch.equal(adapters[n], w) for n, w in trained(policy.model).items())
    assert all(torch.equal(base[n], w) for n, w in frozen(policy.model).items())


def test_sft_on_token_rows_lowers_the_loss_and_leaves_an_adapter(
    config: UnslothConfig, settings: dict[str, Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    policy = load_policy(config)
    ids = [policy.tokenizer.encode(f"{n} + {n} = {2 * n}") for n in range(10, 26)]
    rows = [{"input_ids": row, "labels": [-100, *row[1:]]} for row in ids]
    trainer = sft_trainer(
        policy,
        Dataset.from_list(rows),
        {**settings, "max_steps": 12, "learning_rate": 3e-2},
        eval_dataset=Dataset.from_list(rows),
    )
    assert trainer.args.max_length == 512
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.5
    trainer.save_model(str(tmp_path / "adapter"))
    again = PeftModel.from_pretrained(
        type(policy.model.base_model.model).from_pretrained(config.model), tmp_path / "adapter"
    )
    assert set(again.peft_config["default"].target_modules) == set(PROJECTIONS)
    for name, weight in again.state_dict().items():
        if "lora_" in name:
            assert torch.equal(weight, policy.model.state_dict()[name])


def test_only_our_own_loop_needs_the_shared_engine(sums: list[Task]) -> None:
    spec = unsloth_spec("arithmetic_tools", tasks=sums)
    assert spec.rollout_func is not None
    assert isinstance(spec.rollout_func._source, SharedEngine)
    tools = unsloth_spec("arithmetic_tools", tasks=sums, way="environment_factory")
    assert tools.rollout_func is None
    assert tools.environment_factory is not None


def test_settings_that_contradict_the_engine_are_refused(sums: list[Task]) -> None:
    model = SimpleNamespace(vllm_engine="engine", device=torch.device("cuda"))
    policy = UnslothPolicy(model, "tokenizer", UnslothConfig(model="m"))
    spec = unsloth_spec("arithmetic_tools", tasks=sums)
    with pytest.raises(InvalidConfig, match="vllm_mode='server'"):
        grpo_trainer(policy, spec, {"vllm_mode": "server"})


def test_a_gpu_without_a_shared_engine_is_refused_for_rollouts(sums: list[Task]) -> None:
    model = SimpleNamespace(device=torch.device("cuda"))
    policy = UnslothPolicy(model, "tokenizer", UnslothConfig(model="m", fast_inference=False))
    with pytest.raises(Unsupported, match="fast_inference=True"):
        grpo_trainer(policy, unsloth_spec("arithmetic_tools", tasks=sums), {})


class TakesRollouts:
    def __init__(self, rollout_func: object = None) -> None:
        self.rollout_func = rollout_func

    def compute_loss(self) -> str:
        return "tool_mask"


class Wrapped(TakesRollouts):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class DropsTheMask(TakesRollouts):
    def compute_loss(self) -> str:
        return "completion_mask"


class TakesNone:
    def compute_loss(self) -> str:
        return "tool_mask"


def test_a_rewritten_trainer_is_taken_where_it_kept_what_rollouts_need() -> None:
    from trl import GRPOTrainer

    check_trainer(GRPOTrainer)
    check_trainer(TakesRollouts)
    check_trainer(Wrapped)


@pytest.mark.parametrize(
    ("trainer", "lacks"),
    [(DropsTheMask, "knows no mask of tool results"), (TakesNone, "takes no rollout_func")],
)
def test_a_rewritten_trainer_that_lost_it_is_refused(trainer: type[Any], lacks: str) -> None:
    with pytest.raises(Unsupported, match=rf"{lacks}.*pip install --upgrade"):
        check_trainer(trainer)
