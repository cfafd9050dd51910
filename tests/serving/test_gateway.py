"""The gateway, driven by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gym_adapters import Environment, Episode, Task, Transcript, Unsupported, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.errors import ModelError
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.segment import Segment
from gym_adapters.serving.gateway import CapturedSession, Gateway, running_gateway
from gym_adapters.serving.sessions import SessionLimits
from gym_adapters.testing import ScriptedChatModel, ScriptedGenerator
from gym_adapters.testing.tiny_tokenizer import tiny_tokenizer
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

openai = pytest.importorskip("openai", reason="needs the openai client")
pytest.importorskip("transformers", reason="needs transformers")

END = "<|im_end|>"
# Spaces and a stray blank: what an agent may lose on the way must not matter.
ADD = (
    "<think>\nhm\n</think>\n<tool_call>\n"
    '{"name": "add",  "arguments": {"a":2, "b": 3}}\n</tool_call>'
)
MULTIPLY = 'so \n<tool_call>\n{"name": "multiply", "arguments": {"a": 5, "b": 4}}\n</tool_call>'
SCRIPT = (ADD + END, MULTIPLY + END, "20" + END)


class Sums(Environment[Task]):
    @tool
    async def add(self, a: int, b: int) -> int:
        """Add."""
        return a + b

    @tool
    async def multiply(self, a: int, b: int) -> int:
        """Multiply."""
        return a * b

    async def verify(self, transcript: Transcript) -> float:
        return float(transcript.final_text == "20")


TASK = Task.from_row({"responses_create_params": {"input": "(2+3)*4?"}})
TOOLS = [each.declaration() for each in Sums.class_tools.values()]


def policy(*turns: str | Exception, delay: float = 0.0, **options: Any) -> TokenChatModel:
    tokenizer = tiny_tokenizer()
    script = [
        turn
        if isinstance(turn, Exception)
        else tokenizer(turn, add_special_tokens=False)["input_ids"]
        for turn in turns
    ]
    return TokenChatModel(
        ScriptedGenerator(script, delay=delay),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="scripted",
        **options,
    )


@asynccontextmanager
async def gateway_for(
    model: TokenChatModel, name: str = "s1", **options: Any
) -> AsyncIterator[tuple[Gateway, Any]]:
    async with (
        running_gateway(model, **options) as gateway,
        openai.AsyncOpenAI(
            base_url=f"{gateway.address}/sessions/{name}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        yield gateway, client


async def in_process() -> list[Segment]:
    rollout = await ToolAgent().run(Episode(Sums, TASK), policy(*SCRIPT))
    assert rollout.reward == 1.0
    return list(rollout.segments)


def result_of(name: str, arguments: str) -> str:
    given = json.loads(arguments)
    return str(given["a"] + given["b"] if name == "add" else given["a"] * given["b"])


def chat_tools() -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {key: each[key] for key in each if key != "type"},
        }
        for each in TOOLS
    ]


async def chat(client: Any, messages: list[Any], *, stream: bool) -> Any:
    """One call; the assistant's message as the client would echo it."""
    options = {"model": "m", "messages": messages, "tools": chat_tools()}
    if not stream:
        answer = await client.chat.completions.create(**options)
        return answer.choices[0].message
    text, calls = "", {}
    events = await client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    async for event in events:
        for choice in event.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                known = calls.setdefault(call.index, {"id": call.id, "name": "", "arguments": ""})
                known["name"] += call.function.name or ""
                known["arguments"] += call.function.arguments or ""
        usage = event.usage
    assert usage.completion_tokens > 0
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                # An agent that parses the arguments writes them in its own way.
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(json.loads(call["arguments"])),
                },
            }
            for call in calls.values()
        ]
    return message


def calls_of(message: Any) -> list[tuple[str, str, str]]:
    if isinstance(message, dict):
        return [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", [])
        ]
    return [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []]


async def talk(client: Any, *, stream: bool, drop_after: int | None = None) -> list[Any]:
    messages: list[Any] = [{"role": "user", "content": "(2+3)*4?"}]
    for turn in range(len(SCRIPT)):
        message = await chat(client, messages, stream=stream)
        messages.append(message)
        for call_id, name, arguments in calls_of(message):
            content = result_of(name, arguments)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        if turn == drop_after:
            # What compaction does: the first exchange goes.
            messages = [{"role": "user", "content": "go on"}, *messages[3:]]
    return messages


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_keeps_the_very_tokens_of_the_agent_in_process(stream: bool) -> None:
    async with gateway_for(policy(*SCRIPT)) as (gateway, client):
        await talk(client, stream=stream)
        captured = await gateway.finish("s1")
    assert list(captured.segments) == await in_process()
    assert captured.usage.turns == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_keeps_the_very_tokens_of_the_agent_in_process(stream: bool) -> None:
    async with gateway_for(policy(*SCRIPT)) as (gateway, client):
        history: list[Any] = [{"role": "user", "content": "(2+3)*4?"}]
        for _ in range(3):
            options = {"model": "m", "input": history, "tools": TOOLS}
            if stream:
                deltas = ""
                async for event in await client.responses.create(**options, stream=True):
                    deltas += getattr(event, "delta", "")
                answer = event.response
                assert deltas
            else:
                answer = await client.responses.create(**options)
            for item in answer.output:
                history.append(item.to_dict())
                if item.type == "function_call":
                    output = result_of(item.name, item.arguments)
                    history.append(
                        {"type": "function_call_output", "call_id": item.call_id, "output": output}
                    )
        captured = await gateway.finish("s1")
    assert answer.output_text == "20"
    assert list(captured.segments) == await in_process()


async def test_dropping_the_first_messages_begins_a_second_exact_segment() -> None:
    model = policy(*SCRIPT)
    async with gateway_for(model) as (gateway, client):
        await talk(client, stream=False, drop_after=1)
        captured = await gateway.finish("s1")
    (whole,) = await in_process()
    first, second = captured.segments
    sampled = [tiny_tokenizer()(turn, add_special_tokens=False)["input_ids"] for turn in SCRIPT]
    assert first.sampled_ids == [*sampled[0], *sampled[1]]
    assert second.sampled_ids == sampled[2]
    assert first.sampled_ids + second.sampled_ids == whole.sampled_ids
    # Each is what the policy read and sampled, to the token.
    calls = model.generator.calls
    assert [*first.prompt_ids, *first.completion_ids] == [*calls[1].prompt_ids, *sampled[1]]
    assert [*second.prompt_ids, *second.completion_ids] == [*calls[2].prompt_ids, *sampled[2]]
    assert list(second.prompt_ids) != list(whole.prompt_ids)


async def test_a_branch_keeps_the_sampled_tokens_of_its_shared_past() -> None:
    model = policy("odd \n" + END, "left" + END, "right" + END)
    async with gateway_for(model) as (gateway, client):
        start = [{"role": "user", "content": "hi"}]
        said = (await client.chat.completions.create(model="m", messages=start)).choices[0].message
        # Agents trim.
        past = [*start, {"role": "assistant", "content": said.content.strip()}]
        for way in ("left?", "right?"):
            await client.chat.completions.create(
                model="m", messages=[*past, {"role": "user", "content": way}]
            )
        captured = await gateway.finish("s1")
    one, other = captured.segments
    shared = [*one.prompt_ids, *one.completion_ids][: len(one.prompt_ids) + 6]
    assert list(other.prompt_ids)[: len(shared)] == shared
    total = sum(len(segment.sampled_ids) for segment in captured.segments)
    assert total == captured.usage.output_tokens
    assert len(other.sampled_ids) == 6


async def test_calls_at_once_and_the_same_question_again_are_segments_of_their_own() -> None:
    model = policy(*["a" + END] * 3, delay=0.05)
    async with gateway_for(model) as (gateway, client):
        messages = [{"role": "user", "content": "hi"}]
        await asyncio.gather(
            *(client.chat.completions.create(model="m", messages=messages) for _ in range(3))
        )
        captured = await gateway.finish("s1")
    assert [len(segment.sampled_ids) for segment in captured.segments] == [2, 2, 2]


async def test_a_repeated_request_gets_the_turn_that_it_got() -> None:
    async with gateway_for(policy("a" + END, "b" + END)) as (gateway, client):
        messages = [{"role": "user", "content": "hi"}]
        texts = []
        for retry in ("0", "1"):
            answer = await client.chat.completions.create(
                model="m", messages=messages, extra_headers={"x-stainless-retry-count": retry}
            )
            texts.append(answer.choices[0].message.content)
        assert texts == ["a", "a"]
        assert (await gateway.finish("s1")).usage.turns == 1


async def test_a_failed_turn_leaves_no_token() -> None:
    model = policy(ModelError("out of memory"), "a" + END)
    async with gateway_for(model) as (gateway, client):
        messages = [{"role": "user", "content": "hi"}]
        with pytest.raises(openai.InternalServerError, match="out of memory"):
            await client.chat.completions.create(model="m", messages=messages)
        await client.chat.completions.create(model="m", messages=messages)
        assert len((await gateway.finish("s1")).segments) == 1


async def test_a_client_that_vanishes_aborts_its_turn() -> None:
    model = policy("a" + END, delay=600)
    async with gateway_for(model) as (gateway, client):
        messages = [{"role": "user", "content": "hi"}]
        asking = asyncio.create_task(client.chat.completions.create(model="m", messages=messages))
        async with asyncio.timeout(60):
            while not model.generator.calls:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        asking.cancel()
        async with asyncio.timeout(60):
            while not model.generator.aborted:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert (await gateway.finish("s1")).segments == ()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hi"},
        {"messages": [1]},
        {"messages": [{"role": "odd", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"messages": [{"role": "assistant", "tool_calls": 7}]},
        {"messages": [{"role": "user", "content": "x"}], "n": 2},
        {"messages": [{"role": "user", "content": "x"}], "logprobs": True},
        {"messages": [{"role": "user", "content": "x"}], "temperature": "hot"},
        {"messages": [{"role": "user", "content": "x"}], "stop": [1]},
        {"messages": [{"role": "user", "content": "x"}], "tools": 1},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]},
        {"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"},
        {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json"}},
        {"input": 7},
        {"input": []},
        {"input": [[]]},
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        {"input": "x", "previous_response_id": "resp_1"},
        {"input": "x", "instructions": 7},
        {"input": "x", "max_output_tokens": 0},
    ],
)
async def test_what_cannot_be_honoured_is_refused_with_its_field(body: dict[str, Any]) -> None:
    path = "responses" if "input" in body else "chat/completions"
    async with gateway_for(policy("a")) as (gateway, _), aiohttp.ClientSession() as http:
        async with http.post(f"{gateway.address}/sessions/s/v1/{path}", json=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"
        assert (await gateway.finish("s")).segments == ()


async def test_the_session_may_stand_in_a_header_and_must_stand_somewhere() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with gateway_for(policy("a" + END)) as (gateway, _), aiohttp.ClientSession() as http:
        url = f"{gateway.address}/v1/chat/completions"
        async with http.post(url, json=body) as answer:
            assert answer.status == 400
        async with http.post(url, json=body, headers={"X-Session-Id": "mine"}) as answer:
            assert answer.status == 200
        async with http.post(f"{gateway.address}/sessions/mine/finish") as answer:
            assert len((await answer.json())["segments"]) == 1
        async with http.post(f"{gateway.address}/sessions/mine/finish") as answer:
            assert answer.status == 404


async def test_sampling_that_is_fixed_wins_over_the_agents() -> None:
    model = policy("a" + END)
    fixed = SamplingParams(temperature=0.7, max_tokens=100)
    async with gateway_for(model, fixed=fixed) as (_, client):
        await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "x"}],
            temperature=0.1,
            max_completion_tokens=50,
        )
    (call,) = model.generator.calls
    assert (call.sampling.temperature, call.sampling.max_tokens) == (0.7, 50)


@pytest.mark.parametrize(
    ("asked", "overridden"),
    [
        ({}, []),
        ({"temperature": 0.7, "top_p": 1, "stop": [], "max_tokens": 5}, []),
        ({"temperature": 0.1, "stop": "x", "seed": 3}, ["seed", "stop", "temperature"]),
        ({"frequency_penalty": 0.5, "logit_bias": {"1": 2}}, ["frequency_penalty", "logit_bias"]),
    ],
)
async def test_settings_that_lose_are_told_once_and_kept_with_the_session(
    asked: dict[str, Any], overridden: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = policy("a" + END, "b" + END)
    fixed = SamplingParams(temperature=0.7)
    async with gateway_for(model, fixed=fixed) as (gateway, client):
        for text in ("x", "y"):
            messages = [{"role": "user", "content": text}]
            await client.chat.completions.create(model="m", messages=messages, **asked)
        assert (await gateway.finish("s1")).to_json()["overridden"] == overridden
    told = [each for each in caplog.messages if "the policy's settings win" in each]
    assert len(told) == bool(overridden)
    assert all(name in told[0] for name in overridden)


async def test_a_full_context_is_told_and_ends_the_session() -> None:
    async with gateway_for(policy("a" + END, max_context=30)) as (gateway, client):
        with pytest.raises(openai.BadRequestError, match="context"):
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x" * 50}]
            )
        assert (await gateway.finish("s1")).segments == ()


@pytest.mark.parametrize(
    "count", [1000, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
)
async def test_sessions_opened_and_dropped_are_handed_over_as_expired(count: int) -> None:
    handed: list[CapturedSession] = []

    async def hand_over(session: CapturedSession) -> None:
        handed.append(session)

    limits = SessionLimits(max_sessions=20_000, idle_timeout=1.0)
    model = policy()
    model.generator = ScriptedGenerator(lambda *_: [97, 257])
    options = {"on_finished": hand_over, "limits": limits}
    async with gateway_for(model, **options) as (gateway, _), aiohttp.ClientSession() as http:

        async def open_and_drop(name: int) -> None:
            url = f"{gateway.address}/sessions/{name}/v1/chat/completions"
            body = {"messages": [{"role": "user", "content": "hi"}]}
            async with http.post(url, json=body) as answer:
                assert answer.status == 200

        for start in range(0, count, 100):
            await asyncio.gather(*(open_and_drop(start + n) for n in range(100)))
        async with asyncio.timeout(30):
            while len(gateway.sessions):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
    assert len(handed) == count
    assert all(session.expired and len(session.segments) == 1 for session in handed)


async def test_a_model_without_tokens_is_refused() -> None:
    with pytest.raises(Unsupported, match="keeps no tokens"):
        Gateway(ScriptedChatModel(["a"]))


async def test_the_clients_own_stream_helpers_put_the_turn_together() -> None:
    async with gateway_for(policy(ADD + END, "fine" + END, MULTIPLY + END)) as (_, client):
        options = {"model": "m", "input": "2+3?", "tools": TOOLS}
        async with client.responses.stream(**options) as stream:
            async for _event in stream:
                pass
            answer = await stream.get_final_response()
        assert [item.type for item in answer.output] == ["reasoning", "function_call"]
        assert json.loads(answer.output[1].arguments) == {"a": 2, "b": 3}
        async with client.responses.stream(**options) as stream:
            texts = [event.delta async for event in stream if event.type.endswith("text.delta")]
        assert texts == ["fine"]
        async with client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "5*4?"}], tools=chat_tools()
        ) as stream:
            async for _event in stream:
                pass
            chosen = (await stream.get_final_completion()).choices[0]
        assert chosen.finish_reason == "tool_calls"
        assert chosen.message.content.strip() == "so"
        assert chosen.message.tool_calls[0].function.name == "multiply"


async def test_a_strict_model_refuses_a_second_segment() -> None:
    async with gateway_for(policy(*SCRIPT, strict=True)) as (gateway, client):
        with pytest.raises(openai.UnprocessableEntityError, match="one segment"):
            await talk(client, stream=False, drop_after=1)
        assert len((await gateway.finish("s1")).segments) == 1


async def test_the_completion_budget_counts_over_all_turns_of_a_segment() -> None:
    model = policy(*SCRIPT, max_completion=150)
    async with gateway_for(model) as (gateway, client):
        with pytest.raises((openai.BadRequestError, AssertionError)):
            await talk(client, stream=False)
        (segment,) = (await gateway.finish("s1")).segments
    assert len(segment.completion_ids) <= 150
