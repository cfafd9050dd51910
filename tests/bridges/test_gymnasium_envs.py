from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium")

from gym_adapters import Environment, Episode, InvalidRow, Task, Transcript, tool  # noqa: E402
from gym_adapters.bridges.gymnasium_codecs import DiscreteCodec  # noqa: E402
from gym_adapters.bridges.gymnasium_envs import (  # noqa: E402
    GymnasiumEnvironment,
    TextEnv,
    from_gymnasium,
)
from gym_adapters.bridges.gymnasium_stepping import StepsTogether  # noqa: E402
from gym_adapters.items import assistant_message  # noqa: E402
from gym_adapters.rollouts import collect  # noqa: E402
from gym_adapters.testing import ScriptedChatModel  # noqa: E402


class Corridor(gymnasium.Env):
    """Walk right from a seeded place to cell 4."""

    live = 0
    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        type(self).live += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(0, 3))
        return self.cell, {}

    def step(self, action: int) -> Any:
        if action == 0 and self.cell == 0:
            raise RuntimeError("into the wall")
        self.cell += 1 if action == 1 else -1
        return self.cell, 1.0 if self.cell == 4 else -0.25, self.cell == 4, False, {}

    def close(self) -> None:
        type(self).live -= 1


CODEC = DiscreteCodec(
    ["left", "right"], instructions="Walk.", observation_text=lambda cell: f"cell {cell}"
)
WALK = from_gymnasium(Corridor, CODEC, name="corridor")


def row(**fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": "Be quick."}, **fields}


async def play(*messages: str, seed: int = 1) -> Episode:
    task = WALK.task_type.from_row(row(seed=seed))
    async with (
        WALK.open_resources(WALK.Config()) as pool,
        Episode(WALK, task, resources=pool) as episode,
    ):
        step = await episode.start()
        for message in messages:
            if step.done:
                break
            step = await episode.advance([assistant_message(message)])
    assert Corridor.live == 0
    return episode


async def test_a_gymnasium_environment_is_played_in_text() -> None:
    plain = Corridor()
    first, _ = plain.reset(seed=1)
    plain.close()
    episode = await play(*["I go Right."] * 4)
    assert episode.prompt[0]["content"] == "Be quick."
    assert episode.prompt[1]["content"] == (
        f"Walk.\nAnswer with one of: left, right.\n\ncell {first}"
    )
    steps = 4 - first
    assert episode.outcome.reward.value == 1.0 - 0.25 * (steps - 1)
    assert episode.outcome.reward.info == {"steps": steps}
    assert episode.outcome.stop_reason == "environment"


async def test_a_message_without_an_action_takes_no_step() -> None:
    episode = await play("hm")
    assert episode.output[-1]["content"] == "answer with one of: left, right"
    assert episode.environment._rewards == []


async def test_an_environment_that_raises_is_an_unscored_rollout() -> None:
    episode = await play(*["left"] * 5)
    assert episode.outcome.failure.boundary == "environment"
    assert "into the wall" in episode.outcome.failure.message


async def test_collect_runs_it() -> None:
    model = ScriptedChatModel(["right"] * 4)
    task = WALK.task_type.from_row(row(seed=1))
    rollouts = [rollout async for rollout in collect(WALK, [task], model, num_repeats=3)]
    assert len({rollout.reward for rollout in rollouts}) == 1
    assert rollouts[0].reward is not None
    assert Corridor.live == 0


async def test_a_codec_is_derived_from_the_spaces() -> None:
    walk = from_gymnasium(Corridor, name="derived")
    assert Corridor.live == 0
    model = ScriptedChatModel(["1"] * 4)
    task = walk.task_type.from_row(row(seed=1))
    (rollout,) = [rollout async for rollout in collect(walk, [task], model)]
    assert rollout.prompt[1]["content"].startswith("Answer with one of: 0, 1.")
    assert rollout.reward is not None


async def test_steps_taken_together_give_what_steps_alone_give() -> None:
    walk = from_gymnasium(Corridor, CODEC, name="together", vectorised=True)

    async def played(message: str, steps: StepsTogether) -> Episode:
        task = walk.task_type.from_row(row(seed=1))
        async with Episode(walk, task, resources=steps) as episode:
            step = await episode.start()
            while not step.done:
                step = await episode.advance([assistant_message(message)])
        return episode

    async with walk.open_resources(walk.Config()) as steps:
        many = await asyncio.gather(
            *(played("left" if n == 3 else "right", steps) for n in range(40))
        )
    alone = await play(*["right"] * 4)
    assert "into the wall" in many.pop(3).outcome.failure.message
    assert {each.outcome.reward.value for each in many} == {alone.outcome.reward.value}
    # Making, resetting, at most 4 steps and closing, each of all attempts at once.
    assert steps.rounds < 40
    assert Corridor.live == 0


async def test_an_id_names_an_environment() -> None:
    cart = from_gymnasium("CartPole-v1", DiscreteCodec(["left", "right"], instructions="Balance."))
    assert issubclass(cart, GymnasiumEnvironment)
    assert cart.name == "CartPole-v1"
    task = cart.task_type.from_row(row(seed=0))
    async with (
        cart.open_resources(cart.Config()) as pool,
        Episode(cart, task, resources=pool) as episode,
    ):
        await episode.start()
        step = await episode.advance([assistant_message("left")])
    assert step.items[0]["content"].startswith("[")


class Counter(Environment[Task]):
    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.count = 0

    @tool
    async def add(self, n: int) -> int:
        """Add."""
        self.count += n
        return self.count

    async def reply(self, message: str) -> str | None:
        if message == "crash":
            raise ValueError("a bug")
        return None if message == "done" else "go on"

    async def verify(self, transcript: Transcript) -> float:
        return float(self.count)

    async def close(self) -> None:
        type(self).live -= 1


def test_ours_is_a_gymnasium_environment() -> None:
    env = TextEnv(Counter, [row()])
    observation, info = env.reset(seed=3)
    assert observation == "Be quick."
    assert [each["name"] for each in info["tools"]] == ["add"]
    call = {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"n": 4}'}
    assert env.step(json.dumps([call]))[:4] == ("4", 0.0, False, False)
    assert env.step("hm")[:4] == ("go on", 0.0, False, False)
    assert env.observation_space.contains("go on\n✓")
    _, reward, terminated, truncated, info = env.step("done")
    assert (reward, terminated, truncated) == (4.0, True, False)
    assert info["stop_reason"] == "answered"
    env.reset()
    assert Counter.live == 1
    with pytest.raises(RuntimeError, match="a bug"):
        env.step("crash")
    env.close()
    assert Counter.live == 0


def test_without_a_row_there_is_nothing_to_reset_to() -> None:
    env = TextEnv(Counter)
    with pytest.raises(InvalidRow, match="no row"):
        env.reset()
    assert env.reset(options={"row": row()})[0] == "Be quick."
    with pytest.raises(InvalidRow):
        env.step('[{"type": "odd"}]')
    env.close()
