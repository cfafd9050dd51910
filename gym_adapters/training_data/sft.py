"""Rows for supervised fine-tuning: what the policy itself wrote, in its context."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import orjson

from gym_adapters.errors import Unsupported
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment
from gym_adapters.training_data.chat_rows import Dialect, chat_of

__all__ = ["IGNORED", "SftShape", "sft_row", "token_row", "token_rows", "with_tools"]

IGNORED = -100
"""Label of a token that is not trained on: PyTorch's `ignore_index`."""

Row = dict[str, Any]


class SftShape(StrEnum):
    """``prompt-completion`` keeps apart what was given and what followed; ``messages`` does not.

    TRL trains on every assistant message of ``messages``, also on those the prompt came with.
    """

    PROMPT_COMPLETION = "prompt-completion"
    MESSAGES = "messages"


def sft_row(
    rollout: Rollout,
    dialect: Dialect = Dialect.TRL,
    shape: SftShape = SftShape.PROMPT_COMPLETION,
    *,
    drop_thinking: bool = False,
) -> tuple[Row, bool]:
    """One row, and whether thinking was dropped that the dialect can't hold.

    Args:
        rollout: The rollout.
        dialect: Whose messages; all but TRL take ``messages`` only.
        shape: See `SftShape`; ignored where there is only one.
        drop_thinking: Leave out what the model thought.

    Raises:
        Unsupported: If the dialect can't hold it.
    """
    if dialect is Dialect.NEMO_RL:
        raise Unsupported("NeMo RL reads OpenAI's chat format for SFT. Fix: --format openai")
    chat = chat_of(rollout, dialect, drop_thinking=drop_thinking)
    if dialect is Dialect.TRL and shape is SftShape.PROMPT_COMPLETION:
        row: Row = {"prompt": chat.prompt, "completion": chat.completion}
    else:
        row = {"messages": [*chat.prompt, *chat.completion]}
    return with_tools(row, chat.tools, dialect), chat.dropped_thinking


def token_rows(rollout: Rollout) -> Iterator[Row]:
    """One row of token ids and labels a segment: nothing is rendered again.

    Raises:
        Unsupported: If the rollout has no tokens.
    """
    if not rollout.segments:
        raise Unsupported("no token ids: the model gave none")
    for segment in rollout.segments:
        yield token_row(segment)


def token_row(segment: Segment) -> Row:
    """``input_ids`` and ``labels``, both as long as prompt and completion together."""
    labels = [
        token if sampled else IGNORED
        for token, sampled in zip(segment.completion_ids, segment.mask, strict=True)
    ]
    return {
        "input_ids": [*segment.prompt_ids, *segment.completion_ids],
        "labels": [IGNORED] * len(segment.prompt_ids) + labels,
    }


def with_tools(row: Row, tools: list[dict[str, Any]] | None, dialect: Dialect) -> Row:
    """`row` with its tools, where there are any; for TRL as JSON text.

    Arrow gives every row the properties of all the others' schemas, and TRL reads text as well.
    """
    if tools is None:
        return row
    return {**row, "tools": orjson.dumps(tools).decode() if dialect is Dialect.TRL else tools}
