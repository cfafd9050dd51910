"""OpenEnv's protocol from the client's side, against a server of ours, and its training traces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("aiohttp", reason="needs the extra remote")
pytest.importorskip("websockets", reason="needs the extra openenv")

from aiohttp import WSMsgType, web

from gym_adapters import Environment, EnvironmentEntry, Episode, InvalidRow, Task, Transcript, tool
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.bridges.openenv import OpenEnvConfig, OpenEnvMessages, OpenEnvTask, OpenEnvTools
from gym_adapters.bridges.openenv_trace import segments_of_trace, training_trace
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import function_call
from gym_adapters.reward import StopReason
from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment, Span
from gym_adapters.serving.http_server import Listener, serving
from gym_adapters.serving.openenv_server import openenv_app
from gym_adapters.testing import ScriptedChatModel

MESSAGE = {
    "properties": {"message": {"type": "string"}, "metadata": {"type": "object"}},
    "required": ["message"],
    "type": "object",
}
MOVE = {
    "title": "Move",
    "description": "Move a piece.",
    "properties": {"square": {"type": "integer"}, "metadata": {"type": "object"}},
    "required": ["square"],
    "type": "object",
}
Answer = dict[str, Any] | str | None


@asynccontextmanager
async def scripted(action: Any, *answers: Answer) -> AsyncIterator[tuple[str, list[Any]]]:
    """A server that gives these answers in turn; ``None`` goes away, text is sent as it is."""
    heard: list[Any] = []

    async def schema(request: web.Request) -> web.Response:
        return web.json_response({"action": action, "observation": {}, "state": {}})

    async def connect(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        script = iter(answers)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            heard.append(message.json())
            answer = next(script, None) if heard[-1]["type"] != "close" else None
            if answer is None:
                break
            await (socket.send_str if isinstance(answer, str) else socket.send_json)(answer)
        return socket

    app = web.Application()
    app.router.add_get("/schema", schema)
    app.router.add_get("/ws", connect)
    runner = web.AppRunner(app, shutdown_timeout=60)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", heard
    finally:
        await runner.cleanup()


def seen(reward: float | None = None, *, done: bool = False, **observation: Any) -> dict[str, Any]:
    data = {"observation": observation, "reward": reward, "done": done}
    return {"type": "observation", "data": data}


def error(code: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": f"it is {code}", "code": code}}


def task(**reset: Any) -> OpenEnvTask:
    row = {"responses_create_params": {"input": "play"}, "reset": reset}
    return OpenEnvTask.from_row(row)


async def played(
    kind: type[OpenEnvTools], url: str, *turns: Any, of: OpenEnvTask | None = None, **config: Any
) -> Rollout:
    settings = OpenEnvConfig(url=url, **config)
    async with open_episode_resources(kind, settings) as resources:
        episode = Episode(kind, of or task(), config=settings, resources=resources)
        return await ToolAgent().run(episode, ScriptedChatModel(list(turns)))


async def test_what_the_model_says_is_the_action_and_rewards_are_summed() -> None:
    answers = (seen(text="go"), seen(0.5, text="on"), seen(0.25, text="end", done=True))
    async with scripted(MESSAGE, *answers) as (url, heard):
        rollout = await played(OpenEnvMessages, url, "a", "b", of=task(seed=3, level="hard"))
    assert rollout.reward == 0.75
    assert rollout.outcome.stop_reason is StopReason.ENVIRONMENT
    assert [item["content"] for item in rollout.prompt] == ["play", "go"]
    assert [each["type"] for each in heard] == ["reset", "step", "step", "close"]
    assert [each.get("data") for each in heard[:3]] == [
        {"seed": 3, "level": "hard"},
        {"message": "a"},
        {"message": "b"},
    ]


async def test_a_servers_own_sum_is_the_last_reward() -> None:
    answers = (seen(text="go"), seen(1.0, text="on"), seen(3, text="end", done=True))
    async with scripted(MESSAGE, *answers) as (url, _):
        assert (await played(OpenEnvMessages, url, "a", "b", reward="last")).reward == 3.0


async def test_another_action_is_a_tool() -> None:
    answers = (seen(board=[0]), seen(None, board=[1]), seen(1.0, board=[1, 1], done=True))
    calls = [[function_call("step", f'{{"square": {n}}}', f"c{n}")] for n in range(2)]
    async with scripted(MOVE, *answers) as (url, heard):
        rollout = await played(OpenEnvTools, url, *calls)
    (declared,) = rollout.tools
    assert (declared["name"], declared["description"]) == ("step", "Move a piece.")
    assert list(declared["parameters"]["properties"]) == ["square"]
    assert rollout.reward == 1.0
    assert [each["data"] for each in heard[1:3]] == [{"square": 0}, {"square": 1}]
    assert [i["output"] for i in rollout.output if i["type"] == "function_call_output"] == [
        "[1]",
        "[1,1]",
    ]


async def test_an_action_that_the_server_refuses_is_told_to_the_model() -> None:
    answers = (seen(board=[0]), error("VALIDATION_ERROR"), seen(1.0, board=[2], done=True))
    calls = [[function_call("step", text, "c")] for text in ('{"circle": 1}', '{"square": 1}')]
    async with scripted(MOVE, *answers) as (url, _):
        rollout = await played(OpenEnvTools, url, *calls)
    assert rollout.reward == 1.0
    assert "it is VALIDATION_ERROR" in rollout.output[1]["output"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ((), "went away"),
        ((error("CAPACITY_REACHED"),), "CAPACITY_REACHED"),
        (("nonsense",), "said nonsense"),
        (('{"type": "observation", "data": 3}',), "said"),
        ((seen(text="go"), error("EXECUTION_ERROR")), "EXECUTION_ERROR"),
        ((seen(text="go"), None), "went away"),
    ],
)
async def test_a_server_that_fails_leaves_no_reward(answers: Any, says: str) -> None:
    async with scripted(MESSAGE, *answers) as (url, _):
        rollout = await played(OpenEnvMessages, url, "a", "b")
    assert rollout.reward is None
    assert rollout.outcome.failure.boundary.value == "environment"
    assert says in rollout.outcome.failure.message


async def test_an_episode_that_ends_without_a_reward_has_none() -> None:
    async with scripted(MESSAGE, seen(text="go"), seen(text="end", done=True)) as (url, _):
        rollout = await played(OpenEnvMessages, url, "a")
    assert rollout.outcome.failure.boundary.value == "verifier"


async def test_an_action_that_is_no_text_takes_a_field_or_tools() -> None:
    async with scripted(MOVE, seen(text="go")) as (url, _):
        rollout = await played(OpenEnvMessages, url, "a")
    assert "OpenEnvTools" in rollout.outcome.failure.message


async def test_a_server_that_is_not_there_is_a_failure(free_port: int) -> None:
    rollout = await played(OpenEnvTools, f"http://127.0.0.1:{free_port}", "a")
    assert rollout.outcome.failure.boundary.value == "environment"


class Count(Environment[Task]):
    async def start(self) -> None:
        self.total = 0

    @tool
    async def add(self, number: int) -> int:
        """Add."""
        self.total += number
        return self.total

    async def reply(self, message: str) -> str | None:
        return None if message == "done" else "go on"

    async def verify(self, transcript: Transcript) -> float:
        return float(self.total)


async def test_our_server_is_bridged_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNT_TOKEN", "secret")
    rows = [{"responses_create_params": {"input": "count"}}]
    entry = EnvironmentEntry("count", Count, None)
    turns = ("a", "done")
    async with (
        openenv_app(entry, rows=rows) as (app, server),
        serving(app, Listener(token="secret"), websockets=True) as url,
    ):
        options = {"message_field": "message", "observation_field": "text"}
        rollout = await played(
            OpenEnvMessages, url, *turns, token_variable="COUNT_TOKEN", **options
        )
        assert rollout.reward == 0.0
        assert [item["content"] for item in rollout.prompt] == ["play", "count"]
        call = [function_call("step", f'{{"items": [{CALL}]}}', "c")]
        say = [function_call("step", '{"message": "done"}', "d")]
        rollout = await played(OpenEnvTools, url, call, say, token_variable="COUNT_TOKEN")
        assert rollout.reward == 5.0
    assert server.under_way == 0


CALL = '{"type":"function_call","name":"add","arguments":"{\\"number\\": 5}","call_id":"x"}'

# Training traces.


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    ids = st.lists(st.integers(0, 99), min_size=1, max_size=4)
    completion: list[int] = []
    mask: list[int] = []
    spans: list[Span] = []
    for turn in range(draw(st.integers(1, 4))):
        for sampled in (0, 1) if turn else (1,):
            piece = draw(ids)
            start = len(completion)
            spans.append(Span(start, start + len(piece), bool(sampled)))
            completion += piece
            mask += [sampled] * len(piece)
    logprobs = [-0.5 * each for each in mask]
    return Segment(draw(ids), completion, mask, logprobs, tuple(spans))


@given(segments())
def test_a_trace_gives_back_the_segment(segment: Segment) -> None:
    (back,) = segments_of_trace(training_trace([segment]))
    assert back == segment


def test_a_call_that_continues_nothing_is_a_segment_of_its_own() -> None:
    one = Segment([1], [2, 3], [1, 1], [-1.0, -1.0], (Span(0, 2, True),))
    other = Segment([9], [2], [1], [-2.0], (Span(0, 1, True),))
    assert segments_of_trace(training_trace([one, other])) == [one, other]


def test_a_turn_that_is_masked_is_context() -> None:
    turns = [
        {
            "node_id": "a",
            "prompt_token_ids": [1],
            "completion_token_ids": [2, 3],
            "per_token_logps": [-1.0, -2.0],
            "loss_mask": [0, 0, 0],
        },
        {
            "node_id": "b",
            "prompt_token_ids": [1, 2, 3, 4],
            "completion_token_ids": [5, 6],
            "per_token_logps": [-3.0, -4.0],
            "loss_mask": [0, 0, 0, 0, 1, 0],
        },
    ]
    (segment,) = segments_of_trace({"schema_version": 1, "turns": turns})
    assert (segment.prompt_ids, segment.completion_ids) == ([1, 2, 3, 4], [5, 6])
    assert (segment.mask, segment.logprobs) == ([1, 0], [-3.0, 0.0])
    assert segment.spans == (Span(0, 1, True), Span(1, 2, False))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"loss_mask": [1, 1]}, "turns.0"),
        ({"loss_mask": [0]}, "turns.0"),
        ({"per_token_logps": []}, "turns.0"),
        ({"node_id": ""}, "turns.0.node_id"),
        ({"prompt_token_ids": ["1"]}, "turns.0.prompt_token_ids.0"),
    ],
)
def test_a_trace_that_does_not_line_up_is_refused(change: dict[str, Any], field: str) -> None:
    turn = {
        "node_id": "a",
        "prompt_token_ids": [1],
        "completion_token_ids": [2],
        "per_token_logps": [-1.0],
        "loss_mask": [0, 1],
    }
    assert len(segments_of_trace({"turns": [turn]})) == 1
    with pytest.raises(InvalidRow) as raised:
        segments_of_trace({"turns": [{**turn, **change}]})
    assert raised.value.field == field


def test_an_unknown_version_and_two_calls_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRow, match="version 1"):
        segments_of_trace({"schema_version": 2, "turns": []})
