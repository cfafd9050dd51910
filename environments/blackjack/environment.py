"""One hand of blackjack."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Literal, cast

from gym_adapters import Environment, Reward, Task, Transcript, Unsupported
from gym_adapters.items import Item, assistant_message, user_message

__all__ = ["Blackjack", "BlackjackTask", "hand_value"]

Action = Literal["hit", "stand"]
Result = Literal["win", "draw", "loss", "bust", "forfeit"]
REWARDS: dict[Result, float] = {
    "win": 1.0,
    "draw": 0.0,
    "loss": -1.0,
    "bust": -1.0,
    "forfeit": -1.0,
}
RANKS = ("2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K", "A")
DEALER_STANDS_AT = 17
ASKED = "Respond with <action>hit</action> or <action>stand</action>."
RULES = (
    "You are playing one hand of blackjack against a dealer who stands at 17. Numbers count their "
    "value, J, Q and K count 10, an ace 11 or 1. Over 21 you lose. " + ASKED
)
_ACTION = re.compile(r"<action>\s*+(hit|stand)\s*+</action>", re.IGNORECASE)


class BlackjackTask(Task):
    """A hand.

    Attributes:
        seed: Decides the cards, so that all attempts get the same; without it, every attempt gets
            its own.
    """

    seed: int | None = None


class Blackjack(Environment[BlackjackTask]):
    """Hit or stand until the hand is over.

    Cards are drawn with replacement. The reward is 1 for a win, 0 for a draw and -1 for a loss; a
    message without an action forfeits the hand, and so does not finishing it.
    """

    name = "blackjack"

    async def start(self) -> None:
        """Deal."""
        self.cards = self.rng if self.task.seed is None else random.Random(self.task.seed)
        self.player = [self._card(), self._card()]
        self.dealer = [self._card(), self._card()]
        self.result: Result = "forfeit"

    async def prompt(self) -> Sequence[Item]:
        """The row's input and the hand, in one user message where the row ends with one."""
        *before, last = self.task.input
        if (
            last["type"] == "message"
            and last["role"] == "user"
            and isinstance(last["content"], str)
        ):
            return [*before, user_message(f"{last['content']}\n\n{self._table()}")]
        return [*before, last, user_message(self._table())]

    async def reply(self, message: str) -> str | None:
        """The hand after another card; none once it is over."""
        action = _action(message)
        if action == "hit":
            self.player.append(self._card())
            if hand_value(self.player) <= 21:
                return self._table()
            self.result = "bust"
        elif action == "stand":
            self.result = self._stand()
        return None

    async def verify(self, transcript: Transcript) -> Reward:
        """What the hand was worth."""
        return Reward(
            REWARDS[self.result],
            info={"result": self.result, "player": self.player, "dealer": self.dealer},
        )

    def _stand(self) -> Result:
        while hand_value(self.dealer) < DEALER_STANDS_AT:
            self.dealer.append(self._card())
        player, dealer = hand_value(self.player), hand_value(self.dealer)
        if dealer > 21 or player > dealer:
            return "win"
        return "draw" if player == dealer else "loss"

    def _card(self) -> str:
        return self.cards.choice(RANKS)

    def _table(self) -> str:
        hand = ", ".join(self.player)
        return (
            f"Your hand: [{hand}] = {hand_value(self.player)}\n"
            f"Dealer shows: {self.dealer[0]}\n{ASKED}"
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[BlackjackTask]:
        """Hands that can be won, each with its own seed; `difficulty` makes no difference."""
        rng = random.Random(seed)
        given = 0
        while given < count:
            task = BlackjackTask.from_row(
                {
                    "responses_create_params": {
                        "input": [
                            {"role": "system", "content": RULES},
                            {"role": "user", "content": "Deal me in."},
                        ]
                    },
                    "seed": rng.getrandbits(32),
                }
            )
            if _winning_hits(task) is not None:
                given += 1
                yield task

    @classmethod
    def gold_turns(cls, task: BlackjackTask) -> Sequence[Sequence[Item]]:
        """The actions that win, knowing the cards.

        Raises:
            Unsupported: If the row has no seed, or its hand can't be won.
        """
        hits = _winning_hits(task)
        if hits is None:
            raise Unsupported("there is no sure win: the row has no seed, or its hand can't be won")
        actions = ["hit"] * hits + ["stand"]
        return [[assistant_message(f"<action>{action}</action>")] for action in actions]


def hand_value(hand: Sequence[str]) -> int:
    """The value of a hand; aces count 11 as long as that is not over 21."""
    aces = hand.count("A")
    total = sum(10 if card in ("J", "Q", "K") else 1 if card == "A" else int(card) for card in hand)
    return total + 10 if aces and total <= 11 else total


def _action(message: str) -> Action | None:
    """The last action that `message` gives."""
    found = _ACTION.findall(message)
    return cast("Action", found[-1].lower()) if found else None


def _winning_hits(task: BlackjackTask) -> int | None:
    """How many cards to take before standing wins; ``None`` if no number does."""
    if task.seed is None:
        return None
    cards = random.Random(task.seed)
    player = [cards.choice(RANKS), cards.choice(RANKS)]
    dealt = [cards.choice(RANKS), cards.choice(RANKS)]
    for hits in range(21):
        if hand_value(player) > 21:
            return None
        rest, dealer = random.Random(), list(dealt)
        rest.setstate(cards.getstate())
        while hand_value(dealer) < DEALER_STANDS_AT:
            dealer.append(rest.choice(RANKS))
        if hand_value(dealer) > 21 or hand_value(player) > hand_value(dealer):
            return hits
        player.append(cards.choice(RANKS))
    return None
