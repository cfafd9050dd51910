"""Look up several values with one tool and hand them in, in order, with another."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated

import orjson
from pydantic import Field

from gym_adapters import Environment, Reward, Task, Transcript, tool
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.verifiers.tool_calls import parsed_arguments, successful_calls

from .synonyms import QUESTIONS, SYNONYMS

__all__ = ["SynonymTask", "Synonyms", "synonym_value"]

INSTRUCTIONS = """\
A question comes with a list of terms and their synonyms. Find the one term of the list that the \
question is about. Look up the value of each of its synonyms, and only of those, with \
get_synonym_value. Then hand in all their values with one call of extract_synonym_values, in the \
order in which the synonyms stand in the list.

The list:
"""


class SynonymTask(Task):
    """Hand in `expected_synonym_values`, the values of `expected_synonyms`.

    `minefield_label` is the term itself, whose own value must not be handed in.
    """

    id: int
    expected_synonyms: list[str]
    expected_synonym_values: Annotated[list[int], Field(min_length=1)]
    minefield_label: str
    minefield_label_value: int


class Synonyms(Environment[SynonymTask]):
    """Find the synonyms of a term, look up their values, hand them in.

    The reward is 1 if the last hand-in that was accepted equals the expected list, else 0.
    """

    name = "example_multi_step"
    stateless_verify = True

    @tool
    async def get_synonym_value(self, synonym: str) -> dict[str, int]:
        """Get the value of a synonym.

        Args:
            synonym: The synonym, spelt as in the list.
        """
        return {"synonym_value": synonym_value(synonym)}

    @tool
    async def extract_synonym_values(self, synonym_values: list[int]) -> dict[str, bool]:
        """Hand in the values of the synonyms of the term that the question is about.

        Args:
            synonym_values: The values, in the order of the list.
        """
        return {"success": True}

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for the right values in the right order."""
        values = _handed_in(transcript)
        expected = self.task.expected_synonym_values
        correct = values == expected
        overlap = len(set(values) & set(expected)) / len(expected)
        return Reward(
            float(correct),
            components={
                "accuracy": float(correct),
                "set_overlap": overlap,
                "original_term_minefield_hit": float(self.task.minefield_label_value in values),
                "order_instruction_following_failure": float(not correct and overlap == 1.0),
            },
            info={"parsed_synonym_values": values},
        )

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[SynonymTask]:
        """Questions over a shuffled list of synonyms.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: From 2 terms in the list at 0 to all of them at 1.
        """
        rng = random.Random(seed)
        listed = 2 + round(difficulty * (len(SYNONYMS) - 2))
        for index in range(count):
            terms = rng.sample(sorted(SYNONYMS), listed)
            asked = rng.choice(terms)
            pairs = [(term, synonym) for term in terms for synonym in SYNONYMS[term]]
            rng.shuffle(pairs)
            yield cls._task(index, asked, pairs)

    @classmethod
    def gold_turns(cls, task: SynonymTask) -> Sequence[Sequence[Item]]:
        """Look up each synonym, hand in the values, say them."""
        looked_up = [
            function_call("get_synonym_value", _json({"synonym": synonym}), f"call_{index}")
            for index, synonym in enumerate(task.expected_synonyms)
        ]
        values = task.expected_synonym_values
        handed_in = function_call(
            "extract_synonym_values", _json({"synonym_values": values}), f"call_{len(looked_up)}"
        )
        return [*([call] for call in looked_up), [handed_in], [assistant_message(str(values))]]

    @classmethod
    def _task(cls, index: int, asked: str, pairs: Sequence[tuple[str, str]]) -> SynonymTask:
        lines = "\n".join(f"- {term}: {synonym}" for term, synonym in pairs)
        synonyms = [synonym for term, synonym in pairs if term == asked]
        return SynonymTask.from_row(
            {
                "responses_create_params": {
                    "input": [
                        {"role": "system", "content": INSTRUCTIONS + lines},
                        {"role": "user", "content": QUESTIONS[asked]},
                    ],
                    "tools": [spec.declaration() for spec in cls.class_tools.values()],
                },
                "id": index,
                "expected_synonyms": synonyms,
                "expected_synonym_values": [synonym_value(synonym) for synonym in synonyms],
                "minefield_label": asked,
                "minefield_label_value": synonym_value(asked),
            }
        )


def synonym_value(synonym: str) -> int:
    """The value of a synonym: the sum of its code points."""
    return sum(map(ord, synonym))


def _handed_in(transcript: Transcript) -> list[float]:
    """The values of the last hand-in that was accepted; none where there was none."""
    calls = successful_calls(transcript.tool_calls, "extract_synonym_values")
    arguments = parsed_arguments(calls[-1]) if calls else None
    values = arguments.get("synonym_values") if arguments is not None else None
    # The tool takes "711" for a number, too; the verdict does not.
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        return []
    return values


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
