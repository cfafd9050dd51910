"""Constrained turns of the transformers generator: always valid, and the policy's own logprobs."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the transformers extra")
pytest.importorskip("transformers", reason="needs the transformers extra")
pytest.importorskip("llguidance", reason="needs the constrained extra")
pytest.importorskip("jsonschema_rs", reason="needs the verifiers extra")

import jsonschema_rs
import torch

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.token_sampling import draw
from gym_adapters.generation.transformers_generator import TransformersGenerator
from gym_adapters.testing.tiny_model import TinyPolicy, tiny_policy

PROMPT = [65, 66, 67]
SCHEMA = {
    "type": "object",
    "properties": {
        "move": {"enum": ["north", "südwärts"]},
        "steps": {"type": "integer", "minimum": 1, "maximum": 250},
        "note": {"type": "string", "maxLength": 5},
        "loud": {"type": "boolean"},
    },
    "required": ["move", "steps", "loud"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
DIGITS = {"regex": "[0-9]{3,6}"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> TinyPolicy:
    return tiny_policy(size="small", cache_dir=tmp_path_factory.mktemp("policy"))


@pytest.fixture
def model(policy: TinyPolicy) -> Any:
    return policy.load_model()


def sampling(extras: dict[str, Any] | None = None, **settings: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 400, "extras": extras or {}, **settings})


async def generate_all(
    generator: TransformersGenerator, asked: list[SamplingParams]
) -> list[Generation]:
    return await asyncio.gather(
        *(
            generator.generate(PROMPT[: 1 + index % 3], how, request_id=f"r{index}")
            for index, how in enumerate(asked)
        )
    )


def text_of(policy: TinyPolicy, turn: Generation) -> str:
    text = policy.tokenizer.decode(list(turn.token_ids), skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def teacher_forced(model: Any, prompt: list[int], turn: Generation, heat: float) -> list[float]:
    ids = torch.tensor([[*prompt, *turn.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / heat
    scored = torch.log_softmax(logits, dim=-1)
    return [float(scored[i, token]) for i, token in enumerate(turn.token_ids)]


@pytest.mark.parametrize("heat", [0.0, 1.0, 5.0])
async def test_a_turn_under_a_schema_validates_and_ends_by_itself(
    policy: TinyPolicy, model: Any, heat: float
) -> None:
    how = sampling({"json_schema": SCHEMA}, temperature=heat)
    async with TransformersGenerator(model, policy.tokenizer, seed=3) as generator:
        turns = await generate_all(generator, [how] * 12)

    for turn in turns:
        jsonschema_rs.validate(SCHEMA, json.loads(text_of(policy, turn)))
        assert turn.finish_reason == "stop"
        assert turn.token_ids[-1] == policy.tokenizer.eos_token_id


async def test_a_turn_matches_the_whole_regex(policy: TinyPolicy, model: Any) -> None:
    async with TransformersGenerator(model, policy.tokenizer, seed=4) as generator:
        turns = await generate_all(generator, [sampling(DIGITS, temperature=3.0)] * 10)

    texts = [text_of(policy, turn) for turn in turns]
    assert [text for text in texts if not re.fullmatch(DIGITS["regex"], text)] == []
    assert len(set(texts)) > 1


async def test_a_turn_is_a_sentence_of_the_grammar(policy: TinyPolicy, model: Any) -> None:
    grammar = 'root ::= verb " " [a-c]\nverb ::= "go" | "take"'
    async with TransformersGenerator(model, policy.tokenizer, seed=4) as generator:
        turns = await generate_all(generator, [sampling({"grammar": grammar})] * 10)

    assert {text_of(policy, turn) for turn in turns} <= {
        f"{verb} {thing}" for verb in ("go", "take") for thing in "abc"
    }


async def test_rows_with_and_without_constraints_share_a_batch_undisturbed(
    policy: TinyPolicy, model: Any
) -> None:
    free = sampling(max_tokens=15)
    mixed = [free, sampling(DIGITS), sampling({"json_schema": SCHEMA}), free, sampling(DIGITS)]
    async with TransformersGenerator(model, policy.tokenizer, seed=5) as generator:
        together = await generate_all(generator, mixed)
    alone = []
    for index, how in enumerate(mixed):
        async with TransformersGenerator(model, policy.tokenizer, seed=5) as generator:
            prompt = PROMPT[: 1 + index % 3]
            alone.append(await generator.generate(prompt, how, request_id=f"r{index}"))

    assert [turn.token_ids for turn in together] == [turn.token_ids for turn in alone]
    assert [CONSTRAINED_LOGPROBS in turn.extras for turn in together] == [
        bool(how.extras) for how in mixed
    ]


@pytest.mark.parametrize("heat", [1.0, 2.0])
async def test_logprobs_are_the_policys_own_and_the_constrained_ones_stand_beside(
    policy: TinyPolicy, model: Any, heat: float
) -> None:
    how = sampling(DIGITS, temperature=heat, top_p=0.5)
    async with TransformersGenerator(model, policy.tokenizer, seed=6) as generator:
        turn = await generator.generate(PROMPT, how, request_id="r")

    assert turn.logprobs == pytest.approx(teacher_forced(model, PROMPT, turn, heat), abs=1e-4)
    drawn = turn.extras[CONSTRAINED_LOGPROBS]
    assert len(drawn) == len(turn.token_ids)
    # The first token is one of at most ten of 265.
    assert turn.logprobs[0] < drawn[0] <= 0.0


def test_a_constrained_row_is_drawn_from_the_renormalised_allowed_tokens() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]))
    allowed = torch.tensor([False, True, True])

    drawn = draw(logits, [SamplingParams()] * 2, [0.1, 0.7], {1: allowed})

    assert drawn.token_ids == [0, 2]
    assert drawn.logprobs == pytest.approx([-0.6931, -1.6094], abs=1e-4)
    assert drawn.constrained == {1: pytest.approx(-0.9163, abs=1e-4)}


async def test_without_any_stop_id_a_turn_ends_where_its_constraint_does(
    policy: TinyPolicy, model: Any
) -> None:
    async with TransformersGenerator(model, policy.tokenizer, eos_token_ids=()) as generator:
        turn = await generator.generate(PROMPT, sampling({"regex": "yes|no"}), request_id="r")

    assert policy.tokenizer.decode(list(turn.token_ids)) in ("yes", "no")
    assert turn.finish_reason == "stop"


async def test_a_request_of_its_own_stop_id_ends_only_where_the_constraint_is_fulfilled(
    policy: TinyPolicy, model: Any
) -> None:
    zero = policy.tokenizer.convert_tokens_to_ids("0")
    how = sampling({"regex": "[1-9]{4}"}, stop_token_ids=(zero,))
    async with TransformersGenerator(model, policy.tokenizer, eos_token_ids=()) as generator:
        turn = await generator.generate(PROMPT, how, request_id="r")

    assert re.fullmatch("[1-9]{4}0", policy.tokenizer.decode(list(turn.token_ids)))


@pytest.mark.parametrize(
    ("extras", "named"),
    [
        ({"regex": "("}, "regex"),
        ({"regex": "(?=a)a"}, "look-around"),
        ({"json_schema": {"type": "strin"}}, "strin"),
        ({"json_schema": '{"type'}, "json_schema"),
        ({"grammar": "root ::= nowhere"}, "nowhere"),
    ],
)
async def test_a_constraint_that_cannot_be_followed_is_refused_before_sampling(
    policy: TinyPolicy, model: Any, extras: dict[str, Any], named: str
) -> None:
    async with TransformersGenerator(model, policy.tokenizer) as generator:
        with pytest.raises(InvalidConfig, match=named):
            await generator.generate(PROMPT, sampling(extras), request_id="r")
        after = await generator.generate(PROMPT, sampling(max_tokens=2), request_id="r")

    assert len(after.token_ids) <= 2


async def test_a_dead_end_fails_its_own_row_alone(policy: TinyPolicy, model: Any) -> None:
    zero = policy.tokenizer.convert_tokens_to_ids("0")
    # The only token that could go on ends the turn, and may not yet.
    stuck = sampling({"regex": "10+1"}, stop_token_ids=(zero,))
    async with TransformersGenerator(model, policy.tokenizer, eos_token_ids=()) as generator:
        failed, fine = await asyncio.gather(
            generator.generate(PROMPT, stuck, request_id="a"),
            generator.generate(PROMPT, sampling(max_tokens=9), request_id="b"),
            return_exceptions=True,
        )

    assert isinstance(failed, ModelError)
    assert isinstance(fine, Generation)
    assert len(fine.token_ids) == 9


async def test_a_constraint_needs_a_tokenizer(model: Any) -> None:
    async with TransformersGenerator(model) as generator:
        with pytest.raises(Unsupported, match="tokenizer"):
            await generator.generate(PROMPT, sampling(DIGITS), request_id="r")


async def test_an_unknown_setting_is_refused_beside_a_constraint(
    policy: TinyPolicy, model: Any
) -> None:
    async with TransformersGenerator(model, policy.tokenizer) as generator:
        with pytest.raises(Unsupported, match="min_p"):
            await generator.generate(PROMPT, sampling({**DIGITS, "min_p": 0.1}), request_id="r")
