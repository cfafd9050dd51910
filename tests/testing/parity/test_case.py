from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")

from gym_adapters import Task, UsageError
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import assistant_message, function_call
from gym_adapters.testing.parity import Attempt, ParityCase, says_alike
from gym_adapters.testing.parity.case import spelled_turn


def task(text: str = "hi") -> Task:
    return Task.from_row({"responses_create_params": {"input": text}})


def case(*tasks: Task, **options: object) -> ParityCase:
    return ParityCase("a case", "nowhere:Env", tasks, says_alike(["a"], ["b"]), **options)  # type: ignore[arg-type]


def test_attempts_come_task_by_task() -> None:
    asked = case(task("1"), task("2"), group_size=2)
    assert asked.attempts == [Attempt(0, 0), Attempt(0, 1), Attempt(1, 0), Attempt(1, 1)]
    assert [asked.attempt(row) for row in range(4)] == asked.attempts


def test_a_case_without_tasks_or_with_a_budget_for_several_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to roll out"):
        case()
    with pytest.raises(UsageError, match="takes one task"):
        case(task("1"), task("2"), max_completion=9)


def test_a_policy_says_its_lists_in_a_cycle_and_then_ends_its_turns() -> None:
    says = says_alike(["a"], ["b", "c"])
    assert [says(task(), index, 0) for index in range(3)] == ["a", "b", "a"]
    assert [says(task(), 1, turn) for turn in range(3)] == ["b", "c", "<|im_end|>"]


def test_a_case_of_fewer_attempts_says_what_those_said() -> None:
    fewer = case(task(), group_size=3).of_attempts([1, 2])
    assert fewer.group_size == 2
    assert [fewer.says(task(), index, 0) for index in range(2)] == ["b", "a"]


async def test_its_generator_spells_text_with_control_tokens_and_keeps_ids_as_they_are() -> None:
    says = says_alike(["a<|im_end|>"], [[5, 6]])
    asked = ParityCase("a case", "nowhere:Env", (task(),), says)
    generator = asked.generator(lambda name: asked.attempt(int(name)))
    turns = [await generator.generate([1], SamplingParams(), request_id=str(n)) for n in range(2)]
    assert turns[0].token_ids[-1] == asked.tokenizer().eos_token_id
    assert len(turns[0].token_ids) == 2
    assert turns[1].token_ids == [5, 6]


def test_a_turn_is_spelled_as_the_tiny_template_shows_it() -> None:
    items = [assistant_message("Two."), function_call("add", '{"a": 1}', "c1")]
    spelled = 'Two.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    assert spelled_turn(items) == spelled
