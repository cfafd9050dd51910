"""verl's own V1 worker, in this process and without Ray: what reaches TransferQueue is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs the extra gym-adapters[verl]")
pytest.importorskip("transfer_queue", reason="needs the extra gym-adapters[verl]")

from gym_adapters import Task
from gym_adapters.adapters.verl import verl_overrides, verl_rows
from gym_adapters.testing import TinyPolicy

PROMPT, RESPONSE = 128, 160


Script = Callable[[int, list[int]], str]
"""Given the number of the call and the prompt's ids, what the policy says."""


class StubServers:
    """verl's ``LLMServerClient``, with a script in place of a model.

    Not a dataclass: hydra would make a configuration of it.

    Args:
        tokenizer: Encodes what the script says.
        script: The policy.
        change: Applied to each output: for faults.

    Attributes:
        calls: Sampling parameters of each call.
        prompts: Context of each call.
    """

    def __init__(
        self, tokenizer: Any, script: Script, change: Callable[[Any], None] = lambda output: None
    ) -> None:
        self.tokenizer, self.script, self.change = tokenizer, script, change
        self.calls: list[dict[str, Any]] = []
        self.prompts: list[list[int]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        number = len(self.calls)
        self.calls.append(dict(sampling_params))
        self.prompts.append(list(prompt_ids))
        ids = self.tokenizer(self.script(number, prompt_ids))["input_ids"]
        ids = ids[: sampling_params["max_tokens"]]
        output = TokenOutput(
            token_ids=ids,
            log_probs=[-0.5] * len(ids),
            stop_reason="completed",
            extra_fields={"global_steps": 3, "min_global_steps": 3, "max_global_steps": 3},
        )
        await asyncio.sleep(0)
        self.change(output)
        return output


@dataclass
class Queue:
    """What was put into TransferQueue.

    Attributes:
        rows: Fields by key.
        tags: Tags by key, those of prompts included.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sessions(self) -> list[str]:
        return sorted(self.rows)

    def status(self, uid: str = "u0") -> str:
        return str(self.tags[uid]["status"])


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    import transfer_queue

    recorded = Queue()

    async def put(key: str, partition_id: str, tag: dict[str, Any], **_: Any) -> None:
        recorded.tags[key] = tag

    async def put_batch(
        keys: Sequence[str], fields: Any, tags: Sequence[dict[str, Any]], partition_id: str
    ) -> None:
        for position, key in enumerate(keys):
            recorded.tags[key] = tags[position]
            row = dict(fields[position].items())
            recorded.rows[key] = {name: getattr(it, "data", it) for name, it in row.items()}
            for name in ("responses", "prompts", "response_mask", "rollout_log_probs", "rm_scores"):
                recorded.rows[key][name] = row[name]

    monkeypatch.setattr(transfer_queue, "init", lambda *_: None)
    monkeypatch.setattr(transfer_queue, "async_kv_put", put)
    monkeypatch.setattr(transfer_queue, "async_kv_batch_put", put_batch)
    return recorded


@pytest.fixture(scope="session")
def verl_config(policy: TinyPolicy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """verl's whole configuration, as our overrides make it."""
    from gym_adapters.adapters.verl.launch import check_overrides

    return check_overrides(
        [
            *verl_overrides(
                "arithmetic_tools",
                model=policy.model_path,
                train_files="unused.parquet",
                group_size=4,
                batch_size=2,
                max_prompt_length=PROMPT,
                max_response_length=RESPONSE,
            ),
            "actor_rollout_ref.rollout.name=vllm",
        ]
    )


Run = Callable[..., Any]


@pytest.fixture
def run_prompts(verl_config: Any, queue: Queue, policy: TinyPolicy) -> Run:
    """Run the rollouts of some tasks through verl's worker; give what reached the queue."""
    from omegaconf import OmegaConf

    from gym_adapters.adapters.verl.manager import GymAgentLoopWorker

    async def run(
        tasks: Sequence[Task],
        servers: StubServers,
        *,
        environment: str = "arithmetic_tools",
        validate: bool = False,
        overrides: dict[str, Any] | None = None,
        **row_options: Any,
    ) -> Queue:
        config = OmegaConf.create(OmegaConf.to_container(verl_config, resolve=False))
        for key, value in (overrides or {}).items():
            OmegaConf.update(config, key.removeprefix("+"), value, force_add=key.startswith("+"))
        worker = GymAgentLoopWorker(config, servers, None, None)
        rows = verl_rows(environment, tasks, **row_options)
        await worker.generate_sequences(batch_of(rows, validate))
        await asyncio.gather(*worker.background_tasks)
        return queue

    return run


def batch_of(rows: Sequence[dict[str, Any]], validate: bool) -> Any:
    """Dataset rows as verl's trainer hands them to its worker."""
    import numpy as np
    from verl.utils import tensordict_utils

    columns: dict[str, Any] = {
        key: np.array([row[key] for row in rows] + [None], dtype=object)[:-1] for key in rows[0]
    }
    columns["raw_prompt"] = np.array([row["prompt"] for row in rows] + [None], dtype=object)[:-1]
    columns["uid"] = np.array([f"u{number}" for number in range(len(rows))], dtype=object)
    columns["index"] = np.array([row["extra_info"]["index"] for row in rows], dtype=object)
    batch = tensordict_utils.get_tensordict(columns)
    tensordict_utils.assign_non_tensor_data(batch, "global_steps", 4)
    tensordict_utils.assign_non_tensor_data(batch, "validate", validate)
    return batch


@pytest.fixture
def servers(policy: TinyPolicy) -> Callable[..., StubServers]:
    def make(script: Script, **options: Any) -> StubServers:
        return StubServers(policy.tokenizer, script, **options)

    return make


@pytest.fixture
def environment_folder(tmp_path: Path) -> Callable[[str], str]:
    """Writes an environment of one's own to a folder, and gives its name."""

    def write(source: str) -> str:
        folder = tmp_path / "own_environment"
        folder.mkdir()
        (folder / "environment.py").write_text(source, encoding="utf-8")
        return str(folder)

    return write
