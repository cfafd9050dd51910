"""Which languages a text may be in: by its script, its letters and its commonest words.

Deterministic and without a dependency. It knows the languages that IFEval asks for, and Chinese. A
text of a few words may be in several; a longer one without a common word of any is in none of them.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from itertools import islice

from gym_adapters.verifiers.instructions.common_words import COMMON_WORDS
from gym_adapters.verifiers.instructions.text import words

__all__ = ["KNOWN_LANGUAGES", "UNKNOWN", "possible_languages"]

UNKNOWN = "und"

# Enough to tell, however long the text.
_LETTERS_READ = 4000
_READ = 16_000
_FEW_WORDS = 5

_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "LATIN": ("en", "es", "pt", "fr", "de", "it", "vi", "pl", "fi", "sw"),
    "CYRILLIC": ("ru", "uk", "bg"),
    "ARABIC": ("ar", "fa", "ur"),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "BENGALI": ("bn",),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "THAI": ("th",),
    "HEBREW": ("he",),
    "HANGUL": ("ko",),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "CJK": ("zh", "ja"),
}
KNOWN_LANGUAGES = frozenset(name for names in _SCRIPTS.values() for name in names)

_TELLING_LETTERS: Mapping[str, str] = {
    "es": "ñ¿¡",
    "pt": "ãõ",
    "fr": "çœêèùû",
    "de": "ßäöü",
    "vi": "ơưđăạảấầẩẫậắằẳẵặẹẻẽếềểễệọỏốồổỗộớờởỡợụủứừửữự",
    "pl": "łąęśźżćń",
    "fi": "äö",
    "ru": "ыэё",
    "uk": "іїєґ",
    "bg": "ъ",
    "fa": "پچژگکی",
    "ur": "ٹڈڑںےہھ",
}


def possible_languages(text: str) -> frozenset[str]:
    """Codes (ISO 639-1) of the languages that `text` may be in; empty if it has no letters.

    `UNKNOWN` stands for one that is none of these.

    Only languages of the commonest script count, and of those the ones with the most evidence.
    """
    lowered = text.lower()
    letters = list(islice(filter(str.isalpha, lowered), _LETTERS_READ))
    if not letters:
        return frozenset()
    scripts = Counter(unicodedata.name(letter, "?").split()[0].split("-")[0] for letter in letters)
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > len(letters) // 20:
        return frozenset({"ja"})
    candidates = _SCRIPTS.get(scripts.most_common(1)[0][0], ())
    if candidates == ("zh", "ja"):
        return frozenset({"zh"})
    if len(candidates) < 2:
        return frozenset(candidates)
    evidence = _evidence(lowered, letters, candidates)
    most = max(evidence.values())
    if most == 0 and len(words(lowered[:_READ])) > _FEW_WORDS:
        return frozenset({UNKNOWN})
    return frozenset(name for name, score in evidence.items() if score == most)


def _evidence(lowered: str, letters: list[str], candidates: tuple[str, ...]) -> dict[str, float]:
    said = Counter(_spoken(lowered))
    seen = Counter(letters)
    return {
        name: sum(count for word, count in said.items() if word in COMMON_WORDS[name])
        + sum(seen[letter] for letter in _TELLING_LETTERS.get(name, "")) / 2
        for name in candidates
    }


def _spoken(lowered: str) -> list[str]:
    # \w leaves out the marks that Indic vowels are written with, so their words end at spaces.
    plain = words(lowered[:_READ])
    spaced = [word.strip("।,.!?:;()\"'") for word in lowered[:_READ].split()]
    return [*plain, *(word for word in spaced if not word.isalnum())]
