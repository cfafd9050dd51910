"""Short conversations that bring out how a chat template treats what came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gym_adapters.items import (
    FunctionTool,
    Item,
    Role,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
    user_message,
)
from gym_adapters.tokens.chat_messages import is_assistant

__all__ = ["PROBE_TOOL", "Stress", "stress_conversations", "traits_of"]

PROBE_TOOL: FunctionTool = {
    "type": "function",
    "name": "probe",
    "description": "A probe.",
    "parameters": {
        "type": "object",
        "properties": {"probe": {"type": "string", "description": "Any."}},
        "required": ["probe"],
    },
}


@dataclass(frozen=True, slots=True)
class Stress:
    """A conversation in which `new` follows the assistant's `turn`.

    Attributes:
        name: What is special about it.
        head: Items before the turn.
        turn: The assistant's turn.
        new: Items after it.
        words: What must be found after `head`, in this order: what it is, and the word.
        tools: Tools that are offered.
        traits: What the assistant's turns are like, see `traits_of`.
        plainest: Whether nothing is special about it.
    """

    name: str
    head: tuple[Item, ...]
    turn: tuple[Item, ...]
    new: tuple[Item, ...]
    words: tuple[tuple[str, str], ...]
    tools: tuple[FunctionTool, ...] = ()
    traits: frozenset[str] = frozenset()
    plainest: bool = False


_ASK = user_message("gymask")
_SYSTEM = message("system", "gymsystem")
_ANSWERED: tuple[Item, ...] = (_ASK, assistant_message("gymearlier"))
_CALLED: tuple[Item, ...] = (
    _ASK,
    function_call("probe", '{"probe": "gymold"}', "earlier00"),
    function_call_output("earlier00", "gymoldresult"),
)
_THOUGHT = reasoning("gymoldthought")


def stress_conversations(calls: int, new: Sequence[str]) -> list[Stress]:
    """Stress conversations for a turn of `calls` tool calls that items of kinds `new` follow.

    The plainest comes first, then ever more special ones.
    """
    plain = _turn(calls)
    thinking: tuple[Item, ...] = (reasoning("gymthought"), *plain)
    heads: list[tuple[str, tuple[Item, ...]]] = [
        ("the first turn", (_ASK,)),
        ("a system message before", (_SYSTEM, _ASK)),
        ("an answered question before", (*_ANSWERED, user_message("gymagain"))),
        ("a tool result before", _CALLED),
        ("an answered tool result before", (*_CALLED, assistant_message("gymearlier"), _ASK)),
    ]
    spoke_before = (_ASK, assistant_message("gymspoken"), *_CALLED[1:])
    thought_before: list[tuple[str, tuple[Item, ...]]] = [
        ("thinking and a tool result before", (_CALLED[0], _THOUGHT, *_CALLED[1:])),
        (
            "thinking and an answered question before",
            (_ASK, _THOUGHT, assistant_message("gymearlier"), user_message("gymagain")),
        ),
    ]
    found = [_stress(name, head, plain, new) for name, head in heads]
    found.append(_stress("text, a call and a result before", spoke_before, plain, new))
    found.append(_stress("tools offered", (_ASK,), plain, new, tools=(PROBE_TOOL,)))
    found.append(_stress("tools and a system message", (_SYSTEM, _ASK), plain, new, (PROBE_TOOL,)))
    if calls:
        spoken: tuple[Item, ...] = (assistant_message("gymtext"), *plain)
        found.append(_stress("text before the calls", (_ASK,), spoken, new))
        thoughtful: tuple[Item, ...] = (reasoning("gymthought"), *spoken)
        found.append(_stress("thinking and text before the calls", (_ASK,), thoughtful, new))
    found.extend(_stress(name, head, plain, new) for name, head in thought_before)
    found.append(_stress("thinking in the turn", (_ASK,), thinking, new))
    found.extend(
        _stress(f"thinking in the turn, {name}", head, thinking, new)
        for name, head in (heads[2], heads[3], *thought_before)
    )
    return [replace(found[0], plainest=True), *found[1:]]


def traits_of(items: Sequence[Item]) -> frozenset[str]:
    """What the assistant's turns in `items` are like.

    ``thinks``: a turn holds thinking. ``silent``: a turn holds none. ``speaks``: a turn holds text
    and tool calls. Templates treat all three in ways of their own.
    """
    traits: set[str] = set()
    turn: set[str] = set()
    for item in items:
        if is_assistant(item):
            turn.add(item["type"])
        elif turn:
            traits |= _turn_traits(turn)
            turn = set()
    return frozenset(traits | _turn_traits(turn) if turn else traits)


def _turn_traits(kinds: set[str]) -> set[str]:
    traits = {"thinks" if "reasoning" in kinds else "silent"}
    if {"message", "function_call"} <= kinds:
        traits.add("speaks")
    return traits


def _turn(calls: int) -> tuple[Item, ...]:
    if not calls:
        return (assistant_message("gymtext"),)
    return tuple(
        function_call("probe", f'{{"probe": "gymargument{n}z"}}', f"probeid{n:02d}")
        for n in range(calls)
    )


def _stress(
    name: str,
    head: tuple[Item, ...],
    turn: tuple[Item, ...],
    new: Sequence[str],
    tools: tuple[FunctionTool, ...] = (),
) -> Stress:
    items: list[Item] = []
    words = [word for item in turn for word in _words(item)]
    for n, kind in enumerate(new):
        word = f"gymnew{n}z"
        items.append(_new_item(kind, word, len(items), turn))
        words.append(("tool result" if kind == "tool" else "message", word))
    return Stress(name, head, turn, tuple(items), tuple(words), tools, traits_of((*head, *turn)))


def _words(item: Item) -> list[tuple[str, str]]:
    if item["type"] == "function_call":
        return [("a tool call", item["arguments"].split('"')[3])]
    if item["type"] == "reasoning":
        return [("the turn's thinking", "gymthought")]
    return [("the turn's text", "gymtext")]


def _new_item(kind: str, word: str, position: int, turn: Sequence[Item]) -> Item:
    if kind == "tool":
        ids = [item["call_id"] for item in turn if item["type"] == "function_call"]
        call_id = ids[position] if position < len(ids) else f"probeid{position:02d}"
        return function_call_output(call_id, word)
    roles: dict[str, Role] = {
        "user": "user",
        "system": "system",
        "developer": "developer",
        "assistant": "assistant",
    }
    return message(roles.get(kind, "user"), word)
