from __future__ import annotations

from typing import Any

import pytest

from gym_adapters import InvalidConfig
from gym_adapters.adapters.unsloth import UnslothConfig


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": ""}, "model must name"),
        ({"max_seq_length": 0}, "max_seq_length"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization"),
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization"),
        ({"target_modules": ()}, "target_modules"),
        ({"dtype": "int8"}, "dtype must be one of auto"),
        ({"gradient_checkpointing": "yes"}, "gradient_checkpointing must be one of unsloth"),
        ({"loader": "hub"}, "loader must be one of"),
        ({"loader": "peft"}, "neither 4 bits nor a shared engine"),
        ({"loader": "peft", "fast_inference": False, "load_in_4bit": True}, "neither 4 bits"),
        ({"model_arguments": {"trust_remote_code": True}}, "trust_remote_code"),
        ({"model_arguments": {"full_finetuning": True}}, "full_finetuning"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidConfig, match=named):
        UnslothConfig(**{"model": "some/model", **wrong})


def test_lists_of_a_recipe_are_taken() -> None:
    targets: Any = ["q_proj", "v_proj"]
    assert UnslothConfig(model="m", target_modules=targets).target_modules == ("q_proj", "v_proj")
