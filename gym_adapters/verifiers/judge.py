"""Judges: models that say whether two answers mean the same.

A `Judge` reads a prompt and answers with text; `verdict` finds the label in it. Nothing here knows
how a model is reached: whoever opens a run's resources hands a judge in, or names one in a config
(`open_judge`). A judge that fails, or whose text holds no label, is a `JudgeError`: the rollout is
unscored, for not knowing is no 0.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, cast

from gym_adapters.deadline import SharedSlots, within
from gym_adapters.errors import (
    Boundary,
    GymAdaptersError,
    InvalidConfig,
    JudgeError,
    boundary,
)
from gym_adapters.items import Item, final_text
from gym_adapters.verifiers.answers import last_boxed

__all__ = [
    "CallableJudge",
    "ChatJudge",
    "ExactJudge",
    "Judge",
    "JudgeRequest",
    "Labels",
    "ScriptedJudge",
    "Verdict",
    "ask_equivalence",
    "filled",
    "imported_judge",
    "judge_opener",
    "normal_answer",
    "open_judge",
]


_TEXT = re.compile(r"\\text\{([^{}]*+)\}")


@dataclass(frozen=True, slots=True)
class JudgeRequest:
    """One question to a judge.

    Attributes:
        prompt: What the judge reads.
        first: The answer shown first.
        second: The answer shown second.
        question: What both are answers to.
    """

    prompt: tuple[Item, ...]
    first: str
    second: str
    question: str = ""


class Judge(Protocol):
    """Answers requests. Must allow many concurrent calls."""

    async def ask(self, request: JudgeRequest) -> str:
        """The judge's text.

        Raises:
            JudgeError: If the judge can't be asked; any other exception becomes one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a verdict; the one that stands first in a judge's text is its verdict."""

    equal: str = "[[A=B]]"
    different: str = "[[A!=B]]"

    def verdict(self, text: str) -> bool | None:
        """True for equal, False for different, ``None`` where neither label stands in `text`."""
        places = [
            (text.find(label), equal)
            for label, equal in ((self.equal, True), (self.different, False))
            if label in text
        ]
        return min(places)[1] if places else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said.

    Attributes:
        equal: Whether the answers are equivalent.
        text: The judge's words.
    """

    equal: bool
    text: str

    def to_json(self) -> dict[str, object]:
        """The verdict as JSON, for a reward's info."""
        return {"equal": self.equal, "text": self.text}


async def ask_equivalence(
    judge: Judge, request: JudgeRequest, labels: Labels, *, timeout: float
) -> Verdict:
    """Ask once.

    Args:
        judge: Whom.
        request: What.
        labels: What a verdict looks like.
        timeout: Seconds of wall time.

    Raises:
        JudgeError: If the judge fails, takes too long, or gives no label.
    """
    with boundary(Boundary.JUDGE, "judge"):
        try:
            text = await within(timeout, judge.ask(request))
        except TimeoutError as error:
            raise JudgeError(f"the judge gave no verdict within {timeout} s") from error
    equal = labels.verdict(text)
    if equal is None:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise JudgeError(
            f"the judge's text holds neither {labels.equal} nor {labels.different}: {shown!r}"
        )
    return Verdict(equal, text)


# Judges.


class _Turn(Protocol):
    @property
    def items(self) -> Sequence[Item]: ...


class _Session(Protocol):
    async def respond(self, new_items: Sequence[Item]) -> _Turn | None: ...


class ChatJudge:
    """A chat model as a judge: every request is a conversation of one turn.

    Args:
        open_session: Opens a fresh session of the model, such as a `ChatSession`: for a `ChatModel`
            ``lambda name: model.open(tools=[], sampling=sampling, request_id=name)``.
        concurrency: Most requests at once; the others wait.
    """

    def __init__(self, open_session: Callable[[str], _Session], *, concurrency: int = 64) -> None:
        self._open_session = open_session
        self._free = SharedSlots(concurrency)
        self._asked = 0

    async def ask(self, request: JudgeRequest) -> str:
        """The text of the model's turn.

        Raises:
            JudgeError: If the model fails, or its context is too short.
        """
        async with self._free.taken():
            self._asked += 1
            try:
                turn = await self._open_session(f"judge-{self._asked}").respond(request.prompt)
            except GymAdaptersError as error:
                # The model at fault is the judge's, not the one that is judged.
                raise JudgeError(f"the judge's model failed: {error}") from error
        if turn is None:
            raise JudgeError("the judge's context is too short for the prompt")
        return final_text(turn.items)


class CallableJudge:
    """An async function as a judge: prompt in, text out."""

    def __init__(self, function: Callable[[Sequence[Item]], Awaitable[str]]) -> None:
        self._function = function

    async def ask(self, request: JudgeRequest) -> str:
        """What the function says to the prompt."""
        return await self._function(request.prompt)


class ExactJudge:
    """No model: two answers are equivalent if they are the same text, see `normal_answer`.

    A stand-in that needs no network: for smoke tests, and for gold transcripts.
    """

    def __init__(self, labels: Labels | None = None) -> None:
        self._labels = labels if labels is not None else Labels()

    async def ask(self, request: JudgeRequest) -> str:
        """One of the labels."""
        same = normal_answer(request.first) == normal_answer(request.second)
        return self._labels.equal if same else self._labels.different


@dataclass(slots=True)
class ScriptedJudge:
    """Says what it was told to say, in order, and remembers what it was asked.

    Attributes:
        replies: Texts to say, or exceptions to raise.
        requests: What was asked so far.
    """

    replies: Sequence[str | Exception]
    requests: list[JudgeRequest] = field(default_factory=list)

    async def ask(self, request: JudgeRequest) -> str:
        """The next reply.

        Raises:
            JudgeError: If there is none left.
        """
        self.requests.append(request)
        if len(self.requests) > len(self.replies):
            raise JudgeError(f"the script holds {len(self.replies)} replies, and all were given")
        reply = self.replies[len(self.requests) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply


def normal_answer(text: str) -> str:
    r"""The last ``\boxed{...}`` of `text`, or all of it, in lower case and with single spaces.

    A ``\text{...}`` around it and full stops at its end do not count.
    """
    answer = last_boxed(text)
    answer = text if answer is None else answer
    wrapped = _TEXT.fullmatch(answer.strip())
    answer = wrapped[1] if wrapped else answer
    return " ".join(answer.casefold().split()).rstrip(". ")


# Judges named in a config.

JudgeOpener = Callable[[str], AbstractAsyncContextManager[Judge]]

judge_opener: ContextVar[JudgeOpener | None] = ContextVar("judge_opener", default=None)
"""How `open_judge` reaches a model; set by whoever opens the resources of a run."""


@asynccontextmanager
async def open_judge(spec: str, *, labels: Labels | None = None) -> AsyncIterator[Judge]:
    """The judge that `spec` names.

    Args:
        spec: ``exact`` for `ExactJudge`; ``module:name`` for a `Judge` or an async function
            (items in, text out) of the caller's own; anything else is a model, and goes to the
            `judge_opener`.
        labels: What `ExactJudge` answers with.

    Raises:
        InvalidConfig: If nothing answers to `spec`.
    """
    if spec == "exact":
        yield ExactJudge(labels)
        return
    opener = judge_opener.get()
    if opener is not None:
        async with opener(spec) as judge:
            yield judge
        return
    yield imported_judge(spec)


def imported_judge(spec: str) -> Judge:
    """The `Judge`, or the async function as one, at ``module:name``.

    Raises:
        InvalidConfig: If there is none.
    """
    module_name, colon, name = spec.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module_name.split("."), name])):
        raise InvalidConfig(
            f"judge {spec!r}: no model can be opened here. Use exact, or module:name for a "
            "judge or an async function of your own, or hand the judge in as a resource"
        )
    try:
        found: object = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InvalidConfig(f"judge {spec!r} can't be imported: {error}") from error
    if hasattr(found, "ask"):
        return cast("Judge", found)
    if callable(found):
        return CallableJudge(found)
    raise InvalidConfig(f"judge {spec!r} is neither a Judge nor an async function")


def filled(template: str, fields: Mapping[str, str]) -> str:
    """`template` with each ``{name}`` of `fields` filled in; other braces stay as they are."""
    # One pass from left to right: text that was filled in is never searched again.
    pieces: list[str] = []
    rest = template
    while True:
        places = [(at, name) for name in fields if (at := rest.find(f"{{{name}}}")) != -1]
        if not places:
            return "".join([*pieces, rest])
        at, name = min(places)
        pieces += [rest[:at], fields[name]]
        rest = rest[at + len(name) + 2 :]
