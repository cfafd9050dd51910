from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import in_process
import pytest
from in_process import stamped
from scripted_policy import kind_of, spelled

from gym_adapters import Task, load_environment
from gym_adapters.adapters.nemo_rl.message_logs import message_log
from gym_adapters.adapters.nemo_rl.rollouts import RolloutActor
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows
from gym_adapters.errors import InvalidConfig, InvalidRow, Unsupported, UsageError
from gym_adapters.testing.nemo_rl_server import NemoChatServer


@pytest.fixture
async def actor(server: NemoChatServer, tokenizer: Any) -> AsyncIterator[RolloutActor]:
    made = RolloutActor(server.url, "policy")
    made.set_tokenizer(tokenizer)
    yield made
    await asyncio.to_thread(made.shutdown)


async def streamed(actor: RolloutActor, rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {n: result async for n, result, _ in actor.run_rollouts(rows, "timing")}


async def test_tokens_masks_logprobs_and_rewards_are_those_of_the_agent_in_process(
    actor: RolloutActor, tokenizer: Any, sums: list[Task]
) -> None:
    results = await streamed(actor, stamped(nemo_rl_rows("arithmetic_tools", sums), 4))
    expected = await in_process.rollouts(
        tokenizer, "arithmetic_tools", [task for task in sums for _ in range(4)]
    )
    assert {kind_of(f"0-{row}") for row in range(12)} == {"right", "wrong", "cut", "guess"}
    assert sorted(results) == list(range(12))
    for row, rollout in enumerate(expected):
        (segment,) = rollout.segments
        assert results[row]["message_log"] == message_log(segment)
        assert results[row]["full_result"]["reward"] == rollout.reward
        assert results[row]["full_result"]["stop_reason"] == rollout.outcome.stop_reason.value
    assert len({rollout.reward for rollout in expected}) > 1


async def test_a_failed_rollout_is_masked_and_the_others_are_as_without_it(
    actor: RolloutActor, server: NemoChatServer, sums: list[Task]
) -> None:
    rows = stamped(nemo_rl_rows("arithmetic_tools", sums[:1]), 4)
    server.failures["0-2"] = 500
    results = await streamed(actor, rows)
    masked = {n: r["full_result"]["instance_config"]["mask_sample"] for n, r in results.items()}
    assert masked == {0: False, 1: False, 2: True, 3: False}
    assert results[2]["full_result"]["failure"]["boundary"] == "model"
    assert "told to fail" in results[2]["full_result"]["failure"]["message"]


async def test_timings_come_with_the_last_result(actor: RolloutActor, sums: list[Task]) -> None:
    rows = stamped(nemo_rl_rows("arithmetic_tools", sums))
    timings = [told async for _, _, told in actor.run_rollouts(rows, "timing")]
    assert [told is None for told in timings] == [True, True, False]
    assert timings[-1] is not None
    assert list(timings[-1]) == ["timing/gym_adapters_rollouts"]


async def test_rewards_relative_to_the_group_are_made_over_the_rows_of_a_task(
    actor: RolloutActor, server: NemoChatServer, tokenizer: Any
) -> None:
    environment = load_environment("preference").environment
    tasks = list(environment.generate_tasks(1, seed=0, difficulty=1.0))
    words = tasks[0].to_row()["required_words"]
    server.say = lambda ids, name: spelled(
        tokenizer, " ".join(words[: int(name[-1])]) + " is all.<|im_end|>"
    )
    results = await streamed(actor, stamped(nemo_rl_rows("preference", tasks), 4))
    rewards = [results[n]["full_result"]["reward"] for n in range(4)]
    assert sorted(rewards) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


async def test_a_template_that_the_server_does_not_share_ends_the_run(
    actor: RolloutActor, server: NemoChatServer, sums: list[Task]
) -> None:
    server.opening = "<think>\n"
    with pytest.raises(Unsupported, match="same template"):
        await streamed(actor, stamped(nemo_rl_rows("arithmetic_tools", sums[:1])))


async def test_rows_of_somebody_else_and_no_rows_are_refused(actor: RolloutActor) -> None:
    with pytest.raises(InvalidRow, match="write_nemo_rl_rows"):
        await streamed(actor, [{"_rowidx": 0, "responses_create_params": {"input": "hi"}}])
    with pytest.raises(InvalidRow, match="no rows"):
        await streamed(actor, [])


async def test_the_tokenizer_comes_first(server: NemoChatServer, sums: list[Task]) -> None:
    actor = RolloutActor(server.url, "policy")
    with pytest.raises(UsageError, match="set_tokenizer"):
        await streamed(actor, stamped(nemo_rl_rows("arithmetic_tools", sums[:1])))


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(InvalidConfig, match=r"env\.nemo_gym\.gym_adapters: max_turn"):
        RolloutActor("http://localhost:1/v1", "policy", {"max_turn": 3})
