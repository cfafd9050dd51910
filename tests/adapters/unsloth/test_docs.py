"""What the page on Unsloth says to type works as typed, on a model that fits a CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import Task
from gym_adapters.testing.tiny_model import TinyPolicy

PAGE = Path(__file__).resolve().parents[3] / "docs" / "unsloth.md"
# What a CPU can't do, and how long a reader's own training takes.
FITTING = {
    'model="Qwen/Qwen3-4B", load_in_4bit=True': 'model=MODEL, loader="peft"',
    "lora_rank=32": "lora_rank=8, fast_inference=False",
    '"output_dir": "out", "max_steps": 1': '"output_dir": "./out", "max_steps": 1',
    '"output_dir": "out"': '"output_dir": "out", "max_steps": 1, "use_cpu": True, "bf16": False',
    '"max_completion_length": 2048': '"max_completion_length": 32',
}


@pytest.mark.filterwarnings("default")
def test_every_block_runs(
    policy: TinyPolicy, sums: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    Path("train.jsonl").write_bytes(b"\n".join(orjson.dumps(task.to_row()) for task in sums))
    row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}
    Path("sft-tokens.jsonl").write_bytes(orjson.dumps(row))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        for written, fitting in FITTING.items():
            block = block.replace(written, fitting)
        names: dict[str, Any] = {"MODEL": str(policy.model_path)}
        exec(compile(block, "docs/unsloth.md", "exec"), names)
        assert names["trainer"].state.global_step == 1
    assert Path("adapter/adapter_model.safetensors").is_file()
