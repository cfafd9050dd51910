from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import LedgerError
from gym_adapters.generation.protocol import Generation
from gym_adapters.segment import Segment
from gym_adapters.tokens.token_ledger import TokenLedger

IDS = st.lists(st.integers(0, 200_000), min_size=1, max_size=8)


def sampled(ids: list[int], **rest: Any) -> Generation:
    return Generation(token_ids=ids, logprobs=[-0.5] * len(ids), **rest)


def open_ledger() -> TokenLedger:
    ledger = TokenLedger()
    ledger.open_segment([1, 2])
    return ledger


def test_a_conversation_becomes_one_segment_with_mask_logprobs_and_spans() -> None:
    ledger = open_ledger()
    ledger.append_sampled(
        Generation([5, 6], [-0.1, -0.2], weights_version=3, extras={"experts": [[0], [1]]})
    )
    ledger.append_environment([7])
    ledger.append_sampled(Generation([8], [-0.3], weights_version=4))

    (segment,) = ledger.segments
    assert list(segment.prompt_ids) == [1, 2]
    assert list(segment.completion_ids) == [5, 6, 7, 8]
    assert list(segment.mask) == [1, 1, 0, 1]
    assert list(segment.logprobs) == [-0.1, -0.2, 0.0, -0.3]
    assert [(s.start, s.end, s.sampled, s.weights_version) for s in segment.spans] == [
        (0, 2, True, 3),
        (2, 3, False, None),
        (3, 4, True, 4),
    ]
    assert segment.spans[0].extras == {"experts": [[0], [1]]}
    assert list(ledger.context_ids) == [1, 2, 5, 6, 7, 8]
    assert Segment.from_json(segment.to_json()).sampled_ids == [5, 6, 8]


def test_environment_tokens_before_the_first_sampled_one_belong_to_the_prompt() -> None:
    ledger = open_ledger()
    ledger.append_environment([3, 4])
    ledger.append_sampled(sampled([5]))
    (segment,) = ledger.segments
    assert (list(segment.prompt_ids), list(segment.completion_ids)) == ([1, 2, 3, 4], [5])


def test_a_new_segment_keeps_the_sampled_tokens_of_the_old_one() -> None:
    ledger = open_ledger()
    ledger.append_sampled(sampled([5, 6]))
    ledger.open_segment([9, 5])
    assert list(ledger.context_ids) == [9, 5]
    assert ledger.last_sampled_id is None
    ledger.append_sampled(sampled([7]))
    first, second = ledger.segments
    assert (first.sampled_ids, second.sampled_ids) == ([5, 6], [7])
    assert ledger.sampled_count == 3


def test_a_segment_without_a_sampled_token_is_no_training_sample() -> None:
    ledger = open_ledger()
    assert ledger.segments == []
    ledger.open_segment([3])
    ledger.append_sampled(sampled([4]))
    assert [list(s.prompt_ids) for s in ledger.segments] == [[3]]


def test_last_sampled_id_is_none_after_environment_tokens() -> None:
    ledger = open_ledger()
    assert ledger.last_sampled_id is None
    ledger.append_sampled(sampled([5, 6]))
    assert ledger.last_sampled_id == 6
    ledger.append_environment([7])
    assert ledger.last_sampled_id is None


def test_segments_already_handed_out_do_not_grow() -> None:
    ledger = open_ledger()
    ledger.append_sampled(sampled([5]))
    (before,) = ledger.segments
    ledger.append_environment([6])
    assert list(before.completion_ids) == [5]


def test_context_ids_is_one_growing_list() -> None:
    ledger = open_ledger()
    context = ledger.context_ids
    ledger.append_sampled(sampled([5]))
    assert ledger.context_ids is context


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        (Generation([5, 6], [-0.1]), "2 tokens were sampled, but 1 log-probabilities"),
        (Generation([5], [math.nan]), "is nan"),
        (Generation([5], [math.inf]), "is inf"),
        (Generation([5], [-math.inf]), "is -inf"),
        (Generation([5], [0.5]), "no probability is above 1"),
        (Generation([5], [None]), "not a number but None"),  # type: ignore[list-item]
        (Generation([-1], [-0.1]), "is negative"),
        (Generation([True], [-0.1]), "not an integer but bool"),
        (Generation([1.0], [-0.1]), "not an integer but float"),  # type: ignore[list-item]
        (Generation(["5"], [-0.1]), "not an integer but str"),  # type: ignore[list-item]
        (Generation([], []), "at least one token"),
        (Generation([5], [-0.1], extras={"experts": []}), "extra 'experts' has 0 entries"),
    ],
)
def test_what_cannot_have_been_sampled_is_refused_and_changes_nothing(
    generation: Generation, said: str
) -> None:
    ledger = open_ledger()
    with pytest.raises(LedgerError, match=said):
        ledger.append_sampled(generation)
    assert list(ledger.context_ids) == [1, 2]
    assert ledger.segments == []
    assert ledger.sampled_count == 0


def test_rounding_above_a_probability_of_one_is_taken_as_it_is() -> None:
    ledger = open_ledger()
    ledger.append_sampled(Generation([5], [1e-6]))
    assert list(ledger.segments[0].logprobs) == [1e-6]


def test_numpy_integers_become_plain_ones() -> None:
    numpy = pytest.importorskip("numpy", reason="needs numpy")
    ledger = TokenLedger()
    ledger.open_segment(numpy.array([1, 2]))
    ledger.append_sampled(Generation(numpy.array([5]), numpy.array([-0.5], dtype=numpy.float32)))
    (segment,) = ledger.segments
    assert [type(i) for i in segment.completion_ids] == [int]
    assert [type(p) for p in segment.logprobs] == [float]


def test_nothing_can_be_appended_before_a_segment_is_open() -> None:
    with pytest.raises(LedgerError, match="No segment is open for environment tokens"):
        TokenLedger().append_environment([1])
    with pytest.raises(LedgerError, match="No segment is open for sampled tokens"):
        TokenLedger().append_sampled(sampled([1]))
    with pytest.raises(LedgerError, match="prompt of at least one token"):
        TokenLedger().open_segment([])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sampled"), IDS),
            st.tuples(st.just("environment"), IDS),
            st.tuples(st.just("segment"), IDS),
        ),
        max_size=20,
    )
)
def test_sampled_ids_come_out_exactly_as_they_went_in(steps: list[tuple[str, list[int]]]) -> None:
    ledger = TokenLedger()
    ledger.open_segment([0])
    put_in: list[int] = []
    for kind, ids in steps:
        if kind == "sampled":
            ledger.append_sampled(sampled(ids))
            put_in.extend(ids)
        elif kind == "environment":
            ledger.append_environment(ids)
        else:
            ledger.open_segment(ids)
    assert [i for s in ledger.segments for i in s.sampled_ids] == put_in
    assert ledger.sampled_count == len(put_in)
    for segment in ledger.segments:
        length = len(segment.completion_ids)
        assert (len(segment.mask), len(segment.logprobs)) == (length, length)
        assert [n for s in segment.spans for n in range(s.start, s.end)] == list(range(length))
        assert all(
            segment.mask[n] == s.sampled for s in segment.spans for n in range(s.start, s.end)
        )
