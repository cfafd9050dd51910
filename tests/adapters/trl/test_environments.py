from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from gym_adapters import (
    Environment,
    Task,
    Tool,
    ToolInfrastructureError,
    Transcript,
    Unsupported,
    UsageError,
    load_environment,
    tool,
)
from gym_adapters.adapters.trl import EnvironmentReward, environment_factory, trl_spec
from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.testing.tiny_model import TinyPolicy
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.template_renderer import TemplateRenderer

ROW = {"responses_create_params": {"input": [{"role": "user", "content": "hi"}]}}


class Counter(Environment[Task]):
    """Counts; the reward is the count over ten."""

    log: ClassVar[list[str]] = []

    async def start(self) -> None:
        self.count = 0
        self.log.append("start")

    @tool
    async def add(self, count: int) -> dict[str, int]:
        """Add to the counter.

        Args:
            count: How much.
        """
        self.count += count
        return {"count": self.count}

    @tool
    async def stop(self) -> str:
        """End it."""
        self.end_episode()
        return "over"

    @tool
    async def crash(self) -> str:
        """Fail as a service does."""
        raise ToolInfrastructureError("no database")

    async def verify(self, transcript: Transcript) -> float:
        self.log.append(transcript.stop_reason.value)
        return self.count / 10

    async def close(self) -> None:
        self.log.append("close")


def calls(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }


def result(name: str, text: str = "ok") -> dict[str, Any]:
    return {"role": "tool", "name": name, "content": text}


DONE = {"role": "assistant", "content": "done"}


@pytest.fixture
def factory() -> Any:
    Counter.log = []
    made = environment_factory(Counter, facts=TrainerFacts(stop_token_ids=frozenset({9})))
    yield made
    made.close()


async def verdict(factory: Any, instance: Any, completion: Any, ids: Any = (9,)) -> Any:
    reward = EnvironmentReward(factory)
    (given,) = await reward(
        prompts=["p"], completions=[completion], completion_ids=[ids], environments=[instance]
    )
    return given


async def test_a_rollout_is_scored_from_its_state_and_final_message(factory: Any) -> None:
    instance = factory()
    instance.reset(prompt="hi", **ROW)
    assert json.loads(instance.add(count=4)) == {"count": 4}
    completion = [calls("add", count=4), result("add"), DONE]
    assert await verdict(factory, instance, completion) == 0.4
    assert Counter.log == ["start", "answered"]


async def test_an_instance_is_closed_at_its_next_reset_and_starts_anew(factory: Any) -> None:
    instance = factory()
    instance.reset(**ROW)
    instance.add(count=9)
    instance.reset(**ROW)
    assert Counter.log == ["start", "close", "start"]
    assert json.loads(instance.add(count=1)) == {"count": 1}


def test_closing_the_factory_closes_every_episode(factory: Any) -> None:
    instances = [factory(), factory()]
    for instance in instances:
        instance.reset(**ROW)
    factory.close()
    assert Counter.log.count("close") == 2


def test_what_the_model_gets_wrong_is_the_documented_result(factory: Any) -> None:
    instance = factory()
    instance.reset(**ROW)
    wrong_type = json.loads(instance.add(count="many"))
    unknown_argument = json.loads(instance.add(count=1, self=2))
    assert wrong_type["error"]["type"] == "invalid_arguments"
    assert "self" in unknown_argument["error"]["message"]


async def test_a_tool_that_could_not_run_leaves_the_rollout_without_a_reward(
    factory: Any,
) -> None:
    instance = factory()
    instance.reset(**ROW)
    assert "error" in json.loads(instance.crash())
    assert "failed" in json.loads(instance.add(count=1))["error"]["message"]
    completion = [calls("crash"), result("crash"), DONE]
    assert await verdict(factory, instance, completion) is None


@pytest.mark.parametrize(
    ("completion", "ids", "reason"),
    [
        ([calls("add", count=1), result("add"), DONE], (9,), "answered"),
        ([calls("add", count=1), result("add"), DONE], (1,), "length"),
        ([calls("add", count=1), result("add")], (9,), "context"),
        ([calls("add", count=1)], (9,), "context"),
        ([calls("add", count=1), result("add"), calls("add", count=1)], (9,), "max_turns"),
    ],
)
async def test_why_a_rollout_ended_is_read_off_its_messages(
    factory: Any, completion: Any, ids: Any, reason: str
) -> None:
    instance = factory()
    instance.reset(**ROW)
    instance.add(count=1)
    await verdict(factory, instance, completion, ids)
    assert Counter.log[-1] == reason


async def test_an_ended_episode_runs_no_further_tool_and_reads_no_further_turn(
    factory: Any,
) -> None:
    instance = factory()
    instance.reset(**ROW)
    instance.add(count=1)
    assert instance.stop() == "over"
    assert "ended" in json.loads(instance.add(count=5))["error"]["message"]
    completion = [
        calls("add", count=1),
        result("add"),
        calls("stop"),
        result("stop"),
        calls("add", count=5),
        result("add"),
        DONE,
    ]
    assert await verdict(factory, instance, completion) == 0.1
    assert Counter.log[-1] == "environment"


async def test_another_environments_instances_are_left_to_their_own_reward(factory: Any) -> None:
    reward = EnvironmentReward(factory)
    mine = factory()
    mine.reset(**ROW)
    rewards = await reward(
        prompts=["p", "p"],
        completions=[[DONE], [DONE]],
        environments=[object(), mine],
    )
    assert rewards == [None, 0.0]


async def test_a_reward_without_its_factory_says_so(factory: Any) -> None:
    with pytest.raises(UsageError, match="environment_factory"):
        await EnvironmentReward(factory)(prompts=["p"], completions=[[DONE]])


def test_instances_offer_tools_and_reset_alone(factory: Any) -> None:
    public = {name for name in dir(factory()) if not name.startswith("_")}
    assert public == {"reset", "add", "stop", "crash"}


class Replies(Counter):
    async def reply(self, message: str) -> str:
        return "and?"


class OwnPrompt(Counter):
    async def prompt(self):  # type: ignore[no-untyped-def]
        return self.task.input


class OwnTools(Counter):
    def available_tools(self) -> list[Tool]:
        return []


@pytest.mark.parametrize("environment", [Replies, OwnPrompt, OwnTools])
def test_more_than_tools_is_refused_before_the_first_step(
    environment: type[Environment[Any]],
) -> None:
    with pytest.raises(Unsupported, match="use rollout_function"):
        environment_factory(environment)


def test_rows_with_other_tools_are_refused_when_made_and_when_they_come() -> None:
    adding = Counter.class_tools["add"].declaration()
    other = Task.from_row({"responses_create_params": {"input": "hi", "tools": [adding]}})
    plain = Task.from_row(ROW)
    with pytest.raises(Unsupported, match="differ from row to row"):
        environment_factory(Counter, tasks=[plain, other])
    made = environment_factory(Counter, tasks=[plain])
    with pytest.raises(Unsupported, match="other tools"):
        made().reset(**other.to_row())
    made.close()


def test_rows_may_all_declare_the_same_tools() -> None:
    adding = {**Counter.class_tools["add"].declaration(), "description": "Plus."}
    row = {"responses_create_params": {"input": "hi", "tools": [adding]}}
    made = environment_factory(Counter, tasks=[Task.from_row(row)])
    instance = made()
    assert instance.add["function"]["description"] == "Plus."
    assert not hasattr(instance, "stop")
    instance.reset(**row)
    made.close()


def test_a_tool_name_that_trl_keeps_for_itself_is_refused() -> None:
    class Resets(Environment[Task]):
        @tool
        async def reset(self) -> str:
            """Start over."""
            return ""

    with pytest.raises(Unsupported, match="reset"):
        environment_factory(Resets)


def test_grpo_trains_on_the_ids_it_generated_and_masks_every_tool_result(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], record: Any
) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums, way="environment_factory")
    trainer = make_trainer(policy, spec.trainer_arguments())
    turns: list[tuple[list[int], list[int]]] = []
    original = trainer._generate_single_turn

    def wrapped(prompt_ids: Any, *arguments: Any, **named: Any) -> Any:
        ids, logprobs = original(prompt_ids, *arguments, **named)
        turns.extend((list(p), list(i)) for p, i in zip(prompt_ids, ids, strict=True))
        return ids, logprobs

    trainer._generate_single_turn = wrapped
    recorder = record(trainer)
    trainer.train()
    sampled_turns = 0
    for batch in range(3):
        for prompt, completion, mask in recorder.rows(batch):
            whole = prompt + completion
            covered = [0] * len(completion)
            for context, ids in turns:
                start = len(context)
                if start >= len(prompt) and whole[:start] == context:
                    took = ids[: len(whole) - start]
                    if whole[start : start + len(took)] == took:
                        place = start - len(prompt)
                        covered[place : place + len(took)] = [1] * len(took)
                        sampled_turns += 1
            assert mask == covered
    assert sampled_turns > 24
    assert any(0 in mask for batch in range(3) for *_, mask in recorder.rows(batch))


def test_trl_renders_the_prompt_that_we_would(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec("arithmetic_tools", tasks=sums, way="environment_factory")
    trainer = make_trainer(policy, spec.trainer_arguments())
    trainer._batch_environments = [None]
    (theirs,), _, _ = trainer._tokenize_prompts([spec.train_dataset["prompt"][0]])
    environment = load_environment("arithmetic_tools").environment
    offered = [t.declaration() for t in environment(sums[0]).available_tools()]
    assert theirs == TemplateRenderer(tiny_tokenizer()).prompt_ids(sums[0].input, offered)
    spec.close()
