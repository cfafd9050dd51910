"""Preferences from rewards: pairs of attempts at one task, and attempts called good or bad."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, takewhile
from typing import Any, NamedTuple

from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.rollout import Rollout
from gym_adapters.training_data.chat_rows import Chat, Dialect, Message, chat_of, plain_messages
from gym_adapters.training_data.near_duplicates import output_text
from gym_adapters.training_data.selection import sampled_tokens
from gym_adapters.training_data.sft import Row, with_tools
from gym_adapters.training_data.stored import Place

__all__ = ["Attempt", "PairFormat", "PairRule", "kto_row", "pair_row", "pairs"]


class PairFormat(StrEnum):
    """How a pair is written.

    ``trl``: prompt, chosen, rejected as messages, and tools. ``openai``: OpenAI's preference
    format. ``nemo-customizer``: messages as prompt, chosen and rejected as text.
    ``nemo-customizer-tulu3``: whole conversations. ``nemo-rl``: context and ranked completions.
    """

    TRL = "trl"
    OPENAI = "openai"
    NEMO_CUSTOMIZER = "nemo-customizer"
    NEMO_CUSTOMIZER_TULU3 = "nemo-customizer-tulu3"
    NEMO_RL = "nemo-rl"


_DIALECTS = {
    PairFormat.TRL: Dialect.TRL,
    PairFormat.OPENAI: Dialect.OPENAI,
    PairFormat.NEMO_CUSTOMIZER: Dialect.NEMO_CUSTOMIZER,
    PairFormat.NEMO_CUSTOMIZER_TULU3: Dialect.NEMO_CUSTOMIZER,
    PairFormat.NEMO_RL: Dialect.NEMO_RL,
}


@dataclass(frozen=True, slots=True)
class PairRule:
    """Which attempts at one task make a pair.

    Attributes:
        per_task: Most pairs of a task, those of the greatest margin; 1 is best against worst,
            ``None`` all there are.
        min_margin: Least difference of rewards. Equal rewards never make a pair.
        length_ratio: Most that the longer attempt may be as a multiple of the shorter, in sampled
            tokens (characters where those are unknown), so that length does not tell them apart.
    """

    per_task: int | None = 1
    min_margin: float = 0.0
    length_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.per_task is not None and self.per_task < 1:
            raise InvalidConfig(f"pairs of a task must be at least 1, not {self.per_task}")
        if not self.min_margin >= 0.0:
            raise InvalidConfig(f"a margin can't be {self.min_margin}")
        if self.length_ratio is not None and not self.length_ratio >= 1.0:
            raise InvalidConfig(f"a length ratio must be at least 1, not {self.length_ratio}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What choosing pairs needs to know of a rollout."""

    place: Place
    reward: float
    tokens: int
    characters: int

    @classmethod
    def of(cls, place: Place, rollout: Rollout) -> Attempt:
        """Of a scored rollout.

        Raises:
            ValueError: If it is unscored.
        """
        if rollout.reward is None:
            raise ValueError("an unscored rollout has no place in a pair")
        characters = len(output_text(rollout.output))
        return cls(place, rollout.reward, sampled_tokens(rollout), characters)


class Pair(NamedTuple):
    """The better attempt and the worse one."""

    chosen: Attempt
    rejected: Attempt


def pairs(attempts: Sequence[Attempt], rule: PairRule) -> list[Pair]:
    """Pairs among attempts at one task, the greatest margin first, then in the order given."""
    found = (
        Pair(*sorted(pair, key=lambda each: -each.reward)) for pair in combinations(attempts, 2)
    )
    good = [pair for pair in found if _fits(pair, rule)]
    limit = len(good) if rule.per_task is None else rule.per_task
    return heapq.nlargest(limit, good, key=lambda pair: pair.chosen.reward - pair.rejected.reward)


def pair_row(
    chosen: Rollout, rejected: Rollout, target: PairFormat, *, drop_thinking: bool = False
) -> Row:
    """One row of a pair.

    What both attempts have in common (the prompt, and turns that are alike, results and replies
    included) is the prompt; chosen and rejected begin with the first assistant turn that differs.
    Call ids don't count as a difference.

    Raises:
        Unsupported: If the two can't be told apart or compared, or the format can't hold them; the
            message is a short reason.
    """
    dialect = _DIALECTS[target]
    better = chat_of(chosen, dialect, drop_thinking=drop_thinking)
    worse = chat_of(rejected, dialect, drop_thinking=drop_thinking)
    if _bare(better.prompt) != _bare(worse.prompt):
        raise Unsupported("pair: prompts differ")
    if better.tools != worse.tools:
        raise Unsupported("pair: tools differ")
    shared = _shared(better.completion, worse.completion)
    prompt = [*better.prompt, *better.completion[:shared]]
    return _WRITERS[target](
        prompt, better.completion[shared:], worse.completion[shared:], better.tools
    )


def kto_row(rollout: Rollout, label: bool, *, drop_thinking: bool = False) -> Row:
    """One row for TRL's KTO: prompt and completion as messages, and whether it is desirable.

    Raises:
        Unsupported: If the rollout can't be told in messages.
    """
    chat: Chat = chat_of(rollout, Dialect.TRL, drop_thinking=drop_thinking)
    row = {"prompt": chat.prompt, "completion": chat.completion, "label": label}
    return with_tools(row, chat.tools, Dialect.TRL)


def _fits(pair: Pair, rule: PairRule) -> bool:
    margin = pair.chosen.reward - pair.rejected.reward
    if margin <= 0.0 or margin < rule.min_margin:
        return False
    if rule.length_ratio is None:
        return True
    lengths = (pair.chosen.tokens, pair.rejected.tokens)
    if not all(lengths):
        lengths = (pair.chosen.characters, pair.rejected.characters)
    return max(lengths) <= rule.length_ratio * min(lengths)


def _shared(a: Sequence[Message], b: Sequence[Message]) -> int:
    """How many messages both begin with, up to where an assistant turn of both differs."""
    bare_a, bare_b = _bare(a), _bare(b)
    if bare_a == bare_b:
        raise Unsupported("pair: attempts are identical")
    together = zip(bare_a, bare_b, strict=False)
    count = sum(1 for _ in takewhile(lambda both: both[0] == both[1], together))
    while count and not (_assistant_at(a, count) and _assistant_at(b, count)):
        count -= 1
    return count


def _assistant_at(messages: Sequence[Message], index: int) -> bool:
    return index < len(messages) and messages[index]["role"] == "assistant"


def _bare(messages: Sequence[Message]) -> list[Message]:
    """Messages without call ids, which differ between attempts and mean nothing."""
    return [
        {
            key: [call["function"] for call in value] if key == "tool_calls" else value
            for key, value in message.items()
            if key != "tool_call_id"
        }
        for message in messages
    ]


Tools = list[dict[str, Any]] | None


def _trl(prompt: list[Message], good: list[Message], bad: list[Message], tools: Tools) -> Row:
    return with_tools({"prompt": prompt, "chosen": good, "rejected": bad}, tools, Dialect.TRL)


def _openai(prompt: list[Message], good: list[Message], bad: list[Message], tools: Tools) -> Row:
    given: Row = {"messages": prompt}
    if tools is not None:
        given |= {"tools": tools, "parallel_tool_calls": True}
    one_each = "several messages: OpenAI's preferences hold one assistant message a side"
    return {
        "input": given,
        "preferred_output": [_only(good, one_each)],
        "non_preferred_output": [_only(bad, one_each)],
    }


def _customizer(prompt: list[Message], good: list[Message], bad: list[Message], _: Tools) -> Row:
    given, better, worse = map(plain_messages, (prompt, good, bad))
    one_each = "several messages: chosen and rejected are text (nemo-customizer-tulu3 takes them)"
    return {
        "prompt": given,
        "chosen": _only(better, one_each)["content"],
        "rejected": _only(worse, one_each)["content"],
    }


def _tulu3(prompt: list[Message], good: list[Message], bad: list[Message], _: Tools) -> Row:
    given, better, worse = map(plain_messages, (prompt, good, bad))
    if {better[-1]["role"], worse[-1]["role"]} != {"assistant"}:
        raise Unsupported("conversation that does not end with the assistant")
    return {"chosen": [*given, *better], "rejected": [*given, *worse]}


def _nemo_rl(prompt: list[Message], good: list[Message], bad: list[Message], _: Tools) -> Row:
    given, better, worse = map(plain_messages, (prompt, good, bad))
    return {
        "context": given,
        "completions": [{"rank": 0, "completion": better}, {"rank": 1, "completion": worse}],
    }


_WRITERS = {
    PairFormat.TRL: _trl,
    PairFormat.OPENAI: _openai,
    PairFormat.NEMO_CUSTOMIZER: _customizer,
    PairFormat.NEMO_CUSTOMIZER_TULU3: _tulu3,
    PairFormat.NEMO_RL: _nemo_rl,
}


def _only(messages: Sequence[Message], problem: str) -> Message:
    if len(messages) != 1:
        raise Unsupported(problem)
    return messages[0]
