from __future__ import annotations

from typing import Any

import pytest
from scripted_policy import logprobs, spelled

from gym_adapters.adapters.nemo_rl.server_generation import NemoServerGenerator
from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.testing.nemo_rl_server import NemoChatServer

SAMPLING = SamplingParams(max_tokens=50, stop_token_ids=(258,))
CONTEXT = (
    "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nWell\u00e9<|im_end|>\n"
    "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture
async def generator(server: NemoChatServer, tokenizer: Any) -> Any:
    made = NemoServerGenerator(
        server.url, model="policy", eos_token_id=tokenizer.eos_token_id, attempts=2
    )
    async with made:
        yield made


async def test_the_server_reads_exactly_the_context_and_its_tokens_come_back(
    server: NemoChatServer, generator: NemoServerGenerator, tokenizer: Any
) -> None:
    server.say = lambda ids, name: spelled(tokenizer, f"to {name}<|im_end|>")
    ids = spelled(tokenizer, CONTEXT)
    turn = await generator.generate(ids, SAMPLING, request_id="7-1")
    assert server.prompts == [ids]
    assert list(turn.token_ids) == spelled(tokenizer, "to 7-1<|im_end|>")
    assert list(turn.logprobs) == logprobs(turn.token_ids)
    assert turn.finish_reason == "stop"


async def test_a_request_asks_for_what_nemo_rl_insists_on(
    server: NemoChatServer, generator: NemoServerGenerator, tokenizer: Any
) -> None:
    server.say = lambda ids, name: spelled(tokenizer, "x" * 9)
    sampling = SamplingParams(max_tokens=5, temperature=0.7, top_p=0.9, stop_token_ids=(258,))
    turn = await generator.generate(spelled(tokenizer, CONTEXT), sampling, request_id="a")
    (body,) = server.requests
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
    assert body["return_tokens_as_token_ids"] is True
    assert body["stop_token_ids"] == [258]
    assert "top_k" not in body
    assert turn.finish_reason == "length"
    assert len(turn.token_ids) == 5


async def test_an_opening_that_is_not_the_templates_is_refused(
    server: NemoChatServer, generator: NemoServerGenerator, tokenizer: Any
) -> None:
    server.opening = "<think>\n"
    with pytest.raises(Unsupported, match="opens the assistant's turn in another way"):
        await generator.generate(spelled(tokenizer, CONTEXT), SAMPLING, request_id="a")


async def test_a_context_without_an_end_of_sequence_token_is_refused(
    server: NemoChatServer, generator: NemoServerGenerator, tokenizer: Any
) -> None:
    with pytest.raises(Unsupported, match="no end-of-sequence token"):
        await generator.generate(spelled(tokenizer, "plain"), SAMPLING, request_id="a")
    assert server.requests == []


async def test_a_server_error_names_what_it_said(
    server: NemoChatServer, generator: NemoServerGenerator, tokenizer: Any
) -> None:
    server.failures["a"] = 500
    with pytest.raises(ModelError, match="answered 500: told to fail"):
        await generator.generate(spelled(tokenizer, CONTEXT), SAMPLING, request_id="a")


@pytest.mark.parametrize(
    ("sampling", "error"),
    [
        (SamplingParams(), InvalidConfig),
        (SamplingParams(max_tokens=1, top_k=20), Unsupported),
        (SamplingParams(max_tokens=1, stop=("x",)), Unsupported),
    ],
)
async def test_sampling_that_the_server_would_refuse_is_refused_first(
    generator: NemoServerGenerator, tokenizer: Any, sampling: SamplingParams, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await generator.generate(spelled(tokenizer, CONTEXT), sampling, request_id="a")


async def test_the_context_length_is_the_servers(
    server: NemoChatServer, generator: NemoServerGenerator
) -> None:
    server.max_model_len = 777
    assert await generator.max_context() == 777
