"""An OpenAI-compatible endpoint, against a server in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from gym_adapters import Boundary, Environment, InvalidConfig, ModelError, Task, Transcript, tool
from gym_adapters.errors import RolloutTimeout, Unsupported
from gym_adapters.generation import openai_endpoint
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.generation.endpoint_errors import retry_after
from gym_adapters.generation.openai_endpoint import (
    ContextExceeded,
    EndpointRefused,
    OpenAIEndpoint,
)
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
    user_message,
)
from gym_adapters.rollouts import collect, model_source

Answer = dict[str, Any] | web.Response | Exception
Script = list[Answer] | Callable[[web.Request, dict[str, Any]], Awaitable[Answer]]


class Server:
    """Answers from a script and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[object] = set()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.asked.append({"path": request.path, **body})
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        if callable(self.script):
            answer = await self.script(request, body)
        else:
            answer = self.script[min(len(self.asked), len(self.script)) - 1]
        if isinstance(answer, web.Response):
            # One response object serves one request.
            return web.Response(
                status=answer.status, body=answer.body, headers=dict(answer.headers)
            )
        if isinstance(answer, Exception):
            request.transport.close()
            raise answer
        return web.json_response(answer)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    app.router.add_post("/v1/responses", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_endpoint, "LONGEST_PAUSE", 0.001)


def said(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {
        "choices": [
            {"message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }


def called(*calls: tuple[str | None, str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


def failing(status: int, text: Any = "no", **headers: str) -> web.Response:
    body = orjson.dumps({"error": text if isinstance(text, dict) else {"message": text}})
    return web.Response(status=status, body=body, headers=headers)


TOOL: Any = {
    "type": "function",
    "name": "add",
    "description": "Add.",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}


async def turns(
    server: Server,
    *new: list[Item],
    sampling: SamplingParams | None = None,
    tools: Any = (),
    **options: Any,
) -> list[ModelTurn | None]:
    async with OpenAIEndpoint("m", server.url, **options) as endpoint:
        session = endpoint.open(
            tools=tools, sampling=sampling or SamplingParams(), request_id="task-0"
        )
        return [await session.respond(items) for items in new]


HI: list[Item] = [user_message("hi")]


async def test_a_turn_of_text_with_its_usage() -> None:
    async with serving([said("hello")]) as server:
        assert await turns(server, HI) == [
            ModelTurn([assistant_message("hello")], "stop", Usage(11, 3))
        ]
    assert server.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "m",
            "temperature": 1.0,
            "top_p": 1.0,
            "messages": [{"role": "user", "content": "hi"}],
        }
    ]


async def test_sampling_and_tools_go_out_as_the_api_names_them() -> None:
    sampling = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop=("X",),
        stop_token_ids=(2,),
        extras={"chat_template_kwargs": {"enable_thinking": False}},
    )
    async with serving([said("x")]) as server:
        await turns(server, HI, sampling=sampling, tools=[TOOL])
    (asked,) = server.asked
    assert {
        key: asked[key] for key in asked if key not in ("path", "model", "messages", "tools")
    } == {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["X"],
        "stop_token_ids": [2],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    function = {key: TOOL[key] for key in ("name", "description", "parameters", "strict")}
    assert asked["tools"] == [{"type": "function", "function": function}]


async def test_parallel_calls_and_their_results_go_back_as_they_came() -> None:
    calls = called(("a", "add", '{"x": 1}'), ("b", "add", "{broken"))
    async with serving([said(None, "tool_calls", tool_calls=calls), said("done")]) as server:
        results: list[Item] = [function_call_output("a", "1"), function_call_output("b", "no")]
        first, second = await turns(server, HI, results, tools=[TOOL])
    assert first is not None
    assert first.items == [
        function_call("add", '{"x": 1}', "a"),
        function_call("add", "{broken", "b"),
    ]
    assert second is not None
    assert server.asked[1]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "no"},
    ]


async def test_call_ids_that_come_again_or_not_at_all_are_made_unique() -> None:
    answers: list[Answer] = [
        said(None, tool_calls=called(("call_0", "add", "{}"), (None, "add", {"x": 1}))),
        said(None, tool_calls=called(("call_0", "add", None))),
    ]
    async with serving(answers) as server:
        first, second = await turns(server, HI, HI)
    assert first is not None
    assert second is not None
    calls = [item for turn in (first, second) for item in turn.items]
    ids = [item["call_id"] for item in calls if item["type"] == "function_call"]
    assert ids[0] == "call_0"
    assert len(set(ids)) == 3
    assert [item["arguments"] for item in calls if item["type"] == "function_call"] == [
        "{}",
        '{"x":1}',
        "",
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_thinking_becomes_an_item_and_is_not_sent_back(key: str) -> None:
    async with serving([said("hello", **{key: "hm"})]) as server:
        first, _ = await turns(server, HI, HI)
    assert first is not None
    assert first.items == [reasoning("hm"), assistant_message("hello")]
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "hello"}


async def test_a_refusal_is_a_message_that_says_so() -> None:
    async with serving([said(None, refusal="I can't.")]) as server:
        (turn,) = await turns(server, HI)
    assert turn is not None
    (item,) = turn.items
    assert item["content"] == [{"type": "refusal", "refusal": "I can't."}]


async def test_a_length_stop_is_told() -> None:
    async with serving([said("hel", "length")]) as server:
        (turn,) = await turns(server, HI)
    assert turn is not None
    assert turn.finish_reason == "length"


async def test_an_empty_turn_has_no_items() -> None:
    async with serving([said(None)]) as server:
        first, _ = await turns(server, HI, HI)
    assert first == ModelTurn([], "stop", Usage(11, 3))
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": ""}


async def test_a_conversation_that_is_under_way_is_told_in_full() -> None:
    items: list[Item] = [
        message("developer", "be brief"),
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "what is"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA"},
            ],
        },
        reasoning("hm"),
        assistant_message("let me see"),
        function_call("add", "{}", "a"),
        function_call_output("a", "1"),
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "go"},
                {"type": "input_text", "text": " on"},
            ],
        },
    ]
    async with serving([said("x")]) as server:
        await turns(server, items)
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
        {"role": "assistant", "content": "let me see", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "user", "content": "go on"},
    ]


async def test_text_that_utf8_can_not_hold_is_sent_all_the_same() -> None:
    async with serving([said("x")]) as server:
        await turns(server, [user_message("half \ud800")])
    assert server.asked[0]["messages"][0]["content"] == "half ?"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_a_passing_failure_is_asked_again(status: int) -> None:
    async with serving([failing(status), failing(status), said("hello")]) as server:
        (turn,) = await turns(server, HI)
    assert turn is not None
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2]


async def test_a_broken_connection_is_asked_again() -> None:
    async with serving([ConnectionResetError(), said("hello")]) as server:
        (turn,) = await turns(server, HI)
    assert turn is not None


async def test_asking_again_has_an_end() -> None:
    async with serving([failing(503, "overloaded")]) as server:
        with pytest.raises(ModelError, match=r"failed 3 time\(s\).*503: overloaded"):
            await turns(server, HI, attempts=3)
    assert len(server.asked) == 3


async def test_nobody_there_is_a_model_error() -> None:
    async with serving([]) as server:
        url = server.url
    server.url = url
    with pytest.raises(ModelError, match=r"failed 2 time\(s\)"):
        await turns(server, HI, attempts=2)


@pytest.mark.parametrize("wait", ["0.2", "date"])
async def test_the_pause_that_the_server_asks_for_is_kept(
    wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(openai_endpoint.asyncio, "sleep", sleep)
    if wait == "date":
        wait = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    async with serving([failing(429, "slow", **{"Retry-After": wait}), said("x")]) as server:
        await turns(server, HI)
    asked = [seconds for seconds in slept if seconds > 0.001]
    assert len(asked) == 1
    assert asked[0] == 0.2 or 400 < asked[0] <= 500


async def test_an_address_that_asks_for_a_pause_sends_conversations_to_another() -> None:
    busy = failing(429, "slow", **{"Retry-After": "3600"})
    async with (
        serving([busy]) as one,
        serving([said("x")]) as two,
        OpenAIEndpoint("m", [one.url, two.url]) as endpoint,
    ):
        for number in range(6):
            session = endpoint.open(tools=[], sampling=SamplingParams(), request_id=str(number))
            for _ in range(2):
                assert await session.respond(HI) is not None
    assert len(one.asked) == 1
    assert len(two.asked) == 12


@pytest.mark.parametrize("header", ["Wed, 1 Jan 99999999999999999999 00:00:00 GMT", "soon", "-5"])
async def test_a_pause_that_can_not_be_read_is_one_of_our_own(header: str) -> None:
    async with serving([failing(429, "slow", **{"Retry-After": header}), said("x")]) as server:
        await turns(server, HI)
    assert len(server.asked) == 2


def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-9")
    time.tzset()
    try:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=100))
        pause = retry_after({"Retry-After": later.replace("+0000", "-0000")})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert pause is not None
    assert 60 < pause <= 100


async def test_a_pause_past_the_deadline_is_not_waited_for() -> None:
    async with serving([failing(429, "slow down", **{"Retry-After": "3600"})]) as server:
        with pytest.raises(ModelError, match=r"failed 1 time\(s\).*slow down"):
            await turns(server, HI)


async def test_an_answer_that_does_not_come_is_a_timeout(leap: Callable[[float], None]) -> None:
    async def hang(request: web.Request, body: Any) -> Answer:
        leap(300.5)
        await asyncio.sleep(3600)
        return said("late")

    async with serving(hang) as server:
        with pytest.raises(RolloutTimeout, match=r"no turn within 300\.5 s"):
            await turns(server, HI, deadline=300.5)
    assert len(server.asked) == 1


async def test_cancelling_closes_the_connection() -> None:
    closed = asyncio.Event()
    arrived = asyncio.Event()

    async def hang(request: web.Request, body: Any) -> Answer:
        arrived.set()
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
        closed.set()
        return said("late")

    async with serving(hang) as server, OpenAIEndpoint("m", server.url) as endpoint:
        session = endpoint.open(tools=[], sampling=SamplingParams(), request_id="r")
        work = asyncio.create_task(session.respond(HI))
        await arrived.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await asyncio.wait_for(closed.wait(), 60)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (failing(400, "bad tool schema"), "400: bad tool schema"),
        (failing(429, {"message": "pay first", "code": "insufficient_quota"}), "pay first"),
        (web.Response(status=400, body=b"<html>proxy</html>"), "<html>proxy</html>"),
        (web.Response(status=307, headers={"Location": "http://elsewhere/"}), "307"),
        (web.Response(body=b"<html>"), "not JSON"),
        (web.Response(body=b"[]"), "not an object"),
        ({"choices": []}, "no message"),
        ({"error": {"message": "upstream"}}, "upstream"),
        ({"choices": [{"message": None}]}, "no message"),
        (said(None, tool_calls=[{"id": "a"}]), "without a name"),
        (said(None, tool_calls="f"), "not a list"),
        (said("x", "content_filter"), "content_filter"),
    ],
)
async def test_what_can_not_be_helped_is_a_model_error_at_once(answer: Answer, text: str) -> None:
    async with serving([answer]) as server:
        with pytest.raises(ModelError, match=text):
            await turns(server, HI)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "too long", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 40 tokens. However, ..."},
    ],
)
async def test_a_conversation_that_outgrew_the_context_leaves_no_room(error: Any) -> None:
    async with serving([said("x"), failing(400, error)]) as server:
        assert (await turns(server, HI, HI))[1] is None
    async with serving([failing(400, error)]) as server:
        with pytest.raises(ContextExceeded):
            await turns(server, HI)


async def test_the_key_is_sent_and_never_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving([failing(503), failing(401, "wrong key")]) as server:
        async with OpenAIEndpoint("m", server.url, api_key="sk-secret") as endpoint:
            session = endpoint.open(tools=[], sampling=SamplingParams(), request_id="r")
            with pytest.raises(EndpointRefused) as caught:
                await session.respond(HI)
        assert "sk-secret" not in f"{caught.value} {endpoint.refused} {endpoint.name} {caplog.text}"
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("status", [400, 401, 503])
async def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_record(status: int) -> None:
    # The key would be cut in two where only so much of an answer is shown.
    told = f"{'x' * 490} Bearer sk-secret-0123456789"
    for answer in (failing(status, told), web.Response(status=status, text=told)):
        async with serving([answer]) as server:
            async with OpenAIEndpoint(
                "m", server.url, api_key="sk-secret-0123456789", attempts=1
            ) as endpoint:
                session = endpoint.open(tools=[], sampling=SamplingParams(), request_id="r")
                with pytest.raises(ModelError, match="Bearer") as caught:
                    await session.respond(HI)
            assert "sk-" not in f"{caught.value} {endpoint.refused}"


def test_a_key_that_no_request_can_carry_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="line break") as caught:
        OpenAIEndpoint("m", "http://localhost/v1", api_key="sk-1\nsk-2")
    assert "sk-" not in str(caught.value)


async def test_a_key_from_a_file_may_end_in_a_newline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    task = Task.from_row({"responses_create_params": {"input": "hi"}})
    async with (
        serving([said("x")]) as server,
        model_source(f"openai:m@{server.url}", seed=0) as source,
    ):
        model = source.for_rollout(Environment, task)
        session = model.open(tools=[], sampling=SamplingParams(), request_id="r")
        await session.respond(HI)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    "url",
    [
        "http://host:99999999/v1",
        "http://[/v1",
        "http://host:0/v1",
        "http://host/v1?api_key=sk-1",
        "http://host/v1#sk-1",
    ],
)
def test_an_address_that_no_request_can_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"address"):
        OpenAIEndpoint("m", url)


async def test_half_of_a_surrogate_pair_in_an_answer_is_replaced() -> None:
    body = orjson.dumps(said("a HALF b")).replace(b"HALF", b"\\ud800")
    async with serving([web.Response(body=body)]) as server:
        turn = (await turns(server, HI))[0]
    assert turn is not None
    assert turn.items == [assistant_message("a ? b")]


async def test_without_a_key_none_is_sent() -> None:
    async with serving([said("x")]) as server:
        await turns(server, HI)
    assert "Authorization" not in server.headers[0]


async def test_one_pool_of_connections_serves_all_rollouts() -> None:
    async def one(endpoint: OpenAIEndpoint, index: int) -> None:
        session = endpoint.open(tools=[], sampling=SamplingParams(), request_id=str(index))
        for _ in range(5):
            await session.respond(HI)

    async with (
        serving([said("x")]) as server,
        OpenAIEndpoint("m", server.url, max_connections=4) as endpoint,
    ):
        await asyncio.gather(*(one(endpoint, index) for index in range(20)))
    assert len(server.asked) == 100
    assert len(server.connections) <= 4


async def test_seeds_differ_by_rollout_and_turn_and_repeat() -> None:
    async def seeds(seed: int) -> list[int]:
        async with serving([said("x")]) as server:
            await turns(server, HI, HI, seed=seed)
            return [asked["seed"] for asked in server.asked]

    one = await seeds(1)
    assert len({*one, *await seeds(2)}) == 4
    assert one == await seeds(1)
    assert all(0 <= seed < 2**31 for seed in one)


async def test_an_item_is_encoded_once_however_long_the_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gym_adapters.generation import chat_completions

    count = 0
    real = chat_completions.encoded

    def counting(value: Any) -> bytes:
        nonlocal count
        count += 1
        return real(value)

    monkeypatch.setattr(chat_completions, "encoded", counting)
    async with serving([said("x")]) as server:
        await turns(server, *[HI] * 20)
    assert len(server.asked[-1]["messages"]) == 39
    assert count == 40


async def test_use_before_entering_is_a_clear_error() -> None:
    session = OpenAIEndpoint("m", "http://localhost/v1").open(
        tools=[], sampling=SamplingParams(), request_id="r"
    )
    with pytest.raises(RuntimeError, match="enter the endpoint"):
        await session.respond(HI)


# The Responses API.


def output(*items: dict[str, Any], status: str = "completed", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 2}
    return {"status": status, "output": list(items), "usage": usage, "error": None, **more}


TEXT = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "hello", "annotations": []}],
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "a",
    "name": "add",
    "arguments": "{}",
    "status": "completed",
}


async def test_responses_give_items_and_get_them_back_without_ids() -> None:
    thinking = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
    }
    sealed = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "xyz"}
    async with serving([output(thinking, sealed, CALL), output(TEXT)]) as server:
        first, second = await turns(
            server,
            HI,
            [function_call_output("a", "1")],
            api="responses",
            tools=[TOOL],
            sampling=SamplingParams(max_tokens=9),
        )
    assert first == ModelTurn(
        [reasoning("hm"), function_call("add", "{}", "a")], "stop", Usage(5, 2)
    )
    assert second == ModelTurn([assistant_message("hello")], "stop", Usage(5, 2))
    asked = server.asked[1]
    assert (asked["path"], asked["store"], asked["max_output_tokens"]) == (
        "/v1/responses",
        False,
        9,
    )
    assert asked["tools"] == [TOOL]
    assert asked["input"] == [
        {"type": "message", "role": "user", "content": "hi"},
        sealed,
        {"type": "function_call", "call_id": "a", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]


async def test_responses_cut_by_their_budget() -> None:
    cut = output(TEXT, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    async with serving([cut]) as server:
        (turn,) = await turns(server, HI, api="responses")
    assert turn is not None
    assert turn.finish_reason == "length"


async def test_a_refusal_in_a_response_is_kept() -> None:
    refusal = {**TEXT, "content": [{"type": "refusal", "refusal": "I can't."}]}
    async with serving([output(refusal)]) as server:
        (turn,) = await turns(server, HI, api="responses")
    assert turn is not None
    assert turn.items[0]["content"] == [{"type": "refusal", "refusal": "I can't."}]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (output(status="failed", error={"message": "boom"}), "boom"),
        (
            output(status="incomplete", incomplete_details={"reason": "content_filter"}),
            "content_filter",
        ),
        ({"status": "completed"}, "no output"),
        (output({"type": "function_call", "call_id": "a"}), "without a name"),
    ],
)
async def test_a_response_without_a_turn_is_a_model_error(answer: Answer, text: str) -> None:
    async with serving([answer]) as server:
        with pytest.raises(ModelError, match=text):
            await turns(server, HI, api="responses")


async def test_what_responses_lack_is_not_dropped_in_silence() -> None:
    async with serving([output(TEXT)]) as server:
        with pytest.raises(ModelError, match="no stop"):
            await turns(server, HI, api="responses", sampling=SamplingParams(stop=("X",)))


# As a model spec.


class Adder(Environment[Task]):
    """Adds; the reward is the sum."""

    total = 0

    @tool
    async def add(self, count: int) -> int:
        """Add.

        Args:
            count: How much.
        """
        self.total += count
        return self.total

    async def verify(self, transcript: Transcript) -> float:
        return float(self.total)


TASKS = [
    Task.from_row({"responses_create_params": {"input": f"add {number}"}}) for number in range(30)
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


async def test_rollouts_through_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    async def answer(request: web.Request, body: dict[str, Any]) -> Answer:
        if len(body["messages"]) == 1:
            return said(None, tool_calls=called(("a", "add", '{"count": 2}')))
        return said("done")

    async with serving(answer) as server:
        spec = f"openai:org/model:8b@{server.url}"
        rollouts = [each async for each in collect(Adder, TASKS, spec, num_repeats=2)]
    assert [rollout.reward for rollout in rollouts] == [2.0] * 60
    assert {rollout.usage.output_tokens for rollout in rollouts} == {6}
    assert {rollout.provenance.model for rollout in rollouts} == {spec}
    assert {asked["model"] for asked in server.asked} == {"org/model:8b"}
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}
    assert "sk-secret" not in str([rollout.to_json() for rollout in rollouts])


async def test_a_wrong_key_ends_the_run_instead_of_failing_every_rollout() -> None:
    async with serving([failing(401, "wrong key")]) as server:
        rollouts = []

        async def gather() -> None:
            async for each in collect(Adder, TASKS, f"openai:m@{server.url}", concurrency=2):
                rollouts.append(each)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(InvalidConfig, match="OPENAI_API_KEY"):
            await gather()
    assert 1 <= len(server.asked) < 10
    failures = [each.outcome.failure for each in rollouts]
    assert {failure.boundary for failure in failures if failure} == {Boundary.MODEL}


@pytest.mark.parametrize(
    "spec",
    [
        "openai:m",
        "openai:",
        "openai:@http://x/v1",
        "openai:m@ftp://x",
        "openai:m@http://",
        "openai-responses:m@localhost:8000",
        "openai:m@http://me:pw@host/v1",
    ],
)
def test_a_spec_without_name_and_address_is_refused(spec: str) -> None:
    with pytest.raises(InvalidConfig):
        model_source(spec)


def test_both_apis_have_a_spec() -> None:
    for scheme in ("openai", "openai-responses"):
        assert model_source(f"{scheme}:m@http://x/v1/").name == f"{scheme}:m@http://x/v1"


async def test_nothing_of_aiohttp_is_left_open() -> None:
    async with serving([said("x")]) as server:
        endpoint = OpenAIEndpoint("m", server.url)
        async with endpoint:
            client = endpoint._client
        assert isinstance(client, aiohttp.ClientSession)
        assert client.closed


async def test_a_constraint_is_refused_before_anything_is_asked() -> None:
    async with serving([said("hello")]) as server, OpenAIEndpoint("m", server.url) as endpoint:
        session = endpoint.open(tools=(), sampling=SamplingParams(), request_id="task-0")
        with pytest.raises(Unsupported, match="can't be held to json_schema"):
            await session.respond(HI, constraint={"json_schema": {}})
        assert server.asked == []
