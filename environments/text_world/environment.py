"""A small text adventure with rooms, keys and a treasure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from gym_adapters import Environment, EnvironmentConfig, Reward, Task, Transcript
from gym_adapters.items import Item, assistant_message

from .world import State, World, make_world

__all__ = ["TextWorld", "TextWorldConfig", "TextWorldTask", "command_in"]

LONGEST_COMMAND = 80
RULES = (
    "You play a text adventure. Find the {treasure} and bring it back to the {home}, where you "
    "are now, in at most {moves} moves. Commands are: go DIRECTION, unlock DIRECTION, take THING. "
    "Think as long as you like, and write one command on the last line of each message."
)


class TextWorldTask(Task):
    """A map, told by three numbers.

    Attributes:
        world_seed: Seed of the map.
        rooms: How many rooms.
        locks: How many locked doors.
        max_moves: Commands until the game is lost; those that can't be done count, too.
    """

    world_seed: int
    rooms: int = Field(ge=2, le=16)
    locks: int = Field(ge=0, le=4)
    max_moves: int = Field(ge=1)


class TextWorldConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        show_actions: List what can be done after each observation.
        constrained: Hold each turn to a command that can be done, and to nothing else: no thinking.
    """

    show_actions: bool = False
    constrained: bool = False


class TextWorld(Environment[TextWorldTask]):
    """Bring the treasure home.

    The reward is 1 if that is done within the moves allowed, else 0. `grammar` tells at any moment
    which commands can be done; with the setting ``constrained`` each turn is held to it.
    """

    name = "text_world"
    Config = TextWorldConfig
    world: World
    state: State
    moves: int

    async def start(self) -> None:
        """Set the map up."""
        self.world = make_world(self.task.world_seed, self.task.rooms, self.task.locks)
        self.state = self.world.start()
        self.moves = 0

    @property
    def legal_actions(self) -> list[str]:
        """The commands that can be done now."""
        return list(self.world.actions(self.state))

    @property
    def grammar(self) -> str:
        """The commands that can be done now, as a GBNF grammar."""
        return "root ::= " + " | ".join(f'"{action}"' for action in self.legal_actions)

    async def constraint(self) -> Mapping[str, str] | None:
        """With ``constrained``, the commands that can be done now."""
        asked = isinstance(self.config, TextWorldConfig) and self.config.constrained
        return {"grammar": self.grammar} if asked else None

    async def reply(self, message: str) -> str | None:
        """Do the command on the last line, and tell what is seen."""
        self.moves += 1
        after = self.world.actions(self.state).get(command_in(message))
        if after is not None:
            self.state = after
        if self.world.won(self.state) or self.moves >= self.task.max_moves:
            self.end_episode()
            return None
        seen = self.world.look(self.state)
        told = seen if after is not None else f"You can't do that.\n{seen}"
        if isinstance(self.config, TextWorldConfig) and self.config.show_actions:
            told += f"\nYou can: {', '.join(self.legal_actions)}."
        return told

    async def verify(self, transcript: Transcript) -> Reward:
        """Whether the treasure is home."""
        won = self.world.won(self.state)
        has_treasure = self.world.treasure in self.state.held
        return Reward(
            float(won),
            components={"won": float(won), "has_treasure": float(has_treasure)},
            info={"moves": self.moves},
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[TextWorldTask]:
        """Maps, from 3 rooms without locks at difficulty 0 to 14 rooms with 3 locks at 1.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From 0, the easiest, to 1.
        """
        rng = random.Random(f"text_world:{seed}")
        for _ in range(count):
            yield _task(
                rng.randrange(2**31), rooms=3 + round(11 * difficulty), locks=round(3 * difficulty)
            )

    @classmethod
    def gold_turns(cls, task: TextWorldTask) -> Sequence[Sequence[Item]]:
        """The shortest way."""
        world = make_world(task.world_seed, task.rooms, task.locks)
        return [[assistant_message(action)] for action in world.solution()]


def command_in(message: str) -> str:
    """The command that `message` ends with: its last line, without a prompt sign or a label."""
    line = message.rstrip().rpartition("\n")[2]
    if len(line) > LONGEST_COMMAND:
        return ""
    words = line.lower().strip().removeprefix(">").strip().removeprefix("action:")
    return " ".join(words.strip("`*. ").split())


def _task(world_seed: int, *, rooms: int, locks: int) -> TextWorldTask:
    world = make_world(world_seed, rooms, locks)
    max_moves = 3 * len(world.solution())
    rules = RULES.format(treasure=world.treasure, home=world.rooms[world.home], moves=max_moves)
    row = {
        "responses_create_params": {
            "input": [
                {"role": "system", "content": rules},
                {"role": "user", "content": world.look(world.start())},
            ]
        },
        "world_seed": world_seed,
        "rooms": rooms,
        "locks": locks,
        "max_moves": max_moves,
    }
    return TextWorldTask.from_row(row)
