"""The native path's dataset and processor, as NeMo RL loads them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.adapters.nemo_rl.rows import GYM, RowIdentity
from gym_adapters.adapters.nemo_rl.survivors import TASK_ID
from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidRow
from gym_adapters.extras import require
from gym_adapters.items import FunctionTool
from gym_adapters.registry import load_environment
from gym_adapters.task import Task, read_rows

__all__ = ["GymDataset", "gym_processor", "prompt_of"]


class GymDataset:
    """Rows of `nemo_rl_rows(native=True)`; named by its dotted path in ``data.train.dataset_name``.

    Args:
        data_path: JSONL file.
        template_kwargs: Variables for the chat template: the same as in ``env.gym``.

    Raises:
        InvalidRow: If a row is not one of ours.
        MissingExtra: Without datasets.
    """

    def __init__(
        self, data_path: str, template_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        datasets = require("datasets", "nemo-rl", "a dataset for NeMo RL")
        self.task_name = f"gym-{Path(data_path).stem}"
        texts: list[str] = []
        for line, row in read_rows(data_path):
            try:
                RowIdentity.of_row(row)
            except InvalidRow as error:
                raise error.at(data_path, line) from None
            texts.append(row[GYM])
        kwargs = orjson.dumps(template_kwargs or {}).decode()
        self.dataset = datasets.Dataset.from_dict(
            {
                GYM: texts,
                "template_kwargs": [kwargs] * len(texts),
                "task_name": [self.task_name] * len(texts),
            }
        )
        self.val_dataset = None
        self.preprocessor = None
        self.data_config: Any = None
        self.task_spec: Any = None
        self.processor: Any = None

    def set_task_spec(self, data_config: Any) -> None:
        """Take NeMo RL's settings of the dataset; prompt files are not used."""
        from nemo_rl.data.interfaces import TaskDataSpec

        self.data_config = data_config
        self.task_spec = TaskDataSpec(task_name=self.task_name)

    def set_processor(self) -> None:
        """Use `gym_processor`, whatever the settings say."""
        self.processor = gym_processor


def gym_processor(
    datum_dict: dict[str, Any],
    task_data_spec: Any,
    tokenizer: Any,
    max_seq_length: int | None,
    idx: int,
) -> dict[str, Any]:
    """One row as NeMo RL's ``DatumSpec``: its prompt in tokens, and its identity as metadata.

    A prompt longer than `max_seq_length` is left out of the loss.
    """
    import torch

    identity = RowIdentity.of_row(datum_dict)
    kwargs = datum_dict.get("template_kwargs") or "{}"
    task, tools = prompt_of(identity)
    ids = _renderer(tokenizer, kwargs).prompt_ids(task.input, tools)
    fits = max_seq_length is None or len(ids) < max_seq_length
    if not fits:
        ids = ids[: min(4, max_seq_length or 4)]
    message = {
        "role": "user",
        "content": tokenizer.decode(ids, skip_special_tokens=False),
        "token_ids": torch.tensor(ids, dtype=torch.int64),
    }
    return {
        "message_log": [message],
        "length": len(ids),
        "extra_env_info": {GYM: datum_dict[GYM], TASK_ID: task.task_id},
        "loss_multiplier": 1.0 if fits else 0.0,
        "idx": idx,
        "task_name": datum_dict["task_name"],
    }


def prompt_of(identity: RowIdentity) -> tuple[Task, list[FunctionTool]]:
    """The task of a row, and the tools its prompt shows: those of a fresh instance.

    Raises:
        InvalidRow: If the row is bad.
    """
    entry = load_environment(identity.environment)
    task = entry.environment.task_type.from_row(identity.row)
    instance: Environment[Any] = entry.environment(task, config=entry.config(identity.overrides))
    return task, [tool.declaration() for tool in instance.available_tools()]


@lru_cache(maxsize=8)
def _renderer(tokenizer: Any, template_kwargs: str) -> Any:
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    return TemplateRenderer(tokenizer, template_kwargs=orjson.loads(template_kwargs) or None)
