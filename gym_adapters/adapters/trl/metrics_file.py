"""What a trainer of transformers or TRL logs, as lines of JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson

from gym_adapters.rollouts.json_line import json_line

__all__ = ["metrics_callback"]


def metrics_callback(path: Path) -> Any:
    """A callback that appends a line to `path` for each log of the main process.

    A line holds ``step``, ``seconds`` since training began, and what was logged.
    """
    from transformers import TrainerCallback

    class MetricsFile(TrainerCallback):
        """Appends to the file."""

        def __init__(self) -> None:
            self._began = time.perf_counter()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # A run that goes on does the steps after its checkpoint again.
            if state.is_world_process_zero and path.is_file():
                _keep_until(path, int(state.global_step))

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            entry = {
                "step": int(state.global_step),
                "seconds": round(time.perf_counter() - self._began, 3),
                **(kwargs.get("logs") or {}),
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as lines:
                lines.write(json_line(entry))

    return MetricsFile()


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines of later steps, and one that was torn."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if entry["step"] <= step and step:
            kept.append(line)
    path.write_bytes(b"".join(kept))
