"""The last accepted hand-in must be exactly the expected list."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gym_adapters.environments.example_multi_step.environment import (
    Synonyms,
    SynonymTask,
    synonym_value,
)
from gym_adapters.environments.example_multi_step.synonyms import QUESTIONS, SYNONYMS

from gym_adapters import Episode, InvalidRow, Reward
from gym_adapters.items import Item, assistant_message, function_call

ROW = {
    "responses_create_params": {"input": "Which is hot?"},
    "id": 0,
    "expected_synonyms": ["Blazing", "Warm"],
    "expected_synonym_values": [711, 407],
    "minefield_label": "Hot",
    "minefield_label_value": 299,
}


def hand_in(values: Any) -> list[Item]:
    arguments = json.dumps({"synonym_values": values})
    return [function_call("extract_synonym_values", arguments, "call_0")]


async def reward(*turns: list[Item]) -> Reward:
    async with Episode(Synonyms, SynonymTask.from_row(ROW)) as episode:
        await episode.start()
        for turn in turns:
            await episode.advance(turn)
        step = await episode.advance([assistant_message("[711, 407]")])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    return step.outcome.reward


@pytest.mark.parametrize(
    ("turns", "value", "overlap", "minefield", "order"),
    [
        ([hand_in([711, 407])], 1.0, 1.0, 0.0, 0.0),
        ([hand_in([711.0, 407])], 1.0, 1.0, 0.0, 0.0),
        ([hand_in([1]), hand_in([711, 407])], 1.0, 1.0, 0.0, 0.0),
        ([hand_in([711, 407]), hand_in([1])], 0.0, 0.0, 0.0, 0.0),
        # A hand-in that was refused does not count.
        ([hand_in([711, 407]), hand_in(["x"])], 1.0, 1.0, 0.0, 0.0),
        ([hand_in([407, 711])], 0.0, 1.0, 0.0, 1.0),
        ([hand_in([711, 407, 5])], 0.0, 1.0, 0.0, 1.0),
        ([hand_in([711, 299])], 0.0, 0.5, 1.0, 0.0),
        ([hand_in([])], 0.0, 0.0, 0.0, 0.0),
        ([hand_in("711")], 0.0, 0.0, 0.0, 0.0),
        ([hand_in(["711", "407"])], 0.0, 0.0, 0.0, 0.0),
        ([hand_in([[711]])], 0.0, 0.0, 0.0, 0.0),
        ([], 0.0, 0.0, 0.0, 0.0),
    ],
)
async def test_the_last_accepted_hand_in_is_judged(
    turns: list[list[Item]], value: float, overlap: float, minefield: float, order: float
) -> None:
    got = await reward(*turns)
    assert got.value == value
    assert got.components == {
        "accuracy": value,
        "set_overlap": overlap,
        "original_term_minefield_hit": minefield,
        "order_instruction_following_failure": order,
    }


@pytest.mark.parametrize(
    ("synonym", "value"), [("Blazing", 711), ("Warm", 407), ("Hot", 299), ("", 0)]
)
def test_a_value_is_the_sum_of_the_code_points(synonym: str, value: int) -> None:
    assert synonym_value(synonym) == value


def test_a_row_that_expects_nothing_is_refused() -> None:
    with pytest.raises(InvalidRow) as caught:
        SynonymTask.from_row({**ROW, "expected_synonym_values": []})
    assert caught.value.field == "expected_synonym_values"


def test_every_term_has_a_question_and_no_two_share_a_synonym() -> None:
    assert set(QUESTIONS) == set(SYNONYMS)
    synonyms = [synonym for of_term in SYNONYMS.values() for synonym in of_term]
    assert len(set(synonyms)) == len(synonyms)


def test_expected_values_stand_in_the_order_of_the_list() -> None:
    for task in Synonyms.generate_tasks(10, seed=3, difficulty=1.0):
        listed = task.responses_create_params["input"][0]["content"]
        positions = [
            listed.index(f"- {task.minefield_label}: {synonym}")
            for synonym in task.expected_synonyms
        ]
        assert positions == sorted(positions)
        assert len(positions) == len(SYNONYMS[task.minefield_label])


def test_difficulty_is_how_many_terms_are_listed() -> None:
    def terms(difficulty: float) -> int:
        [task] = Synonyms.generate_tasks(1, difficulty=difficulty)
        lines = task.responses_create_params["input"][0]["content"].splitlines()
        return len({line.partition(":")[0] for line in lines if line.startswith("- ")})

    assert (terms(0.0), terms(1.0)) == (2, len(SYNONYMS))
