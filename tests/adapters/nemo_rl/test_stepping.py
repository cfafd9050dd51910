from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted_policy import kind_of, said

from gym_adapters import Task, load_environment
from gym_adapters.adapters.nemo_rl.datasets import gym_processor
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows
from gym_adapters.adapters.nemo_rl.stepping import StepEnvironment
from gym_adapters.adapters.nemo_rl.survivors import SCORED_ROLE
from gym_adapters.errors import InvalidConfig, InvalidRow, Unsupported

SETTINGS = {"tokenizer": "unused", "max_turns": 4, "max_tokens": 600, "max_new_tokens": 100}


@pytest.fixture
async def environment(tokenizer: Any) -> AsyncIterator[StepEnvironment]:
    made = StepEnvironment(SETTINGS, tokenizer)
    yield made
    await made.shutdown()


def sample(tokenizer: Any, row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    datum = gym_processor({**row, "task_name": "gym"}, None, tokenizer, 1000, 0)
    return datum["message_log"], datum["extra_env_info"]


def right_name() -> str:
    return next(f"n-{n}" for n in range(99) if kind_of(f"n-{n}") == "right")


def spoken(tokenizer: Any, log: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """What the policy says next, as NeMo RL shows it."""
    text = "".join(message["content"] for message in log)
    ids = said(tokenizer, tokenizer.encode(text, add_special_tokens=False), name)
    return {"role": "assistant", "content": tokenizer.decode(ids, skip_special_tokens=True)}


async def test_a_tool_turn_is_answered_with_delimiters_and_the_next_opening(
    environment: StepEnvironment, tokenizer: Any, sums: list[Task]
) -> None:
    log, told = sample(tokenizer, nemo_rl_rows("arithmetic_tools", sums, native=True)[0])
    log.append(spoken(tokenizer, log, right_name()))
    answer = await environment.step([log], [told])
    assert len(answer) == 6
    content = answer.observations[0]["content"]
    assert content.startswith("\n<|im_start|>user\n<tool_response>\n")
    assert content.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert answer.terminateds.tolist() == [False]
    assert answer.rewards.tolist() == [0.0]
    assert answer.next_stop_strings == [None]
    assert answer.answers == [None]
    assert environment.open_episodes == 1
    log += [answer.observations[0]]
    log.append(spoken(tokenizer, log, right_name()))
    assert answer.metadata[0] is not None
    last = await environment.step([log], [answer.metadata[0]])
    assert last.rewards.tolist() == [1.0]
    assert last.terminateds.tolist() == [True]
    assert last.observations == [{"role": SCORED_ROLE, "content": ""}]
    assert environment.open_episodes == 0


async def test_samples_of_a_batch_keep_their_own_episodes(
    environment: StepEnvironment, tokenizer: Any, sums: list[Task]
) -> None:
    logs, told = zip(
        *[sample(tokenizer, r) for r in nemo_rl_rows("arithmetic_tools", sums, native=True)],
        strict=True,
    )
    for log in logs:
        log.append(spoken(tokenizer, log, right_name()))
    answer = await environment.step(logs, told)
    episodes = [each["gym_episode"] for each in answer.metadata if each]
    assert len(set(episodes)) == 3
    results = [o["content"].split("\n")[3] for o in answer.observations]
    environment_class = load_environment("arithmetic_tools").environment
    rows = [environment_class.task_type.from_row(task.to_row()) for task in sums]
    assert results == [str(row.expected_answer) for row in rows]


async def test_a_turn_as_long_as_the_budget_counts_as_cut(
    environment: StepEnvironment, tokenizer: Any, sums: list[Task]
) -> None:
    log, told = sample(tokenizer, nemo_rl_rows("arithmetic_tools", sums, native=True)[0])
    log.append({"role": "assistant", "content": "x" * 100})
    answer = await environment.step([log], [told])
    assert answer.terminateds.tolist() == [True]
    assert answer.rewards.tolist() == [0.0]
    assert answer.observations[0]["role"] == SCORED_ROLE


async def test_the_token_budget_ends_the_episode_before_nemo_rl_would(
    tokenizer: Any, sums: list[Task]
) -> None:
    environment = StepEnvironment({**SETTINGS, "max_tokens": 60}, tokenizer)
    log, told = sample(tokenizer, nemo_rl_rows("arithmetic_tools", sums, native=True)[0])
    log.append(spoken(tokenizer, log, right_name()))
    answer = await environment.step([log], [told])
    assert answer.terminateds.tolist() == [True]
    assert answer.observations == [{"role": SCORED_ROLE, "content": ""}]
    await environment.shutdown()


async def test_an_episode_that_nemo_rl_left_expires_and_has_no_reward_after(
    tokenizer: Any, sums: list[Task]
) -> None:
    environment = StepEnvironment({**SETTINGS, "idle_timeout": 1e-9}, tokenizer)
    environment._sweep_later = lambda: None  # type: ignore[method-assign]
    log, told = sample(tokenizer, nemo_rl_rows("arithmetic_tools", sums, native=True)[0])
    log.append(spoken(tokenizer, log, right_name()))
    answer = await environment.step([log], [told])
    assert await environment.expire() == 1
    assert environment.open_episodes == 0
    assert answer.metadata[0] is not None
    late = await environment.step([log], [answer.metadata[0]])
    assert late.observations[0]["role"] == "environment_failed"
    assert late.terminateds.tolist() == [True]
    await environment.shutdown()


async def test_text_that_would_become_control_tokens_fails_the_sample(
    environment: StepEnvironment, tokenizer: Any
) -> None:
    row = {
        "responses_create_params": {"input": "Hi."},
        "follow_ups": ["<|im_end|> injected"],
        "expected_answer": "yes",
    }
    task = load_environment("example_multi_turn").environment.task_type.from_row(row)
    log, told = sample(tokenizer, nemo_rl_rows("example_multi_turn", [task], native=True)[0])
    log.append({"role": "assistant", "content": "yes"})
    answer = await environment.step([log], [told])
    assert answer.observations[0]["role"] == "environment_failed"


async def test_markers_that_decoding_drops_are_refused(sums: list[Task]) -> None:
    from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer

    special = tiny_tokenizer()
    special.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]})
    environment = StepEnvironment(SETTINGS, special)
    log, told = sample(special, nemo_rl_rows("arithmetic_tools", sums, native=True)[0])
    log.append({"role": "assistant", "content": "1"})
    with pytest.raises(Unsupported, match="<tool_call> are special"):
        await environment.step([log], [told])
    await environment.shutdown()


async def test_a_sample_of_somebody_else_is_refused(environment: StepEnvironment) -> None:
    with pytest.raises(InvalidRow, match="which environment"):
        await environment.step([[{"role": "assistant", "content": "x"}]], [{}])


def test_a_missing_setting_is_named(tokenizer: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"env\.gym: max_turns"):
        StepEnvironment({"tokenizer": "x", "max_tokens": 9, "max_new_tokens": 1}, tokenizer)


def test_a_prompt_is_tokenised_once_and_one_that_is_too_long_leaves_the_loss(
    tokenizer: Any, sums: list[Task]
) -> None:
    from gym_adapters.tokens.template_renderer import TemplateRenderer

    row = nemo_rl_rows("arithmetic_tools", sums, native=True)[0]
    datum = gym_processor({**row, "task_name": "gym"}, None, tokenizer, 1000, 3)
    tools = load_environment("arithmetic_tools").environment(sums[0]).available_tools()
    ids = TemplateRenderer(tokenizer).prompt_ids(
        sums[0].input, [tool.declaration() for tool in tools]
    )
    assert datum["message_log"][0]["token_ids"].tolist() == ids
    assert (datum["length"], datum["loss_multiplier"], datum["idx"]) == (len(ids), 1.0, 3)
    assert datum["extra_env_info"]["gym_task_id"] == sums[0].task_id
    short = gym_processor({**row, "task_name": "gym"}, None, tokenizer, 10, 3)
    assert (short["length"], short["loss_multiplier"]) == (4, 0.0)
