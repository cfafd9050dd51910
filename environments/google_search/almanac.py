"""An almanac of islands that don't exist, which no model knows by heart, and questions on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .embedded_search import Page

__all__ = ["Question", "almanac", "pages", "questions"]

SITE = "https://almanac.example"
TOWNS = (
    *("Ardmouth", "Belsary", "Corvenna", "Dunmarrow", "Eskelby", "Farrowick", "Gullhaven"),
    *("Harrowmere", "Ilsport", "Jorvale", "Kestering", "Lowen Quay"),
)
PEOPLE = (
    *("Maud Ferriby", "Ossian Tarn", "Petra Lindqual", "Rufus Averill", "Sunniva Holt"),
    *("Tobias Wray", "Ursula Penhale", "Viggo Strand", "Wilhelmina Sedge", "Xanthe Marlow"),
    *("Yorick Brandt", "Zelda Oakes"),
)
PEAKS = (
    *("Mount Sarrow", "the Old Bellows", "Grey Tusk", "Pike of Allan", "Mount Verity"),
    *("the Anvil", "Candle Fell", "Raven Stair", "Mount Ode", "the Long Sister"),
    *("White Mantle", "Harper Edge"),
)
CRAFTS = (
    *("bell founding", "salt glazing", "kite making", "smoked eel", "sailcloth", "clockwork"),
    *("blue paper", "cider", "lens grinding", "rope walks", "felt hats", "reed organs"),
)
WORKS = (
    *("The Tide Ledger", "Nine Lamps", "A Winter of Oars", "Letters to a Heron"),
    *("The Glass Orchard", "Songs for Slack Water", "The Cartographer's Cat", "Peat and Silver"),
    *("An Index of Winds", "The Borrowed Harbour", "Small Hours at Sea", "The Second Mainland"),
)
TRADES = ("novelist", "poet", "composer", "playwright")


@dataclass(frozen=True, slots=True)
class Entry:
    """One town, with the person born there and the mountain that person was first to climb."""

    town: str
    founded: int
    craft: str
    inhabitants: int
    person: str
    born: int
    trade: str
    work: str
    peak: str
    height: int
    climbed: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question with four options.

    Attributes:
        text: The question and its options, lettered A to D.
        answer: The letter of the right one.
        titles: Titles of the pages that hold the facts, in the order they are needed.
    """

    text: str
    answer: str
    titles: tuple[str, ...]


@lru_cache(maxsize=1)
def almanac() -> tuple[Entry, ...]:
    """Twelve entries, the same on every machine."""
    rng = random.Random("almanac")
    orders = [rng.sample(names, len(names)) for names in (PEOPLE, PEAKS, CRAFTS, WORKS)]
    entries = []
    for town, person, peak, craft, work in zip(TOWNS, *orders, strict=True):
        born = rng.randrange(1780, 1900)
        entries.append(
            Entry(
                town=town,
                founded=rng.randrange(1180, 1650),
                craft=craft,
                inhabitants=rng.randrange(12, 480) * 100,
                person=person,
                born=born,
                trade=rng.choice(TRADES),
                work=work,
                peak=peak,
                height=rng.randrange(640, 2980),
                climbed=born + rng.randrange(19, 45),
            )
        )
    return tuple(entries)


def pages() -> list[Page]:
    """Three pages an entry, and one that lists the towns."""
    made = [page for entry in almanac() for page in _pages_of(entry)]
    towns = ", ".join(entry.town for entry in almanac())
    made.append(_page("Towns of the Ossel Islands", f"The towns of the Ossel Islands are {towns}."))
    return made


def questions(rng: random.Random, difficulty: float) -> Iterator[Question]:
    """Questions without end; towards difficulty 1 the answer lies up to three pages away."""
    while True:
        most = 1 + round(2 * difficulty)
        makers = HOPS[rng.randrange(most)]
        yield rng.choice(makers)(rng, rng.choice(almanac()))


def _page(title: str, text: str) -> Page:
    return Page(f"{SITE}/{title.lower().replace(' ', '-')}", title, text)


def _title(peak: str) -> str:
    return peak[0].upper() + peak[1:]


def _pages_of(entry: Entry) -> list[Page]:
    return [
        _page(
            entry.town,
            f"{entry.town} is a town of the Ossel Islands with {entry.inhabitants} inhabitants. It "
            f"was founded in {entry.founded}. Visitors know it for its {entry.craft}, which is "
            "still taught in the harbour school. Ferries leave twice a day, weather permitting.",
        ),
        _page(
            entry.person,
            f"{entry.person}, {entry.trade}, was born in {entry.town} in {entry.born} and is best "
            f"known for the {'piece' if entry.trade == 'composer' else 'book'} '{entry.work}'. In "
            f"later years {entry.person.split()[0]} took to the hills and was the first to climb "
            f"{entry.peak}.",
        ),
        _page(
            _title(entry.peak),
            f"{_title(entry.peak)} is a mountain of the Ossel Islands, {entry.height} metres high. "
            f"{entry.person} stood on its top in {entry.climbed}, the first to do so. The path "
            "begins at a stone hut and takes most of a day.",
        ),
    ]


def _question(
    rng: random.Random, text: str, right: int, titles: Sequence[str], unit: str = ""
) -> Question:
    wrong: set[int] = set()
    while len(wrong) < 3:
        near = right + rng.choice((-1, 1)) * rng.randrange(1, max(30, right // 8))
        if near != right:
            wrong.add(near)
    options = [right, *sorted(wrong)]
    rng.shuffle(options)
    letters = "ABCD"
    lines = [f"{letter}: {value}{unit}" for letter, value in zip(letters, options, strict=True)]
    return Question("\n".join([text, *lines]), letters[options.index(right)], tuple(titles))


def _founded(rng: random.Random, e: Entry) -> Question:
    return _question(rng, f"In which year was {e.town} founded?", e.founded, [e.town])


def _height(rng: random.Random, e: Entry) -> Question:
    return _question(rng, f"How high is {e.peak}?", e.height, [_title(e.peak)], " m")


def _author_town(rng: random.Random, e: Entry) -> Question:
    text = f"In which year was the town founded in which the author of '{e.work}' was born?"
    return _question(rng, text, e.founded, [e.person, e.town])


def _climber_born(rng: random.Random, e: Entry) -> Question:
    text = f"In which year was the person born who was the first to climb {e.peak}?"
    return _question(rng, text, e.born, [_title(e.peak), e.person])


def _craft_peak(rng: random.Random, e: Entry) -> Question:
    text = (
        f"Someone born in the town known for its {e.craft} was the first to climb a mountain. How "
        "high is the mountain?"
    )
    return _question(rng, text, e.height, [e.town, e.person, _title(e.peak)], " m")


def _peak_inhabitants(rng: random.Random, e: Entry) -> Question:
    text = f"How many inhabitants has the town in which the first to climb {e.peak} was born?"
    return _question(rng, text, e.inhabitants, [_title(e.peak), e.person, e.town])


Maker = Callable[[random.Random, Entry], Question]
HOPS: Mapping[int, tuple[Maker, ...]] = {
    0: (_founded, _height),
    1: (_author_town, _climber_born),
    2: (_craft_peak, _peak_inhabitants),
}
