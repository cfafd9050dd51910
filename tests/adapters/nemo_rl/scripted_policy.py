"""A policy for sums that can be asked from anywhere: what it says depends on its context and a name."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32


def said(tokenizer: Any, prompt_ids: Sequence[int], name: str) -> list[int]:
    """A turn: one call of a calculator, then an answer, which is right, wrong or cut short."""
    text = tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
    kind = crc32(name.encode()) % 4
    if "<tool_response>" not in text and kind != 3:
        numbers = [int(n) for n in re.findall(r"\d+", text)][-2:]
        call = json.dumps({"name": "add", "arguments": dict(zip("ab", numbers, strict=False))})
        spoken = f"<tool_call>\n{call}\n</tool_call><|im_end|>"
    else:
        # A turn that its end-of-turn token does not end was cut.
        spoken = f"The answer is {kind}." + ("" if kind == 2 else "<|im_end|>")
    ids = list(tokenizer.encode(spoken, add_special_tokens=False))
    return ids


def logprobs(ids: Sequence[int]) -> list[float]:
    return [-(1 + (token + 3 * place) % 16) / 16 for place, token in enumerate(ids)]
