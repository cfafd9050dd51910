"""How long a text must be, in letters, words, sentences and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gym_adapters.verifiers.instructions.registry import Arguments, Instruction, compare
from gym_adapters.verifiers.instructions.text import paragraphs, sentences, tokens, words

__all__ = ["LENGTH"]

STARS = "***"
_LOWERCASE_WORD = re.compile(r"\b[a-z]++\b")
_FIRST_WORD_ENDS = re.compile(r"[.,?!'\"]")


def _number_sentences(text: str, given: Arguments) -> bool:
    return compare(len(sentences(text)), given["relation"], given["num_sentences"])


def _number_words(text: str, given: Arguments) -> bool:
    return compare(len(words(text)), given["relation"], given["num_words"])


def _number_paragraphs(text: str, given: Arguments) -> bool:
    found = paragraphs(text, STARS)
    return found is not None and len(found) == given["num_paragraphs"]


def _two_paragraphs(text: str, given: Arguments) -> bool:
    found = paragraphs(text, STARS)
    return found is not None and len(found) == 2


def _two_spaced_paragraphs(text: str, given: Arguments) -> bool:
    found = paragraphs(text, "\n\n")
    return found is not None and len(found) == 2


def _nth_paragraph_first_word(text: str, given: Arguments) -> bool:
    parts = text.split("\n\n")
    full = sum(1 for part in parts if part.strip())
    nth = given["nth_paragraph"]
    if not 1 <= nth <= full or full != given["num_paragraphs"]:
        return False
    first = (parts[nth - 1].split() or [""])[0].lstrip("'").lstrip('"')
    return (
        _FIRST_WORD_ENDS.split(first, maxsplit=1)[0].lower()
        == str(given["first_word"]).strip().lower()
    )


def _lowercase_counting(text: str, given: Arguments) -> bool:
    return len(_LOWERCASE_WORD.findall(text)) <= int(given["N"])


def _letter_counting(text: str, given: Arguments) -> bool:
    letters = sum(1 for letter in text if letter.isascii() and letter.isalpha())
    return compare(letters, given["relation"], given["N"])


def _counting_composition(text: str, given: Arguments) -> bool:
    found = paragraphs(text, STARS)
    if found is None or len(found) != 3:
        return False
    for paragraph in found:
        said = sentences(paragraph)
        if len(said) != given["n_sent"]:
            return False
        if any(len(tokens(sentence)) != given["n_words"] for sentence in said):
            return False
    return True


def _count_unique(text: str, given: Arguments) -> bool:
    found = tokens(text)
    return len(found) == len(set(found))


LENGTH: Mapping[str, Instruction] = {
    "length_constraints:number_sentences": Instruction(
        _number_sentences, {"num_sentences": "number", "relation": "relation"}
    ),
    "length_constraints:number_words": Instruction(
        _number_words, {"num_words": "number", "relation": "relation"}
    ),
    "length_constraints:number_paragraphs": Instruction(
        _number_paragraphs, {"num_paragraphs": "number"}
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        _nth_paragraph_first_word,
        {"num_paragraphs": "number", "nth_paragraph": "number", "first_word": "text"},
    ),
    "paragraphs:paragraphs": Instruction(_two_paragraphs, {}),
    "paragraphs:paragraphs2": Instruction(_two_spaced_paragraphs, {}),
    "count:lowercase_counting": Instruction(_lowercase_counting, {"N": "number"}),
    "count:counting_composition": Instruction(
        _counting_composition, {"n_sent": "number", "n_words": "number"}
    ),
    "count:count_unique": Instruction(_count_unique, {}),
    "letters:letter_counting": Instruction(
        _letter_counting, {"N": "number", "relation": "relation"}
    ),
}
