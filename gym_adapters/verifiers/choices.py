r"""Reading which option of a multiple-choice question a text gives.

The grading modes are those of NeMo Gym's ``mcqa`` rows:

* ``strict_single_letter_boxed``: the last ``\boxed{...}`` holds one capital and no other letter
  (``E``, ``(B)``, ``\text{C}``), or begins with a capital and ``:``, ``)``, ``.`` or ``-``.
* ``lenient_boxed``: the same, else the box holds the text of exactly one option.
* ``lenient_answer_colon``: the line after the first ``Answer:`` is a letter or an option's text.
* ``lenient_answer_colon_md``: the last ``Answer:`` (Markdown around it is fine) that gives one
  letter: the only one, a leading one, or the last capital that stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from gym_adapters.verifiers.answers import last_boxed
from gym_adapters.verifiers.patterns import captured_last

__all__ = ["GradingMode", "Options", "choice", "choice_by_pattern"]

GradingMode = Literal[
    "strict_single_letter_boxed",
    "lenient_boxed",
    "lenient_answer_colon",
    "lenient_answer_colon_md",
]
Options = Sequence[Mapping[str, str | None]]
"""Options as ``[{"A": "its text"}, ...]``; an option may have no text."""

_BOX_LABEL = re.compile(r"\s*+([A-Z])\s*+[:).\-]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|rm|bf)\s*+\{")
_ANSWER = re.compile(r"answer\s*+:", re.IGNORECASE)
_ANSWER_MARKDOWN = re.compile(r"answer[*_]{0,2}+\s*+:[*_\s]{0,2}+", re.IGNORECASE)
_ASCII_LETTER = re.compile(r"[A-Za-z]")
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_LONE_CAPITAL = re.compile(r"\b[A-Z]\b")
_LEADING_LETTER = re.compile(r"[A-Za-z](?![A-Za-z0-9])")
_LETTERS_OF_OTHER_SCRIPTS = str.maketrans(
    {
        **dict(zip("أبجد", (" A", " B", " C", " D"), strict=True)),
        **dict(zip("অবডঢ", (" A", " B", " C", " D"), strict=True)),
        **{chr(0xFF21 + index): f" {chr(ord('A') + index)}" for index in range(26)},
    }
)
_SEPARATORS = frozenset("/|&,;")


def choice(text: str, options: Options, mode: GradingMode) -> str | None:
    """The capital letter of the option that `text` gives; ``None`` where it gives none of them."""
    if mode == "strict_single_letter_boxed":
        letter = _capital_in_box(text)
        return letter if letter is not None and _is_option(letter, options) else None
    texts = _texts_by_letter(options)
    if mode == "lenient_boxed":
        return _boxed_letter(text, texts) or _boxed_option(text, texts)
    if mode == "lenient_answer_colon":
        return _letter_after_answer(text, texts)
    return _letter_after_markdown_answer(text, texts)


def choice_by_pattern(text: str, options: Options, pattern: str) -> str | None:
    """The letter that the last match of `pattern` captures in `text`, or whose text it captures.

    Upper and lower case are the same. The first group that took part counts, else the whole match.
    A single letter is taken even if no option has it. Only the last 20,000 characters are searched.
    Blocks for up to a second, without holding the interpreter: call it in a thread.

    Raises:
        VerifierError: If matching takes longer than a second: the pattern backtracks.
        InvalidRow: If the pattern is not one.
        MissingExtra: Without the package ``regex``, which can stop such a pattern.
    """
    found = captured_last(text, pattern, ignore_case=True)
    if found is None:
        return None
    captured = _latin(found).upper()
    if len(captured) == 1 and captured.isalpha():
        return captured
    return _option_called(captured, _texts_by_letter(options))


def _texts_by_letter(options: Options) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for option in options:
        for letter, text in option.items():
            if len(letter) == 1 and letter.isalpha():
                told = texts.setdefault(letter.upper(), [])
                if text is not None:
                    told.append(_normal(text))
    return texts


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _latin(text: str) -> str:
    return text.translate(_LETTERS_OF_OTHER_SCRIPTS).strip()


def _unwrapped(text: str) -> str:
    """`text` without the LaTeX text commands around the whole of it."""
    inner = text.strip()
    start, end = 0, len(inner)
    while (wrapper := _WRAPPER.match(inner, start, end)) and inner[end - 1] == "}":
        start, end = wrapper.end(), end - 1
        while start < end and inner[start].isspace():
            start += 1
        while start < end and inner[end - 1].isspace():
            end -= 1
    return inner[start:end]


def _is_option(letter: str, options: Options) -> bool:
    """Whether `letter`, a capital, is in `_texts_by_letter`; costs no look at the texts."""
    return any(letter in option or letter.lower() in option for option in options)


def _capital_in_box(text: str) -> str | None:
    box = last_boxed(text)
    if box is None:
        return None
    inner = _unwrapped(box)
    ascii_letters: list[str] = _ASCII_LETTER.findall(inner)
    if len(ascii_letters) == 1 and ascii_letters[0].isupper():
        return ascii_letters[0]
    label = _BOX_LABEL.match(inner)
    return str(label[1]) if label else None


def _boxed_letter(text: str, letters: Collection[str]) -> str | None:
    letter = _capital_in_box(text)
    return letter if letter in letters else None


def _boxed_option(text: str, texts: Mapping[str, Sequence[str]]) -> str | None:
    box = last_boxed(text)
    if box is None:
        return None
    inside = (_normal(box), _normal(_unwrapped(box)))
    named = {
        letter
        for letter, options in texts.items()
        for option in options
        if option and any(option in candidate for candidate in inside)
    }
    return named.pop() if len(named) == 1 else None


def _option_called(name: str, texts: Mapping[str, Sequence[str]]) -> str | None:
    wanted = _normal(name)
    return next((letter for letter, options in texts.items() if wanted in options), None)


def _line_after(text: str, position: int) -> str:
    """The first line with anything on it from `position` on."""
    return text[position:].lstrip().partition("\n")[0]


def _letter_after_answer(text: str, texts: Mapping[str, Sequence[str]]) -> str | None:
    marker = _ANSWER.search(text)
    if marker is None:
        return None
    candidate = _unwrapped(_line_after(text, marker.end()))
    if len(candidate) == 1 and candidate.upper() in texts:
        return candidate.upper()
    return _option_called(candidate, texts)


def _letter_after_markdown_answer(text: str, letters: Collection[str]) -> str | None:
    markers = list(_ANSWER_MARKDOWN.finditer(text))
    # Each is read up to the next one at most, so that together they are no longer than the text.
    ends = [*(marker.start() for marker in markers[1:]), len(text)]
    for marker, end in reversed(list(zip(markers, ends, strict=False))):
        found = _lone_letter(text[marker.end() : end].partition("\n")[0], letters)
        if found is not None:
            return found
    return None


def _lone_letter(payload: str, letters: Collection[str]) -> str | None:
    candidate = _latin(payload).strip("*_` \t\r.,;:")
    if _lists_several(candidate, letters):
        return None
    leading = _LEADING_LETTER.match(candidate)
    capitals = _LONE_CAPITAL.findall(candidate) if leading is None else []
    letter = leading[0] if leading else capitals[-1] if capitals else ""
    return letter.upper() if letter.upper() in letters else None


def _lists_several(text: str, letters: Collection[str]) -> bool:
    """Whether different letters stand side by side, as in ``A or B``: not a choice."""
    found = [match for match in _LONE_LETTER.finditer(text) if match[0].upper() in letters]
    return any(
        left[0].upper() != right[0].upper() and _separates(text[left.end() : right.start()])
        for left, right in pairwise(found)
    )


def _separates(between: str) -> bool:
    word = between.strip()
    if word.lower() in ("or", "and"):
        return between[0].isspace() and between[-1].isspace()
    return word == "" or word in _SEPARATORS
