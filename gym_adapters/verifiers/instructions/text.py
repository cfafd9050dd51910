"""Sentences, words and paragraphs of a text, by rules alone; every function is linear.

The rules stand in for NLTK's models, which IFEval's own checkers load. They agree on ordinary
prose; where they may differ is in abbreviations.
"""

from __future__ import annotations

import re

__all__ = ["paragraphs", "sentences", "tokens", "words"]

_END = re.compile(r"[.!?]++[\"'\u201d\u2019)\]]*+")
_TITLES = ("capt", "cpt", "dr", "lt", "mr", "mrs", "ms", "prof", "st")
_OTHERS = ("co", "e.g", "etc", "i.e", "inc", "jr", "ltd", "ph.d", "sr", "vs")
_ABBREVIATIONS = frozenset((*_TITLES, *_OTHERS))
_WEBSITE = re.compile(r"(?:com|net|org|io|gov|edu|me)\b")
_LAST_WORD = re.compile(r"[\w.]*\Z")
_LONGEST_ABBREVIATION = 12
_TOKEN = re.compile(
    r"\.{2,}+|[A-Za-z]+?(?=n['\u2019]t\b)|n['\u2019]t\b|['\u2019](?:s|re|ve|ll|d|m)\b"
    r"|\w++(?:[-.,]\w++)*+|[^\w\s]",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w++")


def sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped; line ends do not end one.

    A sentence ends at ``.``, ``!`` or ``?`` with the quotes and brackets that close after it,
    except after an abbreviation or an initial, within a number and in a web address.
    """
    line = text.replace("\n", " ")
    found: list[str] = []
    start = 0
    for match in _END.finditer(line):
        if _ends_sentence(line, match):
            found.append(line[start : match.end()].strip())
            start = match.end()
    rest = line[start:].strip()
    return [sentence for sentence in [*found, rest] if sentence]


def _ends_sentence(line: str, match: re.Match[str]) -> bool:
    if match[0] != ".":
        return True
    before, after = line[match.start() - 1 : match.start()], line[match.end() : match.end() + 1]
    if before.isdigit() and after.isdigit():
        return False
    if _WEBSITE.match(line, match.end()):
        return False
    near = _LAST_WORD.search(line[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()])
    word = near[0].lower() if near else ""
    if word in _ABBREVIATIONS:
        return False
    # An initial or an acronym (J. K., U.S.), but not the pronoun in "so do I."
    letter = word.rpartition(".")[2]
    return not (len(letter) == 1 and letter.isascii() and letter.isalpha() and letter != "i")


def words(text: str) -> list[str]:
    r"""Runs of letters, digits and underscores (``\w``)."""
    return _WORD.findall(text)


def tokens(text: str) -> list[str]:
    """Words and punctuation marks as the Penn Treebank has them: ``do`` ``n't``, ``well-known``."""
    return _TOKEN.findall(text)


def paragraphs(text: str, divider: str) -> list[str] | None:
    """The paragraphs of `text` between `divider`; ``None`` if one in the middle is empty.

    What stands before the first and after the last divider may be empty, and then does not count.
    """
    parts = text.split(divider)
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return [part for part in parts if part.strip()]
