"""Questions of general knowledge and of arithmetic in words, with short answers."""

from __future__ import annotations

import random
from collections.abc import Mapping

__all__ = ["question"]

_CAPITALS: Mapping[str, str] = {
    "Argentina": "Buenos Aires",
    "Bhutan": "Thimphu",
    "Canada": "Ottawa",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Mongolia": "Ulaanbaatar",
    "Nepal": "Kathmandu",
    "Peru": "Lima",
    "Portugal": "Lisbon",
    "Senegal": "Dakar",
    "Thailand": "Bangkok",
    "Uruguay": "Montevideo",
}
_SYMBOLS: Mapping[str, str] = {
    "Ag": "silver",
    "Au": "gold",
    "Cu": "copper",
    "Fe": "iron",
    "Hg": "mercury",
    "K": "potassium",
    "Na": "sodium",
    "Pb": "lead",
    "Sn": "tin",
    "W": "tungsten",
}
_PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def question(rng: random.Random, difficulty: float) -> tuple[str, str]:
    """A question and its answer; `difficulty` is how likely it needs two steps."""
    ask = rng.choice(_TWO_STEPS if rng.random() < difficulty else _ONE_STEP)
    return ask(rng)


def _capital(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(list(_CAPITALS))
    return f"What is the capital of {country}?", _CAPITALS[country]


def _element(rng: random.Random) -> tuple[str, str]:
    symbol = rng.choice(list(_SYMBOLS))
    return f"Which chemical element has the symbol {symbol}?", _SYMBOLS[symbol]


def _planet(rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(_PLANETS))
    return f"Which is the {_ORDINALS[place]} planet from the Sun?", _PLANETS[place]


def _country_of_capital_letter(rng: random.Random) -> tuple[str, str]:
    country = rng.choice(list(_CAPITALS))
    capital = _CAPITALS[country]
    return (
        f"What is the last letter of the name of the capital of {country}, in upper case?",
        capital[-1].upper(),
    )


def _planet_after(rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(_PLANETS) - 1)
    return (
        f"Which planet is the next one out from the Sun after {_PLANETS[place]}?",
        _PLANETS[place + 1],
    )


def _words(rng: random.Random) -> tuple[str, str]:
    one, two, three = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    return (
        f"What is {_UNITS[one]} times {_UNITS[two]} plus {_UNITS[three]}? Answer in digits.",
        str(one * two + three),
    )


_ONE_STEP = (_capital, _element, _planet)
_TWO_STEPS = (_country_of_capital_letter, _planet_after, _words)
