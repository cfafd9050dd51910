"""verl's real V1 worker runs our loop; TransferQueue is recorded, and the servers are scripted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gym_adapters import InvalidConfig, Rollout, Task, Unsupported
from gym_adapters.adapters.verl import verl_overrides
from gym_adapters.adapters.verl.named_agent import named_agent

CALL = (
    '<tool_call>\n{{"name": "calculate", "arguments": {{"expression": "{}"}}}}\n</tool_call>'
    "<|im_end|>"
)
ANSWER = "{}<|im_end|>"


def solver(tokenizer: Any, tasks: Sequence[Any], wrong: Sequence[int] = ()) -> Any:
    """Solves whatever it is asked; call numbers in `wrong` answer something else."""

    def script(number: int, prompt_ids: list[int]) -> str:
        text = tokenizer.decode(prompt_ids)
        task = next(it for it in tasks if it.input[0]["content"] in text)
        if "<tool_response>" not in text:
            return CALL.format(f"{task.a}{task.operator}{task.b}")
        return ANSWER.format("no idea" if number in wrong else task.expected_answer)

    return script


async def test_every_row_has_version_stamps_and_the_same_reward_schema(
    run_prompts: Any, servers: Any, policy: Any, sums: Any
) -> None:
    stub = servers(solver(policy.tokenizer, sums, wrong=(4, 5)))
    queue = await run_prompts(sums[:1], stub, components=("correct", "absent"))
    schemas = set()
    for key, row in queue.rows.items():
        extra = row["extra_fields"]
        assert (extra["min_global_steps"], extra["max_global_steps"]) == (3, 3)
        assert queue.tags[key]["min_global_steps"] == 3
        info = extra["reward_extra_info"]
        schemas.add(tuple(sorted(info)))
        assert info["component/correct"] in (0.0, 1.0)
        assert info["component/absent"] != info["component/absent"]
        assert row["num_turns"] == 4
    assert len(schemas) == 1
    assert "acc" not in next(iter(schemas))
    rewards = sorted(row["rm_scores"].sum().item() for row in queue.rows.values())
    assert rewards == [0.0, 0.0, 1.0, 1.0]


async def test_versions_that_the_server_does_not_tell_are_those_of_the_step_before(
    run_prompts: Any, servers: Any, policy: Any, sums: Any
) -> None:
    def forget(output: Any) -> None:
        output.extra_fields = {
            "global_steps": None,
            "min_global_steps": None,
            "max_global_steps": None,
        }

    stub = servers(solver(policy.tokenizer, sums), change=forget)
    queue = await run_prompts(sums[:1], stub)
    assert {queue.tags[key]["max_global_steps"] for key in queue.rows} == {3}


async def test_sampling_is_the_trainers_and_bounded_by_what_is_left(
    run_prompts: Any, servers: Any, policy: Any, sums: Any
) -> None:
    stub = servers(solver(policy.tokenizer, sums))
    await run_prompts(sums[:1], stub, overrides={"actor_rollout_ref.rollout.temperature": 0.7})
    first, last = stub.calls[0], stub.calls[-1]
    assert (first["temperature"], first["top_p"], first["top_k"]) == (0.7, 1.0, -1)
    assert first["logprobs"] is True
    assert policy.tokenizer.eos_token_id in first["stop_token_ids"]
    assert first["max_tokens"] == 160
    assert last["max_tokens"] == 160 - (len(stub.prompts[-1]) - len(stub.prompts[0]))


async def test_a_response_is_cut_before_it_is_too_long(
    run_prompts: Any, servers: Any, sums: Any
) -> None:
    stub = servers(lambda number, prompt: "x" * 500)
    queue = await run_prompts(sums[:1], stub)
    for row in queue.rows.values():
        assert len(row["responses"]) == 160
        info = row["extra_fields"]["reward_extra_info"]
        assert (info["truncated"], info["stop_reason"]) == (1.0, "length")


async def test_a_prompt_that_is_too_long_drops_its_group_and_says_why(
    run_prompts: Any, servers: Any, sums: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stub = servers(lambda number, prompt: "1<|im_end|>")
    queue = await run_prompts(
        sums[:1], stub, overrides={"actor_rollout_ref.rollout.prompt_length": 10}
    )
    assert queue.rows == {}
    assert queue.status() == "failure"
    assert stub.calls == []
    assert "the trainer takes 10 at most" in caplog.text


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("short", "log-probabilities for"),
        ("none", "calculate_log_probs=True"),
        ("empty", "sampled nothing"),
        ("aborted", "aborted"),
        ("nan", "Log-probability 0 is nan"),
    ],
)
async def test_what_verl_would_train_wrongly_on_fails_that_rollout_alone(
    fault: str,
    told: str,
    run_prompts: Any,
    servers: Any,
    policy: Any,
    sums: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = iter([True])

    def break_one(output: Any) -> None:
        if not next(broken, False):
            return
        if fault == "short":
            output.log_probs = output.log_probs[:-1]
        elif fault == "none":
            output.log_probs = None
        elif fault == "empty":
            output.token_ids, output.log_probs = [], []
        elif fault == "aborted":
            output.stop_reason = "aborted"
        else:
            output.log_probs[0] = float("nan")

    stub = servers(solver(policy.tokenizer, sums), change=break_one)
    queue = await run_prompts(sums[:1], stub)
    assert queue.sessions() == ["u0_1_0", "u0_2_0", "u0_3_0"]
    # Not "failure": verl's async trainers would throw the whole group away.
    assert queue.status() == "finished"
    assert told in caplog.text


async def test_a_lone_survivor_is_left_out_and_verl_is_told_of_the_failure(
    run_prompts: Any, servers: Any, policy: Any, sums: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = iter([True] * 3)

    def break_three(output: Any) -> None:
        if next(broken, False):
            output.stop_reason = "aborted"

    stub = servers(solver(policy.tokenizer, sums), change=break_three)
    queue = await run_prompts(sums[:1], stub)
    assert queue.rows == {}
    assert queue.status() == "failure"
    assert "1 of 4 rollouts of a prompt can be trained on, and 2 are needed" in caplog.text
    assert caplog.text.count("GroupDropped") < 8


async def test_without_a_group_baseline_a_lone_survivor_is_kept(
    run_prompts: Any, servers: Any, policy: Any, sums: Any
) -> None:
    broken = iter([True] * 3)

    def break_three(output: Any) -> None:
        if next(broken, False):
            output.stop_reason = "aborted"

    stub = servers(solver(policy.tokenizer, sums), change=break_three)
    queue = await run_prompts(
        sums[:1], stub, overrides={"algorithm.adv_estimator": "reinforce_plus_plus"}
    )
    assert queue.sessions() == ["u0_3_0"]


async def test_in_validation_all_that_have_a_reward_are_kept(
    run_prompts: Any, servers: Any, policy: Any, sums: Any
) -> None:
    stub = servers(solver(policy.tokenizer, sums))
    queue = await run_prompts(
        sums[:1], stub, validate=True, overrides={"actor_rollout_ref.rollout.val_kwargs.n": 1}
    )
    assert queue.sessions() == ["u0_0_0"]
    assert stub.calls[0]["temperature"] == 0


async def test_a_session_that_raises_does_not_keep_the_others_waiting(
    run_prompts: Any, servers: Any, policy: Any, sums: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gym_adapters.adapters.verl.agent_loop import GymAgentLoop

    original = GymAgentLoop._roll_out

    async def raises_once(self: Any, *args: Any, **kwargs: Any) -> Rollout:
        if kwargs["request_id"].endswith("-2"):
            raise RuntimeError("a bug")
        return await original(self, *args, **kwargs)

    monkeypatch.setattr(GymAgentLoop, "_roll_out", raises_once)
    queue = await run_prompts(sums[:1], servers(solver(policy.tokenizer, sums)))
    assert queue.sessions() == ["u0_0_0", "u0_1_0", "u0_3_0"]
    assert queue.status() == "failure"


async def test_rows_that_are_not_ours_are_refused(
    run_prompts: Any, servers: Any, sums: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from gym_adapters.adapters.verl import rows

    monkeypatch.setattr(rows.RowIdentity, "to_text", lambda self: "{}")
    queue = await run_prompts(sums[:1], servers(lambda *_: ""))
    assert queue.rows == {}
    assert "export verl-rows" in caplog.text


TALKS = """
from gym_adapters import Environment, Task


class Talks(Environment[Task]):
    name = "talks"

    async def start(self):
        self.left = 1

    async def reply(self, message):
        self.left -= 1
        return "n" if self.left >= 0 else None

    async def verify(self, transcript):
        return float(transcript.final_text == "b")
"""
DROPS_THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last and m.reasoning_content is defined %}"
    "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content }}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


async def talk(
    run_prompts: Any, servers: Any, environment_folder: Any, verl_config: Any, **overrides: Any
) -> Any:
    def script(number: int, prompt_ids: list[int]) -> str:
        return "<think>hm</think>a<|im_end|>" if number < 4 else "b<|im_end|>"

    task = Task.from_row({"responses_create_params": {"input": "q"}})
    return await run_prompts(
        [task],
        servers(script),
        environment=environment_folder(TALKS),
        overrides={"actor_rollout_ref.model.custom_chat_template": DROPS_THINKING, **overrides},
    )


async def test_under_another_estimator_a_template_that_rewrites_history_ends_the_run(
    run_prompts: Any, servers: Any, environment_folder: Any, verl_config: Any, caplog: Any
) -> None:
    queue = await talk(
        run_prompts,
        servers,
        environment_folder,
        verl_config,
        **{"algorithm.adv_estimator": "rloo"},
    )
    assert queue.rows == {}
    assert queue.status() == "failure"
    assert "one segment a rollout" in caplog.text


async def test_an_environment_that_is_unknown_here_ends_the_run_at_the_next_batch(
    run_prompts: Any, servers: Any, sums: Any, monkeypatch: pytest.MonkeyPatch, verl_config: Any
) -> None:
    from omegaconf import OmegaConf

    from gym_adapters import Unsupported
    from gym_adapters.adapters.verl import rows
    from gym_adapters.adapters.verl.manager import GymAgentLoopWorker

    from .conftest import batch_of

    monkeypatch.setattr(rows, "_portable_name", lambda name: "nobody_is_called_so")
    made = rows.verl_rows("arithmetic_tools", sums[:1])
    config = OmegaConf.create(OmegaConf.to_container(verl_config, resolve=False))
    worker = GymAgentLoopWorker(config, servers(lambda *_: ""), None, None)
    await worker.generate_sequences(batch_of(made, False))
    for task in list(worker.background_tasks):
        await task
    with pytest.raises(Unsupported, match="nobody_is_called_so"):
        await worker.generate_sequences(batch_of(made, False))


AGENT = """
import sys

from gym_adapters.serving.gateway_agent import GatewayAgent

PROGRAM = '''
import json, sys, urllib.request
task = json.load(sys.stdin)
body = json.dumps({"model": "m", "input": task["input"]}).encode()
request = urllib.request.Request(task["base_url"] + "/responses", body)
urllib.request.urlopen(request, timeout=60).read()
'''


def agent():
    return GatewayAgent(command=[sys.executable, "-c", PROGRAM])
"""


@pytest.fixture
def foreign_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an agent that asks once."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    (tmp_path / "agent_of_ours.py").write_text(AGENT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "agent_of_ours", raising=False)
    named_agent.cache_clear()
    return "agent_of_ours:agent"


async def test_a_foreign_agents_tokens_are_rows(
    run_prompts: Any, servers: Any, policy: Any, sums: Any, foreign_agent: str
) -> None:
    stub = servers(lambda number, prompt_ids: f"answer {number}<|im_end|>")
    overrides = {"+gym_adapters.agent": foreign_agent}
    queue = await run_prompts(sums[:1], stub, overrides=overrides)
    await named_agent(foreign_agent).aclose()  # type: ignore[attr-defined]
    assert queue.sessions() == ["u0_0_0", "u0_1_0", "u0_2_0", "u0_3_0"]
    said = {tuple(policy.tokenizer(f"answer {n}<|im_end|>")["input_ids"]) for n in range(4)}
    assert {tuple(row["responses"].tolist()) for row in queue.rows.values()} == said
    for row in queue.rows.values():
        assert row["prompts"].tolist() == stub.prompts[0]
        assert row["response_mask"].tolist() == [1] * len(row["responses"])
        assert row["num_turns"] == 2


async def test_a_foreign_agents_prompt_that_is_too_long_for_the_trainer_gives_no_row(
    run_prompts: Any, servers: Any, sums: Any, foreign_agent: str, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = {
        "+gym_adapters.agent": foreign_agent,
        "actor_rollout_ref.rollout.prompt_length": 10,
    }
    queue = await run_prompts(sums[:1], servers(lambda *_: "1<|im_end|>"), overrides=overrides)
    await named_agent(foreign_agent).aclose()  # type: ignore[attr-defined]
    assert queue.rows == {}
    assert "10 are allowed" in caplog.text


def test_an_agent_that_can_not_be_is_refused_with_the_overrides(foreign_agent: str) -> None:
    def overrides(environment: str, agent: str) -> list[str]:
        return verl_overrides(environment, model="m", train_files="t.parquet", agent=agent)

    assert f"+gym_adapters.agent='{foreign_agent}'" in overrides("mcqa", foreign_agent)
    with pytest.raises(Unsupported, match="blackjack replies to messages"):
        overrides("blackjack", foreign_agent)
    for name, told in (
        ("my-agent --headless", "names no agent"),
        ("agent_of_ours:nobody", "nobody"),
        ("no_such_module:agent", "no_such_module"),
        ("builtins:dict", "no run"),
    ):
        with pytest.raises(InvalidConfig, match=told):
            overrides("mcqa", name)
