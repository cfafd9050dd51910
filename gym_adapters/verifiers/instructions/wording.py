"""Which words, letters and languages a text must or must not use, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from gym_adapters.verifiers.instructions.language import possible_languages
from gym_adapters.verifiers.instructions.registry import Arguments, Instruction, compare
from gym_adapters.verifiers.instructions.text import sentences, tokens

__all__ = ["WORDING"]

_PUNCTUATION = re.compile(r"[^\w\s]")


def _occurrences(text: str, keyword: str) -> int:
    """How often `keyword` stands in `text`, within words too; case does not count."""
    return text.lower().count(keyword.strip().lower())


def _existence(text: str, given: Arguments) -> bool:
    return all(_occurrences(text, keyword) for keyword in given["keywords"])


def _frequency(text: str, given: Arguments) -> bool:
    count = _occurrences(text, given["keyword"])
    return compare(count, given["relation"], given["frequency"])


def _forbidden_words(text: str, given: Arguments) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
        for word in given["forbidden_words"]
    )


def _letter_frequency(text: str, given: Arguments) -> bool:
    count = text.lower().count(given["letter"].strip().lower())
    return compare(count, given["let_relation"], given["let_frequency"])


def _word_once(text: str, given: Arguments) -> bool:
    return _occurrences(text, given["keyword"]) == 1


def _count_increment_word(text: str, given: Arguments) -> bool:
    counts = (_occurrences(text, given["keyword1"]), _occurrences(text, given["keyword2"]))
    return counts == (1, 2)


def _exclude_word_harder(text: str, given: Arguments) -> bool:
    return f" {given['keyword'].strip()} " not in text


def _no_adjacent_consecutive(text: str, given: Arguments) -> bool:
    initials = [word[0].lower() for word in text.split()]
    return not any(
        len(one) != 1 or len(other) != 1 or ord(other) - ord(one) == 1
        for one, other in pairwise(initials)
    )


def _palindrome(text: str, given: Arguments) -> bool:
    return any(word == word[::-1] for word in text.split())


def _keyword_specific_position(text: str, given: Arguments) -> bool:
    said = sentences(text)
    n, m = given["n"], given["m"]
    if not 1 <= n <= len(said):
        return False
    found = tokens(said[n - 1])
    wanted = str(given["keyword"]).strip()
    return bool(1 <= m <= len(found)) and found[m - 1] == wanted


def _start_end(text: str, given: Arguments) -> bool:
    found = tokens(text)
    return len(found) > 1 and found[0].lower() == found[-1].lower()


def _first_word_sent(text: str, given: Arguments) -> bool:
    wanted = given["first_word"].strip().lower()
    return all(sentence.split()[0].lower() == wanted for sentence in sentences(text))


def _first_word_answer(text: str, given: Arguments) -> bool:
    return text.split()[:1] != [] and text.split()[0].lower() == given["first_word"].strip().lower()


def _bare(word: str) -> str:
    return _PUNCTUATION.sub("", word).lower()


def _last_word_sent(text: str, given: Arguments) -> bool:
    wanted = given["last_word"].strip().lower()
    return all(_bare(sentence.split()[-1]) == wanted for sentence in sentences(text))


def _last_word_answer(text: str, given: Arguments) -> bool:
    said = text.split()
    return bool(said) and _bare(said[-1]) == given["last_word"].strip().lower()


def _in_language(text: str, language: str) -> bool:
    possible = possible_languages(text)
    # Without letters there is no telling, and nothing is held against the text.
    return not possible or language in possible


def _response_language(text: str, given: Arguments) -> bool:
    return _in_language(text, given["language"])


def _english_capital(text: str, given: Arguments) -> bool:
    return text.isupper() and _in_language(text, "en")


def _english_lowercase(text: str, given: Arguments) -> bool:
    return text.islower() and _in_language(text, "en")


def _capital_word_frequency(text: str, given: Arguments) -> bool:
    count = sum(1 for token in tokens(text) if token.isupper())
    return compare(count, given["capital_relation"], given["capital_frequency"])


_LETTERS = Instruction(
    _letter_frequency,
    {"letter": "letter", "let_frequency": "number", "let_relation": "relation"},
)
_FREQUENCY = Instruction(
    _frequency, {"keyword": "text", "frequency": "number", "relation": "relation"}
)
WORDING: Mapping[str, Instruction] = {
    "keywords:existence": Instruction(_existence, {"keywords": "texts"}),
    "keywords:frequency": _FREQUENCY,
    "keywords:word_count_different_numbers": _FREQUENCY,
    "keywords:forbidden_words": Instruction(_forbidden_words, {"forbidden_words": "texts"}),
    "keywords:letter_frequency": _LETTERS,
    "letters:letter_counting2": _LETTERS,
    "keywords:word_once": Instruction(_word_once, {"keyword": "text"}),
    "count:count_increment_word": Instruction(
        _count_increment_word, {"keyword1": "text", "keyword2": "text"}
    ),
    "keywords:exclude_word_harder": Instruction(_exclude_word_harder, {"keyword": "text"}),
    "keywords:no_adjacent_consecutive": Instruction(_no_adjacent_consecutive, {}),
    "keywords:palindrome": Instruction(_palindrome, {}),
    "keywords:keyword_specific_position": Instruction(
        _keyword_specific_position, {"keyword": "text", "n": "number", "m": "number"}
    ),
    "keywords:start_end": Instruction(_start_end, {}),
    "first_word:first_word_sent": Instruction(_first_word_sent, {"first_word": "text"}),
    "first_word:first_word_answer": Instruction(_first_word_answer, {"first_word": "text"}),
    "last_word:last_word_sent": Instruction(_last_word_sent, {"last_word": "text"}),
    "last_word:last_word_answer": Instruction(_last_word_answer, {"last_word": "text"}),
    "language:response_language": Instruction(_response_language, {"language": "language"}),
    "change_case:english_capital": Instruction(_english_capital, {}),
    "change_case:english_lowercase": Instruction(_english_lowercase, {}),
    "change_case:capital_word_frequency": Instruction(
        _capital_word_frequency,
        {"capital_frequency": "number", "capital_relation": "relation"},
    ),
}
