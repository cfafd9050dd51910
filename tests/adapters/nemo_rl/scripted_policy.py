"""A policy for sums; what it says depends on its context and on the name of the rollout alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32


def kind_of(name: str) -> str:
    return ("right", "wrong", "cut", "guess")[crc32(name.encode()) % 4]


def said(tokenizer: Any, prompt_ids: Sequence[int], name: str) -> list[int]:
    """A turn: one call of the calculator, then an answer; a guess comes without the call."""
    text = tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
    kind = kind_of(name)
    result = re.search(r"<tool_response>\n(-?\d+)\n", text)
    if result is None and kind != "guess":
        sums = re.findall(r"-?\d+[-+*]-?\d+", text)
        call = json.dumps({"name": "calculate", "arguments": {"expression": sums[-1]}})
        return spelled(tokenizer, f"<tool_call>\n{call}\n</tool_call><|im_end|>")
    if kind == "cut":
        # A turn that its end-of-turn token does not end was cut.
        return spelled(tokenizer, "I will go on and on")
    number = result[1] if result is not None and kind == "right" else "-99999"
    return spelled(tokenizer, f"{number}<|im_end|>")


def spelled(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def logprobs(ids: Sequence[int]) -> list[float]:
    return [-(1 + (token + 3 * place) % 16) / 16 for place, token in enumerate(ids)]
