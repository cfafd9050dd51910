"""What TRL's own trainers make of the files: the tokens and masks that the ledger holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra gym-adapters[trl]")

from gym_adapters import Rollout, Task, load_environment
from gym_adapters.testing import TinyPolicy, tiny_policy
from gym_adapters.training_data.curriculum import Curriculum, CurriculumRule, iterable_dataset
from gym_adapters.training_data.export import Export, export_kto, export_pairs, export_sft
from gym_adapters.training_data.replay_buffer import Priority, ReplayBuffer
from gym_adapters.training_data.selection import Selection
from gym_adapters.training_data.sft import IGNORED, SftShape

MakeRun = Callable[..., Path]
Weights = dict[str, Any]


@pytest.fixture(scope="module")
def policy() -> TinyPolicy:
    return tiny_policy(size="small")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


@pytest.fixture
def run(make_run: MakeRun, sampled: list[Rollout]) -> Path:
    return make_run(*sampled)


def loaded(path: Path, tmp_path: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )


def expected(rollout: Rollout) -> tuple[list[int], list[int]]:
    """Ids and labels by the ledger."""
    (segment,) = rollout.segments
    ids = [*segment.prompt_ids, *segment.completion_ids]
    mask = [0] * len(segment.prompt_ids) + list(segment.mask)
    return ids, [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)]


def weights_moved(trainer: Any, policy: TinyPolicy) -> bool:
    before = policy.load_model().state_dict()
    after = trainer.model.state_dict()
    return any(not before[name].equal(after[name].cpu()) for name in before)


@pytest.mark.parametrize("shape", list(SftShape))
def test_messages_are_masked_exactly_where_the_ledger_says_sampled(
    shape: SftShape,
    run: Path,
    sampled: list[Rollout],
    policy: TinyPolicy,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    from trl import SFTConfig, SFTTrainer

    export_sft(Export(run, tmp_path / "sft.jsonl"), shape=shape)
    trainer = SFTTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        train_dataset=loaded(tmp_path / "sft.jsonl", tmp_path),
        args=SFTConfig(assistant_only_loss=True, **settings),
    )
    rows = list(trainer.train_dataset)
    assert len(rows) == len(sampled) == 6
    for row, rollout in zip(rows, sampled, strict=True):
        ids, labels = expected(rollout)
        # A template ends the last turn with a newline, where the model had stopped.
        assert row["input_ids"][: len(ids)] == ids
        assert row["labels"][: len(ids)] == labels
        assert policy.tokenizer.decode(row["input_ids"][len(ids) :]) == "\n"
        assert row["labels"][len(ids) :] == [IGNORED]
    trainer.train()
    assert weights_moved(trainer, policy)


def test_token_rows_are_taken_as_they_are(
    run: Path,
    sampled: list[Rollout],
    policy: TinyPolicy,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    from trl import SFTConfig, SFTTrainer

    export_sft(Export(run, tmp_path / "sft.jsonl"), tokens=True)
    trainer = SFTTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        train_dataset=loaded(tmp_path / "sft.jsonl", tmp_path),
        args=SFTConfig(**settings),
    )
    rows = list(trainer.train_dataset)
    assert [(row["input_ids"], row["labels"]) for row in rows] == [
        expected(rollout) for rollout in sampled
    ]
    trainer.train()
    assert weights_moved(trainer, policy)


def test_pairs_train_with_dpo_from_the_turn_where_they_differ(
    run: Path,
    sampled: list[Rollout],
    policy: TinyPolicy,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    from trl import DPOConfig, DPOTrainer

    export_pairs(Export(run, tmp_path / "dpo.jsonl"))
    trainer = DPOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        train_dataset=loaded(tmp_path / "dpo.jsonl", tmp_path),
        args=DPOConfig(**settings),
    )
    for row, rollout in zip(trainer.train_dataset, sampled[::2], strict=True):
        ids, _ = expected(rollout)
        answer = policy.tokenizer(f"{rollout.row['expected_answer']}<|im_end|>\n")["input_ids"]
        wrong = policy.tokenizer("0<|im_end|>\n")["input_ids"]
        # The call and its result are alike in both attempts, so they are prompt.
        assert row["prompt_ids"] + row["chosen_ids"][:-1] == ids
        assert (row["chosen_ids"], row["rejected_ids"]) == (answer, wrong)
    trainer.train()
    assert weights_moved(trainer, policy)


def test_pairs_train_a_reward_model(
    run: Path, policy: TinyPolicy, settings: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    export_pairs(Export(run, tmp_path / "pairs.jsonl"), kind="reward-model")
    model = AutoModelForSequenceClassification.from_pretrained(
        policy.model_path, num_labels=1, dtype="float32"
    )
    trainer = RewardTrainer(
        model=model,
        processing_class=policy.tokenizer,
        train_dataset=loaded(tmp_path / "pairs.jsonl", tmp_path),
        args=RewardConfig(**settings),
    )
    assert len(trainer.train_dataset) == 3
    assert trainer.train().training_loss > 0.0


def test_kto_rows_train(
    run: Path, policy: TinyPolicy, settings: dict[str, Any], tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl.trainer.kto_trainer", reason="TRL keeps KTO elsewhere")
    from trl.trainer.kto_config import KTOConfig

    report = export_kto(Export(run, tmp_path / "kto.jsonl"))
    assert report.tally.notes == {"desirable": 3, "undesirable": 3}
    trainer = trl.KTOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        train_dataset=loaded(tmp_path / "kto.jsonl", tmp_path),
        args=KTOConfig(**settings),
    )
    assert [row["label"] for row in trainer.train_dataset] == [True, False] * 3
    trainer.train()
    assert weights_moved(trainer, policy)


def test_a_replay_buffer_feeds_a_trainer(
    sampled: list[Rollout], policy: TinyPolicy, settings: dict[str, Any], tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    buffer = ReplayBuffer(tmp_path / "buffer")
    for step, at in enumerate(range(0, 6, 2)):
        assert buffer.add_group(sampled[at : at + 2], step) == 2
    rng = random.Random(0)
    trainer = SFTTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        train_dataset=iterable_dataset(lambda: buffer.token_rows(4, rng, Priority.RECENCY)),
        args=SFTConfig(**settings),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert weights_moved(trainer, policy)


def test_a_curriculum_feeds_grpo_and_learns_from_its_rewards(
    policy: TinyPolicy, settings: dict[str, Any]
) -> None:
    from trl import GRPOConfig, GRPOTrainer

    environment = load_environment("arithmetic_tools").environment
    tasks = list(environment.generate_tasks(3, seed=0, difficulty=0.0))
    rows = [task.to_row() for task in tasks]
    solved = {tasks[0].task_id}
    rule = CurriculumRule(explore=0.5, revisit=0.0)
    curriculum = Curriculum({"arithmetic_tools": rows}, rule, seed=1)
    drawn: list[str] = []

    def stream() -> Iterator[Weights]:
        for each in curriculum:
            drawn.append(each.task_id)
            task = Task.from_row(each.row)
            yield {
                "prompt": [{"role": "user", "content": task.input[0]["content"]}],  # type: ignore[typeddict-item]
                "task_id": each.task_id,
            }

    def reward(completions: list[Any], task_id: list[str], **_: Any) -> list[float]:
        values = [
            float(task in solved and at % 2) for at, task in enumerate(task_id[: len(completions)])
        ]
        curriculum.record_batch(task_id, values)
        return values

    trainer = GRPOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        train_dataset=iterable_dataset(stream),
        args=GRPOConfig(num_generations=2, max_completion_length=4, **{**settings, "max_steps": 4}),
    )
    trainer.train()
    assert trainer.state.global_step == 4
    known = {task_id: curriculum.pass_rate(task_id) for task_id in set(drawn)}
    tried = {task_id: rate for task_id, rate in known.items() if rate is not None}
    assert tried
    assert all(rate == (0.5 if task_id in solved else 0.0) for task_id, rate in tried.items())


def test_a_curriculum_feeds_a_run_of_an_environment(
    policy: TinyPolicy, settings: dict[str, Any]
) -> None:
    from trl import GRPOConfig, GRPOTrainer

    from gym_adapters.adapters.trl import trl_dataset, trl_spec

    environment = load_environment("arithmetic_tools").environment
    tasks = list(environment.generate_tasks(8, seed=0, difficulty=0.0))
    rows = [task.to_row() for task in tasks]
    curriculum = Curriculum({"arithmetic_tools": rows}, CurriculumRule(explore=0.5, revisit=0.0))

    def stream() -> Iterator[dict[str, Any]]:
        for drawn in curriculum:
            (row,) = trl_dataset([Task.from_row(drawn.row)], row_in_prompt=True)
            yield {**row, "task_id": drawn.task_id}

    def learn(task_id: list[str], gym_reward: list[float | None], **_: Any) -> list[None]:
        curriculum.record_batch(task_id, gym_reward)
        return [None] * len(task_id)

    spec = trl_spec("arithmetic_tools", tasks=tasks, reward_funcs=[learn])
    trainer = GRPOTrainer(
        model=policy.load_model(),
        processing_class=policy.tokenizer,
        args=GRPOConfig(num_generations=2, max_completion_length=8, **settings),
        **{**spec.trainer_arguments(), "train_dataset": iterable_dataset(stream)},
    )
    trainer.train()
    assert trainer.state.global_step == 2
    rates = [curriculum.pass_rate(task.task_id) for task in tasks]
    # Noise solves nothing, and what was tried without any reward is not tried again.
    assert rates.count(0.0) == 2
    assert rates.count(None) == 6


def test_only_good_attempts_are_taken_for_sft(run: Path, tmp_path: Path) -> None:
    export = Export(run, tmp_path / "good.jsonl", Selection(min_reward=1.0))
    report = export_sft(export, tokens=True)
    assert report.rows == 3
    assert report.tally.left_out == {"reward below the least": 3}
