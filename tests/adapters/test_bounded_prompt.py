from __future__ import annotations

import pytest

from gym_adapters.adapters.bounded_prompt import BoundedPrompt
from gym_adapters.errors import ModelError
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.items import user_message
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer


def bounded(longest: int) -> BoundedPrompt:
    tokenizer = tiny_tokenizer()
    generator = ScriptedGenerator(lambda *_: tokenizer("hello<|im_end|>")["input_ids"])
    chat = TokenChatModel(
        generator, TemplateRenderer(tokenizer), output_parser(tokenizer), name="tiny"
    )
    return BoundedPrompt(chat, longest)


PROMPT = [user_message("hi")]
LENGTH = len(TemplateRenderer(tiny_tokenizer()).prompt_ids(PROMPT, ()))


async def test_a_prompt_as_long_as_allowed_is_answered() -> None:
    model = bounded(LENGTH)
    session = model.open(tools=(), sampling=SamplingParams(), request_id="r")
    turn = await session.respond(PROMPT)
    assert turn is not None
    assert turn.finish_reason == "stop"
    assert len(session.segments[0].prompt_ids) == LENGTH
    assert model.name == "tiny"
    assert model.template_hash


async def test_a_longer_one_fails_before_anything_is_sampled() -> None:
    session = bounded(LENGTH - 1).open(tools=(), sampling=SamplingParams(), request_id="r")
    with pytest.raises(ModelError, match=f"has {LENGTH} tokens.*takes {LENGTH - 1}"):
        await session.respond(PROMPT)
    assert not session.segments


async def test_later_messages_are_not_bounded() -> None:
    session = bounded(LENGTH).open(tools=(), sampling=SamplingParams(), request_id="r")
    await session.respond(PROMPT)
    turn = await session.respond([user_message("a longer message than the first of all")])
    assert turn is not None


async def test_a_constraint_is_passed_on() -> None:
    tokenizer = tiny_tokenizer()
    generator = ScriptedGenerator(lambda *_: tokenizer("hello<|im_end|>")["input_ids"])
    chat = TokenChatModel(
        generator, TemplateRenderer(tokenizer), output_parser(tokenizer), name="tiny"
    )
    session = BoundedPrompt(chat, LENGTH).open(tools=(), sampling=SamplingParams(), request_id="r")
    await session.respond(PROMPT, constraint={"regex": "hello"})
    assert generator.calls[0].sampling.extras == {"regex": "hello"}
