"""Both paths through NeMo RL's own rollout functions, with real Ray actors."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import in_process
import pytest
import torch
from scripted_policy import kind_of, said

from gym_adapters import Task, load_environment
from gym_adapters.adapters.nemo_rl import launcher
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows, write_nemo_rl_rows
from gym_adapters.adapters.nemo_rl.spinup import spinup_rollout_actor
from gym_adapters.adapters.nemo_rl.survivors import SCORED_ROLE, TASK_ID
from gym_adapters.rollout import Rollout
from gym_adapters.testing.nemo_rl_server import NemoChatServer

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(400),
    # NeMo RL's and Ray's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GENERATIONS = 4


@pytest.fixture(scope="module")
def registered(nemo_rl: Any) -> Any:
    for name in ("nemo_rl.algorithms.grpo", "nemo_rl.data.processors"):
        nemo_rl.quietly(name)
    launcher.register()
    launcher.register()
    return nemo_rl


@pytest.fixture(scope="module")
def cluster(registered: Any) -> Iterator[Any]:
    """A small Ray; its sockets need a short path, and its workers this process's modules."""
    import ray

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    paths = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *([before] if before else [])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 1024**2,
            _temp_dir=folder,
            log_to_driver=False,
            configure_logging=False,
        )
    yield ray
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def exact_batch(registered: Any, sums: list[Task], tmp_path: Path) -> Callable[[], Any]:
    """The rows as NeMo RL's own dataset and processor for NeMo Gym make them."""
    path = tmp_path / "train.jsonl"
    write_nemo_rl_rows(nemo_rl_rows("arithmetic_tools", sums), path)

    def made() -> Any:
        processors = registered.quietly("nemo_rl.data.processors")
        collate = registered.quietly("nemo_rl.data.collate_fn").rl_collate_fn
        data = [
            processors.nemo_gym_data_processor(
                {"extra_env_info": line, "task_name": "train"}, None, None, None, index
            )
            for index, line in enumerate(path.read_text().splitlines())
        ]
        return collate(data).repeat_interleave(GENERATIONS)

    return made


@pytest.fixture
def own_server(registered: Any, tokenizer: Any) -> Iterator[NemoChatServer]:
    """Joins prefix and template by NeMo RL's own function."""
    utils = registered.quietly("nemo_rl.models.generation.openai_server_utils")
    with NemoChatServer(
        tokenizer, partial(said, tokenizer), utils.replace_prefix_tokens
    ) as running:
        yield running


def rolled_out(
    nemo_rl: Any, cluster: Any, server: NemoChatServer, tokenizer: Any, batch: Any
) -> Any:
    from stub_generation import StubGeneration

    rollouts = nemo_rl.quietly("nemo_rl.experience.rollouts")
    generation = StubGeneration(tokenizer, {})
    actor = spinup_rollout_actor({"nemo_gym": {}}, [server.url], "policy", tokenizer=tokenizer)
    try:
        return rollouts.run_nemo_gym_rollout_sync(
            policy_generation=generation,
            input_batch=batch,
            tokenizer=tokenizer,
            task_to_env={"nemo_gym": actor},
            generation_config=generation.cfg,
            log_full_result_tables=False,
            max_seq_len=4096,
        )
    finally:
        cluster.get(actor.shutdown.remote())
        cluster.kill(actor)


def trained_on(nemo_rl: Any, batch: Any) -> list[tuple[list[int], list[int], list[float]]]:
    """Ids, loss mask and log-probabilities of each sample, as NeMo RL builds tensors from."""
    grpo = nemo_rl.quietly("nemo_rl.algorithms.grpo")
    grpo.add_grpo_token_loss_masks_and_generation_logprobs(batch["message_log"])
    samples = []
    for log in batch["message_log"]:
        joined = [torch.cat([m[key] for m in log]).tolist() for key in TRAINED]
        samples.append((joined[0], [int(m) for m in joined[1]], joined[2]))
    return samples


TRAINED = ("token_ids", "token_loss_mask", "generation_logprobs")


def expected_of(rollout: Rollout) -> tuple[list[int], list[int], list[float]]:
    (segment,) = rollout.segments
    read = len(segment.prompt_ids)
    return (
        [*segment.prompt_ids, *segment.completion_ids],
        [0] * read + list(segment.mask),
        [0.0] * read + list(segment.logprobs),
    )


def test_the_exact_path_trains_on_the_tokens_masks_logprobs_and_rewards_of_our_agent(
    registered: Any,
    cluster: Any,
    own_server: NemoChatServer,
    tokenizer: Any,
    sums: list[Task],
    exact_batch: Callable[[], Any],
) -> None:
    result = rolled_out(registered, cluster, own_server, tokenizer, exact_batch())
    tasks = [task for task in sums for _ in range(GENERATIONS)]
    rollouts = asyncio.run(in_process.rollouts(tokenizer, "arithmetic_tools", tasks))
    batch = result.final_batch
    assert trained_on(registered, batch) == [expected_of(rollout) for rollout in rollouts]
    assert batch["total_reward"].tolist() == [rollout.reward for rollout in rollouts]
    assert len(set(batch["total_reward"].tolist())) == 2
    assert not batch["mask_sample"].any()
    assert result.rollout_metrics["arithmetic_tools/failed/mean"] == 0.0


@pytest.fixture
def native(
    registered: Any, tokenizer: Any, tmp_path: Path
) -> Callable[..., tuple[Any, dict[str, Any], Any, dict[str, Task]]]:
    """Batch, environments, generation, and tasks by name, made as NeMo RL makes them."""

    def made(**settings: Any) -> tuple[Any, dict[str, Any], Any, dict[str, Task]]:
        from stub_generation import StubGeneration

        environment = load_environment("arithmetic_tools").environment
        tasks = list(environment.generate_tasks(4, seed=5, difficulty=0.0))
        path = tmp_path / "native.jsonl"
        write_nemo_rl_rows(nemo_rl_rows("arithmetic_tools", tasks, native=True), path)
        tokenizer.save_pretrained(tmp_path / "policy")
        datasets = registered.quietly("nemo_rl.data.datasets.response_datasets")
        data = datasets.load_response_dataset(
            {"dataset_name": launcher.DATASET, "data_path": str(path), "env_name": "gym"}
        )
        collate = registered.quietly("nemo_rl.data.collate_fn").rl_collate_fn
        batch = collate(
            [
                data.processor(row, data.task_spec, tokenizer, 2000, index)
                for index, row in enumerate(data.dataset)
            ]
        )
        config = {
            "tokenizer": str(tmp_path / "policy"),
            "max_turns": 4,
            "max_tokens": 1000,
            "max_new_tokens": 200,
            **settings,
        }
        actor = registered.quietly("nemo_rl.environments.utils").create_env("gym", config)
        names = named(tasks)
        prompts = [tuple(log[0]["token_ids"].tolist()) for log in batch["message_log"]]
        generation = StubGeneration(tokenizer, dict(zip(prompts, names, strict=True)))
        return batch, {data.task_name: actor}, generation, names

    return made


def named(tasks: Sequence[Task]) -> dict[str, Task]:
    """A name for each task, under which the policy does what it does nowhere else."""
    names: dict[str, str] = {}
    for number in range(100):
        names.setdefault(kind_of(f"0-{number}"), f"0-{number}")
    return dict(zip((names[kind] for kind in KINDS), tasks, strict=True))


KINDS = ("right", "wrong", "cut", "guess")


@pytest.mark.parametrize("path", ["sync", "async"])
def test_the_native_path_gives_the_rewards_of_our_agent_and_tells_where_tokens_differ(
    registered: Any,
    cluster: Any,
    tokenizer: Any,
    native: Callable[..., Any],
    path: str,
    record_property: Callable[[str, object], None],
) -> None:
    rollouts = registered.quietly("nemo_rl.experience.rollouts")
    batch, environments, generation, names = native()
    run = {
        "sync": rollouts.run_multi_turn_rollout,
        "async": rollouts.run_async_multi_turn_rollout,
    }[path]
    final, _ = run(
        policy_generation=generation,
        input_batch=batch,
        tokenizer=tokenizer,
        task_to_env=environments,
        max_seq_len=2000,
        max_rollout_turns=6,
    )
    ours = asyncio.run(
        in_process.rollouts(tokenizer, "arithmetic_tools", list(names.values()), names=list(names))
    )
    assert final["total_reward"].tolist() == [rollout.reward for rollout in ours]
    assert final["total_reward"].tolist() == [1.0, 0.0, 0.0, 0.0]
    samples = trained_on(registered, final)
    differing = [
        KINDS[row] for row, rollout in enumerate(ours) if samples[row][0] != expected_of(rollout)[0]
    ]
    record_property("token_differences", differing)
    # One token a byte: decoding and encoding again changes nothing.
    assert differing == []
    roles = [log[-1]["role"] for log in final["message_log"]]
    assert roles == [SCORED_ROLE] * 4
    assert [info[TASK_ID] for info in final["extra_env_info"]] == [
        task.task_id for task in names.values()
    ]
    for actor in environments.values():
        cluster.get(actor.shutdown.remote())
        cluster.kill(actor)


def test_a_native_sample_that_nemo_rl_cut_has_no_reward_and_leaves_the_loss(
    registered: Any, cluster: Any, tokenizer: Any, native: Callable[..., Any]
) -> None:
    rollouts = registered.quietly("nemo_rl.experience.rollouts")
    batch, environments, generation, _ = native()
    final, _ = rollouts.run_multi_turn_rollout(
        policy_generation=generation,
        input_batch=batch,
        tokenizer=tokenizer,
        task_to_env=environments,
        max_seq_len=2000,
        max_rollout_turns=1,
    )
    grpo = registered.quietly("nemo_rl.algorithms.grpo")
    # Only the guess, in its one turn, was answered to the end.
    assert grpo._apply_mask_sample_filter(final) == 3
    assert final["loss_multiplier"].tolist() == [0.0, 0.0, 0.0, 1.0]
    for actor in environments.values():
        cluster.get(actor.shutdown.remote())
        cluster.kill(actor)
