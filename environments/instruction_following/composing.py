"""Requests with instructions that go together, and texts that follow them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gym_adapters.errors import Unsupported
from gym_adapters.verifiers.instructions import follows

__all__ = ["composed", "gold_text"]

Arguments = Mapping[str, Any]

_TOPICS = (
    "how to look after a bicycle",
    "a walk in the rain",
    "why the sky is blue",
    "a letter to a new neighbour",
    "what to take on a day trip",
    "how bread is made",
    "the first day at a new job",
    "a plan for a small garden",
)
_WORDS = ("river", "lantern", "garden", "window", "copper", "winter", "ladder", "pepper", "harbour")


@dataclass(slots=True)
class _Draft:
    """A text under construction."""

    title: str = ""
    opening: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    bullets: int = 0
    postscript: str = ""
    ending: str = ""
    quoted: bool = False
    lowercase: bool = False
    uppercase: bool = False

    def text(self) -> str:
        """The text as it stands."""
        lines = [self.title, " ".join([*self.opening, "this is the text", *self.body])]
        lines += [f"* point {number}" for number in range(1, self.bullets + 1)]
        lines += [self.postscript, self.ending]
        text = "\n".join(line for line in lines if line)
        if self.lowercase:
            text = text.lower()
        if self.uppercase:
            text = text.upper()
        return f'"{text}"' if self.quoted else text


def _bound(given: Arguments, number: str, relation: str) -> int:
    """How often something should stand: as often as ``at least`` asks, else not at all."""
    return int(given[number]) if given[relation] == "at least" else 0


def _keywords(draft: _Draft, given: Arguments) -> None:
    draft.body += given["keywords"]


def _keyword_frequency(draft: _Draft, given: Arguments) -> None:
    draft.body += [given["keyword"]] * _bound(given, "frequency", "relation")


def _word_once(draft: _Draft, given: Arguments) -> None:
    draft.body.append(given["keyword"])


def _letters(draft: _Draft, given: Arguments) -> None:
    draft.body += [given["letter"]] * _bound(given, "let_frequency", "let_relation")


def _number_words(draft: _Draft, given: Arguments) -> None:
    draft.body += ["and"] * _bound(given, "num_words", "relation")


def _title(draft: _Draft, given: Arguments) -> None:
    draft.title = "<<title>>"


def _bullets(draft: _Draft, given: Arguments) -> None:
    draft.bullets = given["num_bullets"]


def _highlights(draft: _Draft, given: Arguments) -> None:
    draft.body += ["*so*"] * given["num_highlights"]


def _placeholders(draft: _Draft, given: Arguments) -> None:
    draft.body += ["[name]"] * given["num_placeholders"]


def _postscript(draft: _Draft, given: Arguments) -> None:
    draft.postscript = f"{given['postscript_marker']} that is all"


def _end_phrase(draft: _Draft, given: Arguments) -> None:
    draft.ending = given["end_phrase"]


def _first_word(draft: _Draft, given: Arguments) -> None:
    draft.opening.append(given["first_word"])


def _last_word(draft: _Draft, given: Arguments) -> None:
    draft.ending = given["last_word"]


def _quoted(draft: _Draft, given: Arguments) -> None:
    draft.quoted = True


def _lowercase(draft: _Draft, given: Arguments) -> None:
    draft.lowercase = True


def _uppercase(draft: _Draft, given: Arguments) -> None:
    draft.uppercase = True


def _nothing(draft: _Draft, given: Arguments) -> None:
    """The bare text follows it."""


_STEPS: Mapping[str, Callable[[_Draft, Arguments], None]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:word_once": _word_once,
    "keywords:forbidden_words": _nothing,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": _number_words,
    "detectable_format:title": _title,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "startend:end_checker": _end_phrase,
    "startend:quotation": _quoted,
    "first_word:first_word_answer": _first_word,
    "last_word:last_word_answer": _last_word,
    "change_case:english_lowercase": _lowercase,
    "change_case:english_capital": _uppercase,
    "punctuation:no_comma": _nothing,
    "punctuation:punctuation_exclamation": _nothing,
}


def gold_text(asked: Sequence[tuple[str, Arguments]]) -> str:
    """A text that follows all of `asked`.

    Raises:
        Unsupported: If none was found; the instructions may contradict each other.
    """
    draft = _Draft()
    for instruction, given in asked:
        step = _STEPS.get(instruction)
        if step is None:
            raise Unsupported(f"no text is composed for {instruction}")
        step(draft, given)
    text = draft.text()
    missed = [name for name, given in asked if not follows(text, name, given)]
    if missed:
        raise Unsupported(f"the text composed does not follow {', '.join(missed)}")
    return text


@dataclass(frozen=True, slots=True)
class _Offer:
    """An instruction to ask for: its id, its arguments and how it is worded.

    A passive one is followed by most texts that say anything at all.
    """

    instruction: str
    arguments: Mapping[str, Any]
    words: str
    passive: bool = False


def composed(rng: random.Random, count: int) -> tuple[str, list[str], list[dict[str, Any] | None]]:
    """A request, the ids of `count` instructions that go together, and their arguments."""
    chosen = rng.sample(_offers(rng), count)
    while all(offer.passive for offer in chosen):
        chosen = rng.sample(_offers(rng), count)
    topic = rng.choice(_TOPICS)
    listed = "\n".join(f"- {offer.words}" for offer in chosen)
    prompt = f"Write a few sentences about {topic}. Follow these instructions:\n{listed}"
    return (
        prompt,
        [offer.instruction for offer in chosen],
        [dict(offer.arguments) or None for offer in chosen],
    )


def _offers(rng: random.Random) -> list[_Offer]:
    """One offer from each group; within a group they would contradict each other."""
    one, two, three, four = rng.sample(_WORDS, 4)
    number = rng.randint(2, 5)
    many = rng.randint(3, 12) * 10
    groups = [
        [
            _Offer("keywords:existence", {"keywords": [one, two]}, f"Use {one} and {two}."),
            _Offer(
                "keywords:frequency",
                {"keyword": one, "frequency": number, "relation": "at least"},
                f"Use the word {one} at least {number} times.",
            ),
            _Offer("keywords:word_once", {"keyword": one}, f"Use the word {one} exactly once."),
        ],
        [
            _Offer(
                "keywords:forbidden_words",
                {"forbidden_words": [three, four]},
                f"Don't use the words {three} and {four}.",
                passive=True,
            ),
        ],
        [
            _Offer(
                "length_constraints:number_words",
                {"num_words": many, "relation": "at least"},
                f"Write at least {many} words.",
            ),
            _Offer(
                "length_constraints:number_words",
                {"num_words": many + 60, "relation": "less than"},
                f"Write less than {many + 60} words.",
                passive=True,
            ),
        ],
        [
            _Offer(
                "detectable_format:title", {}, "Begin with a title in double angles: <<title>>."
            ),
            _Offer("startend:quotation", {}, "Put the whole text in double quotation marks."),
        ],
        [
            _Offer(
                "detectable_format:number_bullet_lists",
                {"num_bullets": number},
                f"Include exactly {number} bullet points, each on a line that begins with '* '.",
            ),
            _Offer(
                "detectable_format:number_highlighted_sections",
                {"num_highlights": number},
                f"Highlight at least {number} parts of the text *like this*.",
            ),
            _Offer(
                "detectable_content:number_placeholders",
                {"num_placeholders": number},
                f"Leave at least {number} blanks to fill in, in square brackets: [name].",
            ),
        ],
        [_Offer("punctuation:no_comma", {}, "Use no commas.", passive=True)],
        [
            _Offer(
                "change_case:english_lowercase",
                {},
                "Write in English, in lower case letters only.",
                passive=True,
            ),
            _Offer(
                "detectable_content:postscript",
                {"postscript_marker": "P.S."},
                "Add a postscript that begins with P.S.",
            ),
        ],
    ]
    return [rng.choice(group) for group in groups]
