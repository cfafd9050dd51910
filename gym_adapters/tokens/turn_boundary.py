"""What a template writes after a sampled turn, and the proof that it may be appended.

The delta is found by rendering a short conversation whose last assistant turn ends in a marker, and
cutting the rendered text behind that turn. That is sound only where the template is *prefix
preserving* for the shape at hand: appending items must leave the text before them as it was, keep
all that the assistant wrote, and render the new items the same whatever came before. So every shape
is proved first, on stress conversations, and the proof is kept. A shape that fails the proof is
checked on the real conversation each time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from gym_adapters.errors import LedgerError, Unsupported
from gym_adapters.items import (
    FunctionCall,
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    item_text,
    reasoning,
    user_message,
)
from gym_adapters.tokens.chat_messages import is_assistant
from gym_adapters.tokens.chat_template import (
    ChatTemplate,
    TemplateRefuses,
    TemplateRewritesHistory,
)
from gym_adapters.tokens.stress_conversations import Stress, stress_conversations, traits_of

__all__ = ["Closing", "Delta", "Problem", "Proof", "Shape", "TurnBoundary"]


class Shape(NamedTuple):
    """What a proof depends on: calls in the sampled turn, and the kinds of the items after it."""

    calls: int
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closing:
    """How a sampled turn ends.

    Attributes:
        own: Text after the marker that still belongs to the sampled turn.
        ends: Control tokens that close the turn when they are the last one sampled.
        stops: Those that the policy is to stop at: what the template ends a conversation with.
            Fewer than `ends` where it ends an earlier turn in another way (gpt-oss: ``<|return|>``
            and ``<|end|>``, which also stands between thinking and answer).
    """

    own: str
    ends: frozenset[str]
    stops: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that follows a sampled turn, and the tokens that end such a turn."""

    text: str
    ends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A stress conversation that the template doesn't preserve, and what goes wrong."""

    conversation: Stress
    what: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of one shape.

    Attributes:
        closing: How the turn ends in the plainest conversation.
        problems: Stress conversations that failed; none means that the shape is proved.
    """

    closing: Closing
    problems: tuple[Problem, ...]

    def covers(self, history: Sequence[Item]) -> bool:
        """Whether the proof holds for `history` without looking at the real rendering."""
        if not self.problems:
            return True
        traits = traits_of(history)
        return not any(problem.conversation.traits <= traits for problem in self.problems)


@lru_cache(maxsize=64)
def _proofs_of(template_hash: str, eos_token_id: int | None) -> dict[Shape, Proof]:
    """What is proved of a template, whoever proved it: a trainer may make a renderer a rollout."""
    return {}


class TurnBoundary:
    """Deltas of one template. Proofs are kept by the template's hash, for the whole process."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._marker = f"GA{secrets.token_hex(8)}M"
        self._proofs = _proofs_of(template.hash, template.eos_token_id)

    def delta(
        self, history: Sequence[Item], new_items: Sequence[Item], tools: Sequence[FunctionTool]
    ) -> Delta:
        """What follows the sampled turn that ends `history`.

        Raises:
            TemplateRewritesHistory: If the template would render `history` differently now.
            TemplateRefuses: If the template can't express the conversation.
            Unsupported: If the template leaves new items out.
        """
        start = start_of_last_turn(history)
        turn = history[start:]
        calls = [item for item in turn if item["type"] == "function_call"]
        proof, calls = self._proof_for(calls, tuple(kind_of(item) for item in new_items))
        if proof.covers(history):
            after = self._after_marker([user_message("probe")], calls, new_items, ())
            return self._cut(after, proof.closing)
        head = history[:start]
        self._check_kept(head, turn, new_items, tools)
        after = self._after_marker(head, calls, new_items, tools)
        return self._cut(after, self._closing(head, calls, new_items, tools))

    def _proof_for(
        self, calls: list[FunctionCall], new: tuple[str, ...]
    ) -> tuple[Proof, list[FunctionCall]]:
        """The proof, and the calls to stand for the turn's.

        Some templates write one call a turn at most. What was sampled stays as it is all the same:
        the results are rendered as they are after the last call.
        """
        try:
            return self.proof(Shape(len(calls), new)), calls
        except TemplateRefuses:
            if len(calls) < 2:
                raise
        return self.proof(Shape(1, new)), calls[-1:]

    def proof(self, shape: Shape) -> Proof:
        """What is known of `shape`, proved on first use."""
        proof = self._proofs.get(shape)
        if proof is None:
            proof = self._proofs[shape] = self._prove(shape)
        return proof

    def _prove(self, shape: Shape) -> Proof:
        plainest, *others = stress_conversations(shape.calls, shape.new)
        calls = calls_of(plainest.turn)
        closing = self._closing(plainest.head, calls, plainest.new, ())
        expected = self._stress_delta(plainest, closing)
        problems = [Problem(plainest, what) for what in self._problems(plainest, expected, closing)]
        for stress in others:
            try:
                found = self._problems(stress, expected, closing)
            except TemplateRefuses:
                continue  # What the template refuses to render it doesn't rewrite.
            problems.extend(Problem(stress, what) for what in found)
        return Proof(closing, tuple(problems))

    def _problems(self, stress: Stress, expected: str, closing: Closing) -> list[str]:
        tools = stress.tools
        before = self._template.render(stress.head, tools)
        whole = self._template.render([*stress.head, *stress.turn, *stress.new], tools)
        if not whole.startswith(before):
            return ["what was rendered before the last assistant turn changes"]
        position = len(before)
        for name, word in stress.words:
            position = whole.find(word, position)
            if position < 0:
                if name in ("tool result", "message"):
                    self._refuse_lossy(stress, name)
                return [f"{name} is left out or moved"]
            position += len(word)
        delta = self._stress_delta(stress, closing)
        return [] if delta == expected else ["the new items are rendered differently"]

    def _refuse_lossy(self, stress: Stress, name: str) -> None:
        if stress.plainest:
            raise Unsupported(
                f"The chat template leaves a {name} out when it follows an assistant turn. Use a "
                "template that supports it: pass chat_template=."
            )

    def _stress_delta(self, stress: Stress, closing: Closing) -> str:
        after = self._after_marker(stress.head, calls_of(stress.turn), stress.new, stress.tools)
        return self._cut(after, closing).text

    def _check_kept(
        self,
        head: Sequence[Item],
        turn: Sequence[Item],
        new_items: Sequence[Item],
        tools: Sequence[FunctionTool],
    ) -> None:
        """Compare the real conversation with and without the new items."""
        before = self._template.render(head, tools)
        whole = self._template.render([*head, *turn, *new_items], tools)
        if not whole.startswith(before):
            raise TemplateRewritesHistory(
                "The chat template renders earlier turns differently now that new items follow."
            )
        rest = whole[len(before) :]
        # What is written may also stand elsewhere, thinking in the answer say; a word made up for
        # each place may not.
        words = [f"{self._marker}{number}M" for number in range(len(turn))]
        stand_in = [_reworded(item, word) for item, word in zip(turn, words, strict=True)]
        reworded = self._template.render([*head, *stand_in, *new_items], tools)
        for item, word in zip(turn, words, strict=True):
            text = self._template.control.escape(item_text(item).strip())
            if text and (text not in rest or word not in reworded):
                what = "thinking" if item["type"] == "reasoning" else "text"
                raise TemplateRewritesHistory(
                    f"The chat template drops or alters the assistant's {what} now that new items "
                    "follow."
                )

    def _after_marker(
        self,
        head: Sequence[Item],
        calls: Sequence[FunctionCall],
        new_items: Sequence[Item],
        tools: Sequence[FunctionTool],
        *,
        generation_prompt: bool = True,
    ) -> str:
        """Rendered text behind the marker that ends a stand-in for the sampled turn."""
        turn = self._marked_turn(calls)
        items = [*head, *turn, *new_items]
        text = self._template.render(items, tools, generation_prompt=generation_prompt)
        _, marker, after = text.rpartition(self._marker)
        if not marker:
            raise TemplateRefuses(
                "The chat template leaves out an assistant turn "
                + (f"of {len(calls)} tool calls." if calls else "of text.")
            )
        return after

    def _marked_turn(self, calls: Sequence[FunctionCall]) -> list[Item]:
        if not calls:
            return [assistant_message(self._marker)]
        arguments = ['{"probe": "0"}'] * (len(calls) - 1) + [f'{{"probe": "{self._marker}"}}']
        return [
            function_call(call["name"], text, call["call_id"])
            for call, text in zip(calls, arguments, strict=True)
        ]

    def _cut(self, after: str, closing: Closing) -> Delta:
        if after.startswith(closing.own):
            return Delta(after[len(closing.own) :], closing.ends)
        # A call's id or name may stand behind its arguments. Control tokens still come in order.
        control = self._template.control
        inner = len(control.controls(closing.own))
        end = next(islice(control.matches(after), inner, None), None)
        if end is None or end[0] not in closing.ends:
            raise LedgerError("The chat template ends this turn in a way it was not seen to end.")
        return Delta(after[end.start() :], closing.ends)

    def _closing(
        self,
        head: Sequence[Item],
        calls: Sequence[FunctionCall],
        new_items: Sequence[Item],
        tools: Sequence[FunctionTool],
    ) -> Closing:
        """Where the sampled turn's own text stops, by comparing a last turn with an earlier one."""
        earlier = self._after_marker(head, calls, new_items, tools)
        last = self._after_marker(head, calls, (), tools, generation_prompt=False)
        control = self._template.control
        shared = _shared_length(earlier, last)
        per_call = self._written_per_call(head, calls, tools)
        ends = [m for m in control.controls(last) if m.end() <= shared and m[0] not in per_call]
        if ends:
            eos = [m for m in ends if control.ids[m[0]] == self._template.eos_token_id]
            end = (eos or ends)[-1]
            return Closing(last[: end.start()], frozenset({end[0]}), frozenset({end[0]}))
        for match in (*control.controls(last), *control.controls(earlier)):
            if match.start() < shared < match.end():
                shared = match.start()
        plain = self._after_marker(head, (), (), tools, generation_prompt=False)
        if plain and last.endswith(plain):
            shared = min(shared, len(last) - len(plain))
        now, later = self._control_at(last, shared), self._control_at(earlier, shared)
        return Closing(last[:shared], now | later, now or later)

    def _control_at(self, text: str, position: int) -> frozenset[str]:
        match = self._template.control.first_control(text, position)
        return frozenset({match[0]} if match and match.start() == position else ())

    def _written_per_call(
        self, head: Sequence[Item], calls: Sequence[FunctionCall], tools: Sequence[FunctionTool]
    ) -> set[str]:
        """Control tokens that belong to a call, not to a turn: one more call has one more."""
        if not calls:
            return set()
        control = self._template.control
        more = [*calls, function_call(calls[-1]["name"], "{}", calls[-1]["call_id"])]
        try:
            one_more = self._template.render(
                [*head, *self._marked_turn(more)], tools, generation_prompt=False
            )
        except TemplateRefuses:
            return set()
        as_is = self._template.render(
            [*head, *self._marked_turn(calls)], tools, generation_prompt=False
        )
        counts = [m[0] for m in control.controls(as_is)]
        return {
            text
            for text in {m[0] for m in control.controls(one_more)}
            if sum(m[0] == text for m in control.controls(one_more)) > counts.count(text)
        }


def _reworded(item: Item, word: str) -> Item:
    """What stands for thinking or a message, saying `word`; an empty one or a call stays as is."""
    if not item_text(item).strip():
        return item
    if item["type"] == "reasoning":
        return reasoning(word)
    return assistant_message(word) if item["type"] == "message" else item


def _shared_length(one: str, other: str) -> int:
    """How many characters two texts start with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def start_of_last_turn(history: Sequence[Item]) -> int:
    """Where the trailing assistant items of `history` start. Linear in those alone."""
    start = len(history)
    while start and is_assistant(history[start - 1]):
        start -= 1
    return start


def calls_of(turn: Sequence[Item]) -> list[FunctionCall]:
    """The tool calls of one turn."""
    return [item for item in turn if item["type"] == "function_call"]


def kind_of(item: Item) -> str:
    """``tool`` for a tool result, the role for a message, ``assistant`` for what it wrote."""
    if item.get("type") == "function_call_output":
        return "tool"
    if is_assistant(item):
        return "assistant"
    return str(item.get("role", "user"))
