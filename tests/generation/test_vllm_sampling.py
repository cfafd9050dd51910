"""Our settings become vLLM's, and its answers become whole turns or errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gym_adapters.errors import InvalidConfig, ModelError
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.vllm_sampling import (
    finish_reason_of,
    generation_of,
    sampling_fields,
    scored_logprobs,
    token_ids_of,
    with_policy_logprobs,
)


@dataclass
class Logprob:
    logprob: float


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = "stop"


@dataclass
class Output:
    outputs: list[Completion] = field(default_factory=list)


def output(*logprobs: float, finish_reason: str | None = "stop") -> Output:
    ids = list(range(len(logprobs)))
    entries = [{token: Logprob(value)} for token, value in zip(ids, logprobs, strict=True)]
    return Output([Completion(ids, entries, finish_reason)])


def test_all_settings_that_a_server_would_fill_in_by_itself_are_given() -> None:
    assert sampling_fields(SamplingParams(max_tokens=5, stop_token_ids=(2,))) == {
        "max_tokens": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [2],
        "logprobs": 0,
    }


def test_stops_seed_and_extras_are_passed_on() -> None:
    sampling = SamplingParams(stop=("a", "b"), seed=3, extras={"min_p": 0.1, "bad_words": ["x"]})
    fields = sampling_fields(sampling)
    assert fields["stop"] == ["a", "b"]
    assert fields["seed"] == 3
    assert fields["min_p"] == 0.1
    assert fields["bad_words"] == ["x"]
    assert "seed" not in sampling_fields(sampling, seeded=False)


@pytest.mark.parametrize(
    ("key", "name", "value", "sent"),
    [
        ("json_schema", "json", {"type": "integer"}, '{"type": "integer"}'),
        ("regex", "regex", "[0-9]", "[0-9]"),
        ("grammar", "grammar", 'root ::= "a"', 'root ::= "a"'),
    ],
)
def test_a_constraint_becomes_a_structured_output(
    key: str, name: str, value: Any, sent: str
) -> None:
    fields = sampling_fields(SamplingParams(extras={key: value}))
    assert fields["structured_outputs"] == {name: sent}
    assert key not in fields


@pytest.mark.parametrize("name", ["n", "logprobs", "max_tokens", "temperature", "output_kind"])
def test_an_extra_can_not_change_what_a_turn_is(name: str) -> None:
    with pytest.raises(InvalidConfig, match=name):
        sampling_fields(SamplingParams(extras={name: 2}))


def test_a_finished_output_is_a_turn() -> None:
    turn = generation_of(output(-0.5, -1.5), weights_version=3)
    assert turn == Generation([0, 1], [-0.5, -1.5], "stop", 3)


class Flat(list[dict[int, Logprob]]):
    """vLLM's flat form: a list of positions that has all numbers in one list as well."""

    def __init__(self, logprobs: list[float], positions: int) -> None:
        super().__init__([{} for _ in range(positions)])
        self.logprobs = logprobs


def test_the_flat_form_is_read_without_its_positions() -> None:
    turn = generation_of(Output([Completion([4, 5], Flat([-0.5, -1.5], 2))]), None)
    assert turn.logprobs == [-0.5, -1.5]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("stop", "stop"), ("length", "length"), ("repetition", "length")]
)
def test_finish_reasons_of_whole_turns(theirs: str, ours: str) -> None:
    assert finish_reason_of(theirs) == ours


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_turn_that_is_not_whole_is_an_error(reason: str | None) -> None:
    with pytest.raises(ModelError, match="not whole"):
        generation_of(output(-1.0, finish_reason=reason), None)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_log_probability_that_is_none_is_an_error(value: float) -> None:
    with pytest.raises(ModelError, match="log-probability"):
        generation_of(output(-1.0, value), None)


def test_an_output_without_log_probabilities_is_an_error() -> None:
    with pytest.raises(ModelError, match="log-probability"):
        generation_of(Output([Completion([1, 2], None)]), None)


def test_scores_are_read_from_objects_and_from_json() -> None:
    objects = [None, {9: Logprob(-9.0)}, {5: Logprob(-1.0), 6: Logprob(-0.5)}, {7: Logprob(-2.0)}]
    from_json = [None, {"9": {"logprob": -9.0}}, {"5": {"logprob": -1.0}}, {"7": {"logprob": -2.0}}]
    assert scored_logprobs(objects, [5, 7]) == [-1.0, -2.0]
    assert scored_logprobs(from_json, [5, 7]) == [-1.0, -2.0]


@pytest.mark.parametrize("scores", [None, [], [None], [{4: Logprob(-1.0)}]])
def test_a_score_that_is_missing_is_an_error(scores: Any) -> None:
    with pytest.raises(ModelError, match="log-probability"):
        scored_logprobs(scores, [5])


def test_a_rescored_turn_keeps_both_log_probabilities() -> None:
    turn = with_policy_logprobs(Generation([1, 2], [-0.1, -0.2], "stop", 7), [-3.0, -4.0])
    assert turn.logprobs == [-3.0, -4.0]
    assert turn.extras == {CONSTRAINED_LOGPROBS: [-0.1, -0.2]}
    assert (turn.token_ids, turn.finish_reason, turn.weights_version) == ([1, 2], "stop", 7)


def test_an_empty_prompt_is_an_error() -> None:
    with pytest.raises(ModelError, match="empty"):
        token_ids_of([])
