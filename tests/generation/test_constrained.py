"""A constraint is read from the extras, and the report says what it did to the policy."""

from __future__ import annotations

import json

import pytest

from gym_adapters.errors import InvalidConfig, Unsupported
from gym_adapters.generation.constrained import (
    CONSTRAINED_LOGPROBS,
    Constraint,
    OffPolicyReport,
    constraint_of,
    off_policy_report,
    refuse_constraint,
)
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.segment import Segment, Span

SCHEMA = {"type": "object", "properties": {"move": {"type": "string"}}}


def segment(*spans: Span, logprobs: list[float]) -> Segment:
    count = len(logprobs)
    return Segment(
        prompt_ids=[1],
        completion_ids=list(range(count)),
        mask=[1] * count,
        logprobs=logprobs,
        spans=spans,
    )


def test_without_one_of_its_keys_there_is_no_constraint() -> None:
    assert constraint_of(SamplingParams(extras={"min_p": 0.1, "regex": None})) is None


def test_a_schema_may_be_a_mapping_or_text() -> None:
    as_mapping = constraint_of(SamplingParams(extras={"json_schema": SCHEMA}))
    as_text = constraint_of(SamplingParams(extras={"json_schema": json.dumps(SCHEMA)}))
    assert as_mapping == as_text == Constraint("json_schema", json.dumps(SCHEMA))


def test_two_constraints_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="regex and grammar"):
        constraint_of(SamplingParams(extras={"regex": "a", "grammar": "root ::= 'a'"}))


@pytest.mark.parametrize("value", ["", "  ", 7, ["a"]])
def test_an_empty_or_unreadable_constraint_is_refused(value: object) -> None:
    with pytest.raises(InvalidConfig, match="regex"):
        constraint_of(SamplingParams(extras={"regex": value}))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_turn_can_be_scored_at_temperature_one(temperature: float) -> None:
    how = SamplingParams(temperature=temperature, extras={"regex": "a"})
    assert constraint_of(how) == Constraint("regex", "a")


def test_a_temperature_that_can_not_be_scored_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"temperature 1 \(or 0\), not 0\.7"):
        constraint_of(SamplingParams(temperature=0.7, extras={"regex": "a"}))


def test_the_report_of_a_run_without_constraints_is_on_policy() -> None:
    report = off_policy_report([segment(Span(0, 2, sampled=True), logprobs=[-1.0, -2.0])])
    assert report == OffPolicyReport(2, 0, 0, 0.0)
    assert not report.is_off_policy
    assert str(report) == "2 tokens sampled, none under a constraint"


def test_the_report_counts_the_tokens_whose_probability_changed() -> None:
    constrained = Span(0, 2, sampled=True, extras={CONSTRAINED_LOGPROBS: [-1.0, -0.5]})
    free = Span(3, 4, sampled=True)
    told = Span(2, 3, sampled=False)
    report = off_policy_report(
        [segment(constrained, told, free, logprobs=[-1.001, -2.5, 0.0, -1.0])]
    )
    assert (report.sampled_tokens, report.constrained_tokens, report.changed_tokens) == (3, 2, 1)
    assert report.lost_nats == pytest.approx(1.0005)
    assert report.is_off_policy
    assert str(report).startswith("off-policy: 2 of 3 tokens")


def test_a_constraint_that_never_bit_leaves_the_run_on_policy() -> None:
    span = Span(0, 2, sampled=True, extras={CONSTRAINED_LOGPROBS: [-1.0, -2.0]})
    report = off_policy_report([segment(span, logprobs=[-1.0005, -2.0])])
    assert not report.is_off_policy
    assert str(report).startswith("on-policy: 2 of 2")


def test_two_reports_add_up() -> None:
    both = OffPolicyReport(10, 4, 2, 0.5) + OffPolicyReport(5, 1, 1, 3.0)
    assert both == OffPolicyReport(15, 5, 3, 1.0)
    nothing = off_policy_report([])
    assert nothing + nothing == nothing


def test_a_generator_that_can_not_be_held_to_a_constraint_refuses_it() -> None:
    refuse_constraint(SamplingParams(extras={"min_p": 0.1}), "it")
    with pytest.raises(Unsupported, match="it can't hold a turn to a grammar"):
        refuse_constraint(SamplingParams(extras={"grammar": "root ::= 'a'"}), "it")
