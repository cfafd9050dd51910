"""The game: rooms on a grid, locked doors, keys, one treasure. Everything follows from the seed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

__all__ = ["State", "World", "make_world"]

Place = tuple[int, int]
STEPS: Mapping[str, Place] = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
NAMES = (
    *("hall", "kitchen", "library", "pantry", "workshop", "attic", "cellar", "chapel", "nursery"),
    *("armoury", "greenhouse", "observatory", "stable", "laundry", "music room", "study"),
)
METALS = ("brass", "iron", "silver", "copper")
TREASURES = ("amber bird", "glass crown", "ivory flute", "jade lantern", "opal compass")


@dataclass(frozen=True, slots=True)
class World:
    """What never changes in a game.

    Attributes:
        rooms: Names by place; the player starts and ends in the first.
        doors: Places with doors, by direction; a door works both ways.
        locks: The key that a door needs, by the door's two places.
        items: Where each key and the treasure lie at first.
        treasure: What to bring home.
    """

    rooms: Mapping[Place, str]
    doors: Mapping[Place, Mapping[str, Place]]
    locks: Mapping[frozenset[Place], str]
    items: Mapping[str, Place]
    treasure: str

    @property
    def home(self) -> Place:
        """Where the player starts, and where the treasure must go."""
        return next(iter(self.rooms))

    def start(self) -> State:
        """The game as it begins."""
        return State(self.home, frozenset(), frozenset())

    def won(self, state: State) -> bool:
        """Whether the treasure is home."""
        return state.place == self.home and self.treasure in state.held

    def actions(self, state: State) -> dict[str, State]:
        """What can be done, and what it leads to."""
        found: dict[str, State] = {}
        for direction, place in self.doors[state.place].items():
            door = frozenset((state.place, place))
            key = self.locks.get(door)
            if key is None or door in state.unlocked:
                found[f"go {direction}"] = replace(state, place=place)
            elif key in state.held:
                found[f"unlock {direction}"] = replace(state, unlocked=state.unlocked | {door})
        for item, place in self.items.items():
            if place == state.place and item not in state.held:
                found[f"take {item}"] = replace(state, held=state.held | {item})
        return found

    def look(self, state: State) -> str:
        """What the player sees."""
        lines = [f"You are in the {self.rooms[state.place]}."]
        for direction, place in self.doors[state.place].items():
            door = frozenset((state.place, place))
            key = self.locks.get(door)
            locked = key is not None and door not in state.unlocked
            lines.append(
                f"A door leads {direction}"
                + (f"; it is locked and needs the {key}." if locked else ".")
            )
        here = [i for i, p in self.items.items() if p == state.place and i not in state.held]
        lines += [f"There is a {item} here." for item in here]
        held = ", ".join(sorted(state.held)) or "nothing"
        return "\n".join([*lines, f"You carry {held}."])

    def solution(self) -> list[str]:
        """The fewest actions that win."""
        start = self.start()
        came: dict[State, tuple[State, str] | None] = {start: None}
        queue = deque([start])
        while queue:
            state = queue.popleft()
            if self.won(state):
                return list(_path(came, state))
            for action, after in self.actions(state).items():
                if after not in came:
                    came[after] = (state, action)
                    queue.append(after)
        raise ValueError("the game can't be won")


@dataclass(frozen=True, slots=True)
class State:
    """What changes in a game: where the player is, what they hold, which doors are unlocked."""

    place: Place
    held: frozenset[str]
    unlocked: frozenset[frozenset[Place]]


@lru_cache(maxsize=4096)
def make_world(seed: int, rooms: int, locks: int) -> World:
    """The world of these numbers; always winnable.

    Args:
        seed: Seed of the map.
        rooms: How many rooms, from 2 to 16.
        locks: How many locked doors, at most 4; fewer where the map has no room for them.
    """
    rng = random.Random(f"text_world:{seed}:{rooms}:{locks}")
    places: list[Place] = [(0, 0)]
    doors: dict[Place, dict[str, Place]] = {(0, 0): {}}
    entrance: dict[Place, Place] = {}
    while len(places) < rooms:
        place = rng.choice(places)
        direction, (dx, dy) = rng.choice(list(STEPS.items()))
        new = (place[0] + dx, place[1] + dy)
        if new in doors:
            continue
        doors[new] = {BACK[direction]: place}
        doors[place][direction] = new
        entrance[new] = place
        places.append(new)
    names = rng.sample(NAMES, rooms)
    treasure = rng.choice(TREASURES)
    farthest = max(places[1:], key=lambda p: (_depth(entrance, p), p))
    items: dict[str, Place] = {treasure: farthest}
    locked: dict[frozenset[Place], str] = {}
    # The map is a tree: a key on the near side of its door, or of any door before it, can be had.
    on_way = list(_way(entrance, farthest))
    for number, place in enumerate(on_way[:locks]):
        key = f"{METALS[number]} key"
        near = [p for p in places if place not in {p, *_way(entrance, p)}]
        items[key] = rng.choice(near)
        locked[frozenset((place, entrance[place]))] = key
    return World(dict(zip(places, names, strict=True)), doors, locked, items, treasure)


def _way(entrance: Mapping[Place, Place], place: Place) -> Iterator[Place]:
    """`place`, and the places between it and home."""
    while place in entrance:
        yield place
        place = entrance[place]


def _depth(entrance: Mapping[Place, Place], place: Place) -> int:
    return sum(1 for _ in _way(entrance, place))


def _path(came: Mapping[State, tuple[State, str] | None], state: State) -> Iterator[str]:
    actions: list[str] = []
    while (step := came[state]) is not None:
        state, action = step
        actions.append(action)
    return reversed(actions)
