"""Haggling: the reward is the share of the gap, for each party its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gym_adapters.environments.negotiation.environment import Negotiation, NegotiationTask
from gym_adapters.environments.negotiation.parties import Move, ScriptedCounterpart, paired

from gym_adapters import Episode, EpisodeLimits, InvalidRow, Outcome
from gym_adapters.items import function_call
from gym_adapters.registry import load_environment


def task(role: str = "buyer", *, opens: bool = True, limit: int = 200, other: int = 100) -> Any:
    side = {"first": 240 if role == "buyer" else 60, "limit": other, "rounds": 3}
    return NegotiationTask.from_row(
        {
            "responses_create_params": {"input": "Haggle."},
            "role": role,
            "limit": limit,
            "other_side": side,
            "opens": opens,
        }
    )


def call(name: str, **arguments: Any) -> Any:
    return [function_call(name, json.dumps(arguments), "call_0")]


async def play(asked: NegotiationTask, *turns: Any) -> tuple[list[dict[str, Any]], Outcome | None]:
    heard = []
    async with Episode(Negotiation, asked) as episode:
        await episode.start()
        for turn in turns:
            step = await episode.advance(turn)
            heard += [json.loads(item["output"]) for item in step.items]
    return heard, episode.outcome


def value(outcome: Outcome | None) -> float:
    assert outcome is not None
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value


async def test_the_scripted_party_concedes_to_its_limit_and_then_leaves() -> None:
    low = call("offer", price=1, message="")
    heard, outcome = await play(task(), low, low, low)
    assert [(h["other_side"], h["price"]) for h in heard] == [
        ("offer", 240),
        ("offer", 170),
        ("leave", None),
    ]
    assert value(outcome) == 0.0


@pytest.mark.parametrize(
    ("price", "reward"), [(100, 1.0), (150, 0.5), (170, 0.3), (200, 0.0), (239, 0.0)]
)
async def test_the_reward_is_the_share_of_the_gap(price: int, reward: float) -> None:
    low = call("offer", price=1, message="")
    heard, outcome = await play(task(), low, low, call("offer", price=price, message=""))
    assert heard[-1]["other_side"] == "accept"
    assert value(outcome) == pytest.approx(reward)


async def test_a_seller_gains_by_a_high_price() -> None:
    asked = task("seller", limit=100, other=200)
    high = call("offer", price=200, message="")
    heard, outcome = await play(asked, high, high, high)
    assert [h["other_side"] for h in heard] == ["offer", "offer", "accept"]
    assert value(outcome) == 1.0


async def test_accepting_takes_the_last_price_asked_and_needs_one() -> None:
    heard, _ = await play(task(), call("accept"))
    assert heard[0]["error"]["message"] == "the other side has asked no price yet"
    low = call("offer", price=1, message="")
    heard, outcome = await play(task(), low, low, call("accept"))
    assert heard[-1] == {"deal": 170}
    assert value(outcome) == pytest.approx(0.3)


async def test_leaving_is_worth_nothing() -> None:
    heard, outcome = await play(task(), call("leave"))
    assert (heard, value(outcome)) == ([{"deal": None}], 0.0)


async def test_only_the_side_that_does_not_open_can_listen_and_only_first() -> None:
    heard, _ = await play(task(), call("listen"))
    assert heard[0]["error"]["type"] == "tool_error"
    heard, _ = await play(task(opens=False), call("listen"), call("listen"))
    assert (heard[0]["price"], heard[1]["error"]["type"]) == (240, "tool_error")


async def test_two_policies_have_an_episode_and_a_reward_each() -> None:
    for_buyer, for_seller = paired(patience=5)
    buyer = Episode(Negotiation, task("buyer"), resources=for_buyer)
    seller = Episode(
        Negotiation, task("seller", opens=False, limit=100, other=200), resources=for_seller
    )

    async def drive(episode: Episode, turns: list[Any]) -> list[str]:
        heard = []
        async with episode:
            await episode.start()
            for turn in turns:
                step = await episode.advance(turn)
                heard += [item["output"] for item in step.items]
        return heard

    buyer_turns = [call("offer", price=110, message="hi"), call("accept")]
    seller_turns = [call("listen"), call("offer", price=140, message="no")]
    buyer_heard, seller_heard = await asyncio.gather(
        drive(buyer, buyer_turns), drive(seller, seller_turns)
    )
    assert json.loads(buyer_heard[0]) == {"other_side": "offer", "price": 140, "message": "no"}
    assert json.loads(seller_heard[0])["message"] == "hi"
    assert json.loads(seller_heard[1])["other_side"] == "accept"
    assert value(buyer.outcome) == pytest.approx(0.6)
    assert value(seller.outcome) == pytest.approx(0.4)


async def test_a_party_whose_partner_has_gone_hears_that_it_left() -> None:
    for_buyer, for_seller = paired(patience=5)
    async with Episode(Negotiation, task(), resources=for_seller) as other:
        await other.start()
    async with Episode(Negotiation, task(), resources=for_buyer) as episode:
        await episode.start()
        step = await episode.advance(call("offer", price=1, message=""))
    assert json.loads(step.items[0]["output"])["other_side"] == "leave"
    assert value(episode.outcome) == 0.0


async def test_a_party_that_makes_no_move_leaves_the_rollout_unscored() -> None:
    for_buyer, _ = paired(patience=0.05)
    limits = EpisodeLimits(tool_timeout=60)
    async with Episode(Negotiation, task(), resources=for_buyer, limits=limits) as episode:
        await episode.start()
        step = await episode.advance(call("offer", price=1, message=""))
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert "no move within" in step.outcome.failure.message


async def test_a_tough_party_concedes_later() -> None:
    async def asked(toughness: float) -> int | None:
        party = ScriptedCounterpart("seller", 300, 100, rounds=5, toughness=toughness)
        for _ in range(3):
            move = await party.answer(Move("offer", 1))
        assert move is not None
        return move.price

    assert (await asked(1.0), await asked(3.0)) == (200, 275)


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("negotiation").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in Negotiation.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made


@pytest.mark.parametrize(
    ("role", "limit", "other"), [("buyer", 100, 200), ("buyer", 100, 100), ("seller", 200, 100)]
)
def test_limits_without_a_gap_between_them_are_refused(role: str, limit: int, other: int) -> None:
    with pytest.raises(InvalidRow, match=r"other_side\.limit"):
        task(role, limit=limit, other=other)


def test_a_first_price_past_the_partys_own_limit_is_refused() -> None:
    with pytest.raises(InvalidRow, match=r"other_side\.first"):
        task("buyer", limit=400, other=300)
