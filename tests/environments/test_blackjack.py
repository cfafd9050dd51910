"""Blackjack by the rules, with cards that a seed decides."""

from __future__ import annotations

from typing import Any

import pytest
from gym_adapters.environments.blackjack.environment import (
    Blackjack,
    BlackjackTask,
    hand_value,
)

from gym_adapters import Episode, Reward, StopReason, Unsupported
from gym_adapters.items import assistant_message, item_text


def task(**fields: Any) -> BlackjackTask:
    row = {"responses_create_params": {"input": [{"role": "user", "content": "Deal me in."}]}}
    return BlackjackTask.from_row({**row, **fields})


@pytest.mark.parametrize(
    ("hand", "value"),
    [
        (["2", "3"], 5),
        (["K", "Q"], 20),
        (["A", "K"], 21),
        (["A", "A"], 12),
        (["A", "A", "9"], 21),
        (["A", "6", "K"], 17),
        (["10", "J", "2"], 22),
        (["A"] * 22, 22),
        ([], 0),
    ],
)
def test_the_value_of_a_hand(hand: list[str], value: int) -> None:
    assert hand_value(hand) == value


class Stacked(Blackjack):
    """Deals the cards that the row names."""

    async def start(self) -> None:
        self.stack = list(self.task.model_extra["cards"])  # type: ignore[index]
        await super().start()

    def _card(self) -> str:
        return str(self.stack.pop(0))


async def play(cards: list[str], *texts: str) -> tuple[Reward, list[str]]:
    """Reward, and the texts of the replies."""
    replies = []
    async with Episode(Stacked, task(cards=cards)) as episode:
        step = await episode.start()
        for text in texts:
            assert not step.done
            step = await episode.advance([assistant_message(text)])
            replies += [item_text(item) for item in step.items]
        if not step.done:
            step = await episode.truncate(StopReason.MAX_TURNS)
    assert step.outcome is not None
    assert step.outcome.reward is not None
    return step.outcome.reward, replies


HIT, STAND = "<action>hit</action>", "<action>stand</action>"


@pytest.mark.parametrize(
    ("cards", "texts", "value", "result"),
    [
        (["K", "9", "K", "8"], [STAND], 1.0, "win"),
        (["K", "8", "K", "8"], [STAND], 0.0, "draw"),
        (["K", "7", "K", "8"], [STAND], -1.0, "loss"),
        (["K", "7", "K", "6", "9"], [STAND], 1.0, "win"),
        (["K", "7", "K", "6", "5"], [STAND], -1.0, "loss"),
        (["5", "5", "K", "8", "A"], [HIT, STAND], 1.0, "win"),
        (["K", "6", "K", "8", "6"], [HIT], -1.0, "bust"),
        (["K", "K", "2", "2"], ["I stand."], -1.0, "forfeit"),
        (["K", "K", "2", "2"], [""], -1.0, "forfeit"),
        (["K", "K", "2", "2"], [], -1.0, "forfeit"),
        (["5", "5", "K", "8", "A"], [HIT], -1.0, "forfeit"),
        (["K", "9", "K", "8"], ["<ACTION> Stand </ACTION>"], 1.0, "win"),
        (["K", "9", "K", "8"], [f"Maybe {HIT}? No: {STAND}"], 1.0, "win"),
    ],
)
async def test_how_a_hand_ends(
    cards: list[str], texts: list[str], value: float, result: str
) -> None:
    reward, _ = await play(cards, *texts)
    assert reward.value == value
    assert reward.info["result"] == result


async def test_the_table_is_told_after_each_card() -> None:
    _, replies = await play(["2", "3", "K", "8", "A", "4"], HIT, HIT, STAND)
    assert [reply.splitlines()[0] for reply in replies] == [
        "Your hand: [2, 3, A] = 16",
        "Your hand: [2, 3, A, 4] = 20",
    ]
    assert all(reply.splitlines()[1] == "Dealer shows: K" for reply in replies)


async def prompt(asked: BlackjackTask, **kwargs: Any) -> str:
    async with Episode(Blackjack, asked, **kwargs) as episode:
        step = await episode.start()
    return "".join(map(item_text, step.items))


async def test_a_rows_seed_gives_all_attempts_the_same_cards() -> None:
    hands = {await prompt(task(seed=7), seed=s, rollout_index=i) for s in (0, 1) for i in range(5)}
    assert len(hands) == 1


async def test_without_a_seed_each_attempt_has_its_own_reproducible_cards() -> None:
    hands = [await prompt(task(), rollout_index=index) for index in range(10)]
    assert len(set(hands)) > 5
    assert hands == [await prompt(task(), rollout_index=index) for index in range(10)]


async def test_the_hand_is_told_in_the_last_user_message_or_after_it() -> None:
    asked = task(seed=1)
    async with Episode(Blackjack, asked) as episode:
        [only] = (await episode.start()).items
    assert item_text(only).startswith("Deal me in.\n\nYour hand: [")
    system = {"responses_create_params": {"input": [{"role": "system", "content": "Play."}]}}
    async with Episode(Blackjack, BlackjackTask.from_row(system)) as episode:
        first, second = (await episode.start()).items
    assert item_text(first) == "Play."
    assert item_text(second).startswith("Your hand: [")


def test_there_is_no_gold_without_a_seed() -> None:
    with pytest.raises(Unsupported, match="no sure win"):
        Blackjack.gold_turns(task())
