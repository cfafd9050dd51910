"""The customer's hidden goal decides, and they must have said yes to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from gym_adapters.environments.user_simulation.customer import (
    Goal,
    Order,
    ScriptedCustomer,
    broken_rule,
)
from gym_adapters.environments.user_simulation.environment import (
    UserSimulation,
    UserSimulationConfig,
    UserSimulationTask,
)
from gym_adapters.environments.user_simulation.model_customer import ModelCustomer
from hypothesis import given, strategies as st

from gym_adapters import Episode, InvalidConfig, InvalidRow, JudgeError, Outcome, StopReason
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    item_text,
    message,
    user_message,
)
from gym_adapters.registry import load_environment
from gym_adapters.verifiers.judge import ScriptedJudge

WANTED = {"bike": "e-bike", "days": 2, "start": "Friday", "helmet": False}
ASK = "Which kind of bike, for how many days, from when, and with a helmet?"


def goal(**changes: Any) -> Goal:
    return Goal.model_validate({"order": WANTED, **changes})


def task(**changes: Any) -> UserSimulationTask:
    row = {"responses_create_params": {"input": "Hi"}, "goal": {"order": WANTED, **changes}}
    return UserSimulationTask.from_row(row)


def book(**order: Any) -> Any:
    return [function_call("book", json.dumps({**WANTED, **order}), "call_0")]


async def play(asked: UserSimulationTask, *turns: Any) -> tuple[list[str], Outcome | None]:
    heard = []
    async with Episode(UserSimulation, asked) as episode:
        await episode.start()
        for turn in turns:
            said = [assistant_message(turn)] if isinstance(turn, str) else turn
            step = await episode.advance(said)
            heard += [item.get("output") or item_text(item) for item in step.items]
    return heard, episode.outcome


def components(outcome: Outcome | None) -> tuple[float, dict[str, float]]:
    assert outcome is not None
    assert outcome.reward is not None, outcome.failure
    return outcome.reward.value, dict(outcome.reward.components)


async def test_a_confirmed_order_is_worth_1() -> None:
    heard, outcome = await play(task(), ASK, "Is that correct?", book(), "It is booked.")
    assert heard[0] == "An e-bike. For 2 days. From Friday on. No helmet."
    assert heard[1] == "Yes, please."
    assert components(outcome) == (1.0, {"right_order": 1.0, "agreed": 1.0})


async def test_the_right_order_without_a_yes_is_worth_nothing() -> None:
    _, outcome = await play(task(), ASK, book(), "It is booked.")
    assert components(outcome) == (0.0, {"right_order": 1.0, "agreed": 0.0})


async def test_a_second_booking_costs_the_reward() -> None:
    _, outcome = await play(task(), "Is that correct?", book(), book(days=1), "It is booked.")
    assert components(outcome)[0] == 0.0


async def test_a_change_of_mind_takes_the_yes_back() -> None:
    asked = task(change={"days": 3})
    heard, outcome = await play(asked, "Is that correct?", book(), "It is booked.")
    assert heard[0] == "Wait, I changed my mind: For 3 days."
    assert components(outcome)[0] == 0.0
    turns = ("Is that correct?", "Is that correct?", book(days=3), "It is booked.")
    assert components((await play(asked, *turns))[1])[0] == 1.0


async def test_the_rules_hold_in_the_tool_and_a_refusal_gets_the_fallback() -> None:
    asked = task(order={**WANTED, "days": 5}, fallback={"days": 3})
    heard, outcome = await play(
        asked,
        ASK,
        book(days=5),
        "Sorry, at most 3 days.",
        "Is that correct?",
        book(days=3),
        "It is booked.",
    )
    assert "against the house rules" in heard[1]
    assert heard[2] == "I see. For 3 days."
    assert components(outcome)[0] == 1.0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What type of bike would you like?", "An e-bike."),
        ("How long do you need it?", "For 2 days."),
        ("And when does it start?", "From Friday on."),
        ("Would you like a helmet?", "No helmet."),
        ("Nice weather.", "Sorry, I don't follow. What do you need to know?"),
    ],
)
async def test_the_customer_answers_what_was_asked(question: str, answer: str) -> None:
    assert await ScriptedCustomer(goal()).reply(question) == answer


async def test_the_customer_leaves_when_patience_is_at_an_end() -> None:
    customer = ScriptedCustomer(goal(patience=2))
    assert await customer.reply("Hm.") is not None
    assert await customer.reply("Hm.") is None


@given(st.text())
async def test_the_customer_never_fails(text: str) -> None:
    answer = await ScriptedCustomer(goal()).reply(text)
    assert answer is None or answer


async def test_another_customer_can_take_the_scripted_ones_place() -> None:
    class Silent:
        confirmed = Order.model_validate(WANTED)

        def __init__(self, wanted: Goal) -> None:
            self.goal = wanted

        async def reply(self, message: str) -> None:
            return None

    async with Episode(UserSimulation, task(), resources=Silent) as episode:
        await episode.start()
        await episode.advance(book())
        await episode.advance([assistant_message("Done")])
    assert components(episode.outcome)[0] == 1.0


async def test_a_model_plays_the_customer_where_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts: list[Sequence[Item]] = []
    answers = iter(["A tandem, please.", "Yes, that is it. [[YES]]", "Bye! [[LEAVE]]"])

    async def customer(prompt: Sequence[Item]) -> str:
        prompts.append(prompt)
        return next(answers)

    module = ModuleType("played_customer")
    module.customer = customer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "played_customer", module)
    config = UserSimulationConfig(customer="played_customer:customer")
    async with (
        open_episode_resources(UserSimulation, config) as make,
        Episode(UserSimulation, task(), config=config, resources=make) as episode,
    ):
        await episode.start()
        step = await episode.advance([assistant_message("Which bike?")])
        assert step.items == (user_message("A tandem, please."),)
        step = await episode.advance([assistant_message("So it is all that?")])
        assert step.items == (user_message("Yes, that is it."),)
        await episode.advance(book())
        step = await episode.advance([assistant_message("Done")])
    assert components(step.outcome) == (1.0, {"right_order": 1.0, "agreed": 1.0})
    assert [item_text(item) for item in prompts[1][1:]] == [
        "Which bike?",
        "A tandem, please.",
        "So it is all that?",
    ]
    told = item_text(prompts[0][0])
    assert prompts[0][0] == message("system", told)
    assert "[[YES]]" in told
    assert str(WANTED["bike"]) in told


async def test_a_model_that_agrees_to_nothing_gives_no_reward_and_one_that_fails_none_at_all() -> (
    None
):
    for said, reward in (("Hm.", 0.0), (JudgeError("down"), None)):
        judge = ScriptedJudge([said])
        async with Episode(
            UserSimulation, task(), resources=partial(ModelCustomer, judge)
        ) as episode:
            await episode.start()
            step = await episode.advance([assistant_message("Shall I book it?")])
            if not step.done:
                await episode.advance(book())
                step = await episode.truncate(StopReason.MAX_TURNS)
        assert step.outcome is not None
        told = step.outcome.reward
        assert (None if told is None else told.value) == reward


async def test_a_customer_that_can_not_converse_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="can't converse"):
        async with open_episode_resources(UserSimulation, UserSimulationConfig(customer="exact")):
            pass


def test_generated_customers_get_harder() -> None:
    easy = list(UserSimulation.generate_tasks(60, seed=1, difficulty=0.0))
    hard = list(UserSimulation.generate_tasks(60, seed=1, difficulty=1.0))
    assert sum(bool(t.goal.change) for t in easy) == 0
    assert all(t.goal.change for t in hard)
    assert all(not broken_rule(t.goal.final) for t in (*easy, *hard))
    assert sum(bool(broken_rule(t.goal.order)) for t in hard) > 30


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("user_simulation").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in UserSimulation.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made


async def test_a_fallback_does_not_undo_a_change_of_mind() -> None:
    wanted = goal(
        order={**WANTED, "days": 6}, fallback={"days": 3}, change={"days": 2, "helmet": True}
    )
    customer = ScriptedCustomer(wanted)
    for said in (ASK, "Shall I book?", "Sorry, at most 3 days."):
        await customer.reply(said)
    assert customer.current == wanted.final


@pytest.mark.parametrize(
    "changes", [{"fallback": {"bike": "car"}}, {"change": {"days": 9}}, {"fallback": {"x": 1}}]
)
def test_a_goal_that_no_hire_can_meet_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRow, match="goal"):
        task(**changes)
