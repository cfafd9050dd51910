"""The text adventure: every map can be won, and only what is legal happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from gym_adapters.environments.text_world.environment import (
    TextWorld,
    TextWorldConfig,
    TextWorldTask,
    command_in,
)
from gym_adapters.environments.text_world.world import make_world
from hypothesis import given, strategies as st

from gym_adapters import Episode, EpisodeLimits
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.generation.constrained import off_policy_report
from gym_adapters.items import assistant_message, item_text
from gym_adapters.registry import load_environment


def task() -> TextWorldTask:
    return next(TextWorld.generate_tasks(1, seed=4, difficulty=0.5))


@given(st.integers(0, 10_000), st.integers(2, 16), st.integers(0, 4))
def test_every_map_can_be_won(seed: int, rooms: int, locks: int) -> None:
    world = make_world(seed, rooms, locks)
    assert len(world.rooms) == rooms
    assert len(world.locks) <= locks
    state = world.start()
    for action in world.solution():
        assert not world.won(state)
        state = world.actions(state)[action]
    assert world.won(state)


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("go north", "go north"),
        ("I think\n\n> Go  NORTH\n", "go north"),
        ("Action: take brass key.", "take brass key"),
        ("`go west`", "go west"),
        ("go north\nthen I look", "then i look"),
        ("", ""),
        ("go north" * 50, ""),
    ],
)
def test_the_last_line_is_the_command(message: str, command: str) -> None:
    assert command_in(message) == command


async def test_a_command_that_can_not_be_done_changes_nothing_but_counts() -> None:
    async with Episode(TextWorld, task()) as episode:
        await episode.start()
        before = episode.environment.state
        step = await episode.advance([assistant_message("fly home")])
        assert item_text(step.items[0]).startswith("You can't do that.\nYou are in the")
        assert (episode.environment.state, episode.environment.moves) == (before, 1)


async def test_the_game_is_lost_when_the_moves_are_used_up() -> None:
    asked = task()
    async with Episode(TextWorld, asked, limits=EpisodeLimits(max_turns=100)) as episode:
        step = await episode.start()
        while not step.done:
            step = await episode.advance([assistant_message("wait")])
    assert episode.turns == asked.max_moves
    assert step.outcome is not None
    assert step.outcome.reward is not None
    assert step.outcome.reward.value == 0.0


async def test_the_grammar_names_exactly_what_can_be_done() -> None:
    config = TextWorldConfig(show_actions=True)
    async with Episode(TextWorld, task(), config=config) as episode:
        await episode.start()
        environment = episode.environment
        actions = environment.legal_actions
        assert environment.grammar == "root ::= " + " | ".join(f'"{a}"' for a in actions)
        step = await episode.advance([assistant_message(actions[0])])
        assert item_text(step.items[0]).endswith(
            f"You can: {', '.join(environment.legal_actions)}."
        )


async def test_a_turn_is_constrained_only_where_that_is_asked_for() -> None:
    async with Episode(TextWorld, task()) as free:
        assert (await free.start(constraints=True)).constraint is None
    config = TextWorldConfig(constrained=True)
    async with Episode(TextWorld, task(), config=config) as episode:
        step = await episode.start(constraints=True)
        assert step.constraint == {"grammar": episode.environment.grammar}
        step = await episode.advance([assistant_message(episode.environment.legal_actions[0])])
        assert step.constraint == {"grammar": episode.environment.grammar}


async def test_a_model_held_to_the_grammar_never_says_what_can_not_be_done(tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="needs the constrained extra")
    from gym_adapters.generation.token_chat import TokenChatModel
    from gym_adapters.generation.transformers_generator import TransformersGenerator
    from gym_adapters.testing.tiny_model import tiny_policy
    from gym_adapters.tokens.output_parser import output_parser
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    policy = tiny_policy(size="small", cache_dir=tmp_path)
    tokenizer = policy.tokenizer
    async with TransformersGenerator(policy.load_model(), tokenizer, seed=1) as generator:
        model = TokenChatModel(
            generator,
            TemplateRenderer(tokenizer),
            output_parser(tokenizer, "hermes"),
            name="tiny",
        )
        rollout = await ToolAgent().run(
            Episode(
                TextWorld,
                task(),
                config=TextWorldConfig(constrained=True),
                limits=EpisodeLimits(max_turns=8),
            ),
            model,
        )

    assert rollout.outcome.reward is not None
    told = [item_text(item) for item in rollout.output]
    assert len(told) > 2
    assert not any("can't" in text for text in told)
    assert off_policy_report(rollout.segments).is_off_policy


async def test_the_prompt_shows_the_map_the_task_is_about() -> None:
    asked = task()
    world = make_world(asked.world_seed, asked.rooms, asked.locks)
    assert item_text(asked.input[1]) == world.look(world.start())
    assert world.treasure in item_text(asked.input[0])


def test_the_examples_are_the_generators_own() -> None:
    rows = [asked.to_row() for asked in load_environment("text_world").example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in TextWorld.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made
