from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from gym_adapters import (
    Environment,
    EnvironmentEntry,
    InvalidConfig,
    InvalidEnvironment,
    JudgeError,
    Reward,
    Task,
    Transcript,
    Unsupported,
    tool,
)
from gym_adapters.serving.environment_session import EnvironmentSession
from gym_adapters.serving.http_server import HttpLimits, Listener
from gym_adapters.serving.sessions import SessionLimits


class CounterTask(Task):
    initial_count: int
    expected_count: int


class Counter(Environment[CounterTask]):
    """Counts how many of it are open."""

    live = 0

    async def start(self) -> None:
        type(self).live += 1
        self.count = self.task.initial_count

    @tool
    async def increment_counter(self, count: int) -> dict[str, bool]:
        """Add to the counter."""
        self.count += count
        return {"success": True}

    @tool
    async def break_down(self) -> str:
        """Fail for a reason that is not the model's."""
        raise JudgeError("the judge is out")

    async def verify(self, transcript: Transcript) -> Reward:
        if transcript.final_text == "crash":
            raise ValueError("the verifier has a bug")
        right = float(self.count == self.task.expected_count)
        return Reward(right, {"right": right}, {"count": self.count})

    async def close(self) -> None:
        type(self).live -= 1


class Talk(Environment[Task]):
    async def reply(self, message: str) -> str | None:
        return None if message == "bye" else f"you said {message}"

    async def verify(self, transcript: Transcript) -> float:
        return float(len(transcript.output))


class ToolNamedVerify(Environment[Task]):
    @tool(name="verify")
    async def check(self) -> str:
        """Check."""
        return ""


def row(initial: int = 3, expected: int = 6, **more: Any) -> dict[str, Any]:
    params = {"input": [{"role": "user", "content": "add"}]}
    fields = {"initial_count": initial, "expected_count": expected}
    return {"responses_create_params": params, **fields, **more}


def response(*output: Any, **more: Any) -> dict[str, Any]:
    return {"id": f"resp_{random.randrange(10**9)}", "output": list(output), **more}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def call(name: str, arguments: str, call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


def result(output: str, call_id: str = "c1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def none_live() -> None:
    Counter.live = 0


async def test_a_session_keeps_state_between_tools_and_verdict(serve: Any) -> None:
    async with serve(Counter) as peer:
        assert await peer.post("/seed_session", row()) == (200, {})
        assert "Counter___counter" in peer.last.cookies
        assert await peer.post("/increment_counter", {"count": 3}) == (200, {"success": True})
        body = {**row(), "response": response(said("done"))}
        status, answer = await peer.post("/verify", body)
        assert status == 200
        assert answer["reward"] == 1.0
        assert answer["reward_components"] == {"right": 1.0}
        assert answer["gym_adapters"]["info"] == {"count": 6}
        assert {key: answer[key] for key in body} == body
    assert Counter.live == 0


async def test_two_sessions_do_not_see_each_other(serve: Any) -> None:
    async with serve(Counter, cookies=False) as peer:
        names = []
        for _ in range(2):
            await peer.post("/seed_session", row(0, 5))
            names.append(peer.last.headers["x-nemo-gym-session-token"])
        cookie = {"Counter___counter": names[0]}
        await peer.post("/increment_counter", {"count": 5}, cookies=cookie)
        rewards = []
        for name in names:
            headers = {"X-NeMo-Gym-Session-Token": name}
            body = {**row(0, 5), "response": response(said(""))}
            rewards.append((await peer.post("/verify", body, headers=headers))[1]["reward"])
        assert rewards == [1.0, 0.0]


async def test_health_and_reverify_mode(serve: Any) -> None:
    async with serve(Counter) as peer:
        async with peer.http.get(peer.url) as answer:
            assert await answer.json() == {"status": "ok"}
        async with peer.http.get(f"{peer.url}/reverify_mode") as answer:
            assert await answer.json() == "unknown"

    class Stateless(Counter):
        """Judges what was said."""

        stateless_verify = True

    async with (
        serve(Stateless) as peer,
        peer.http.get(f"{peer.url}/reverify_mode") as answer,
    ):
        assert await answer.json() == "stateless"


async def test_what_a_model_gets_wrong_is_a_result_it_can_read(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row())
        status, answer = await peer.post("/increment_counter", {"count": "abc"})
        assert (status, answer["error"]["type"]) == (200, "invalid_arguments")
        status, answer = await peer.post("/nope", {})
        assert (status, answer["error"]["type"]) == (404, "unknown_tool")
        status, answer = await peer.post("/increment_counter", data=b"{broken")
        assert (status, answer["error"]["type"]) == (200, "invalid_json")


@pytest.mark.parametrize(
    "path", ["/verify", "/seed_session", "/close", "/reset", "/step", "/aggregate_metrics"]
)
async def test_a_model_calls_no_endpoint_of_its_own_environment(serve: Any, path: str) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row())
        arguments = {"verify_responses": [], **row(0, 0)}
        status, answer = await peer.post(path, arguments)
        assert (status, answer["error"]["type"]) == (404, "unknown_tool")
        # The attempt is as it was.
        await peer.post("/increment_counter", {"count": 3})
        _, answer = await peer.post("/verify", {**row(), "response": response(said(""))})
        assert answer["reward"] == 1.0


async def test_a_verdict_on_another_row_than_the_seeded_one_is_refused(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row())
        forged = {**row(expected=3), "response": response(said(""))}
        status, answer = await peer.post("/verify", forged)
        assert (status, answer["error"]["type"]) == (409, "other_row")
        filled_in = row()
        filled_in["responses_create_params"]["temperature"] = None
        _, answer = await peer.post("/verify", {**filled_in, "response": response(said(""))})
        assert answer["reward"] == 0.0


async def test_a_failed_verifier_is_an_error_and_no_reward(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row())
        status, answer = await peer.post("/verify", {**row(), "response": response(said("crash"))})
        assert status == 500
        assert answer["error"]["type"] == "verifier"
        assert "reward" not in answer


async def test_after_a_broken_tool_there_is_no_verdict(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row())
        status, answer = await peer.post("/break_down", {})
        assert (status, answer["error"]["type"]) == (503, "judge")
        status, answer = await peer.post("/verify", {**row(), "response": response(said(""))})
        assert (status, answer["error"]["type"]) == (503, "judge")


async def test_a_repeated_request_for_a_verdict_gets_the_same_one(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row(6, 6))
        body = {**row(6, 6), "response": response(said(""))}
        first = await peer.post("/verify", body)
        assert (await peer.post("/increment_counter", {"count": 1}))[0] == 409
        assert await peer.post("/verify", body) == first


async def test_a_stored_row_with_a_verdict_can_be_verified_again(serve: Any) -> None:
    async with serve(Talk) as peer:
        stored = {"responses_create_params": {"input": "hi"}, "reward": 9, "gym_adapters": {}}
        _, answer = await peer.post("/verify", {**stored, "response": response(said("x"))})
        assert answer["reward"] == 1.0


async def test_without_a_session_the_recorded_calls_are_run_again(serve: Any) -> None:
    async with serve(Counter, cookies=False) as peer:
        turns = [call("increment_counter", '{"count": 3}'), result('{"success": true}'), said("")]
        status, answer = await peer.post("/verify", {**row(), "response": response(*turns)})
        assert (status, answer["reward"]) == (200, 1.0)
        turns[1] = result('{"success": false}')
        status, answer = await peer.post("/verify", {**row(), "response": response(*turns)})
        assert (status, answer["error"]["type"]) == (409, "diverged")
    assert Counter.live == 0


async def test_reset_and_step_drive_an_episode_to_its_end(serve: Any) -> None:
    async with serve(Talk) as peer:
        start = {"responses_create_params": {"input": "hi"}}
        status, answer = await peer.post("/reset", start)
        assert (status, answer["observation"]) == (200, None)
        assert answer["info"]["prompt"][0]["content"] == "hi"
        _, answer = await peer.post("/step", {**start, "response": response(said("a"))})
        assert answer["observation"] == "you said a"
        assert (answer["reward"], answer["terminated"], answer["truncated"]) == (0.0, False, False)
        _, answer = await peer.post("/step", {**start, "response": response(said("bye"))})
        assert (answer["reward"], answer["terminated"]) == (3.0, True)
        status, answer = await peer.post("/step", {"response": response(said("more"))})
        assert (status, answer["error"]["type"]) == (409, "ended")
        assert await peer.post("/close") == (200, {"closed": True})
        assert await peer.post("/close") == (200, {"closed": False})


async def test_step_runs_tools_and_tells_their_results(serve: Any) -> None:
    async with serve(Counter) as peer:
        await peer.post("/reset", row())
        body = {"response": response(call("increment_counter", '{"count": 3}'))}
        _, answer = await peer.post("/step", body)
        assert answer["info"]["tool_outputs"] == [result('{"success":true}')]
        cut = response(said(""), incomplete_details={"reason": "max_output_tokens"})
        _, answer = await peer.post("/step", {"response": cut})
        assert (answer["reward"], answer["truncated"]) == (1.0, True)


async def test_several_environments_answer_below_their_names(serve: Any) -> None:
    async with serve(Counter, Talk) as peer:
        assert (await peer.post("/counter/seed_session", row()))[0] == 200
        assert (await peer.post("/counter/increment_counter", {"count": 1}))[0] == 200
        body = {"responses_create_params": {"input": "x"}, "response": response(said("a"))}
        assert (await peer.post("/talk/verify", body))[1]["reward"] == 1.0
        assert (await peer.post("/verify", body))[0] == 404


async def test_metrics_count_a_missing_verdict_as_missing(serve: Any) -> None:
    async with serve(Counter) as peer:
        verdicts = [
            {"reward": 1.0, "_ng_task_index": 0, "response": {"usage": {"input_tokens": 4}}},
            {"reward": 0.0, "_ng_task_index": 0},
            {"reward": 1.0, "_ng_task_index": 1},
            {"reward": None, "_ng_task_index": 1},
        ]
        _, answer = await peer.post("/aggregate_metrics", {"verify_responses": verdicts})
        first, second = answer["group_level_metrics"]
        assert answer["agent_metrics"]["mean/reward"] == pytest.approx(2 / 3)
        assert answer["key_metrics"]["mean/input_tokens"] == 4
        assert (first["mean/reward"], first["missing_num_rollouts"]) == (0.5, 0)
        assert (second["mean/reward"], second["missing_num_rollouts"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        ("/seed_session", {"data": b"not json"}, 400),
        ("/seed_session", {"data": b"\xff\xfe"}, 400),
        ("/seed_session", {"data": b"[" * 100_000}, 400),
        ("/seed_session", {"json": [1]}, 400),
        ("/seed_session", {"json": {}}, 422),
        ("/seed_session", {"json": {"responses_create_params": {"input": 3}}}, 422),
        ("/seed_session", {"json": {**row(), "initial_count": "x"}}, 422),
        ("/seed_session", {"data": b""}, 422),
        ("/verify", {"json": row()}, 422),
        ("/verify", {"json": {**row(), "response": 7}}, 422),
        ("/verify", {"json": {**row(), "response": {"output": [{"type": "odd"}]}}}, 422),
        ("/verify", {"json": {**row(), "response": {"output": [[]]}}}, 422),
        ("/verify", {"data": b'{"response": {"output": [{"type": {}}]}}'}, 422),
        ("/step", {"json": {"response": {"output": []}}}, 404),
        ("/step", {"json": {}}, 422),
        ("/aggregate_metrics", {"json": {"verify_responses": [1]}}, 422),
        ("/close", {"json": {"session_id": 7}}, 200),
        ("/increment_counter", {"json": {"count": 1}}, 404),
        ("/%00", {"json": {}}, 404),
    ],
)
async def test_malformed_bodies_are_refused_and_leave_nothing(
    serve: Any, path: str, options: dict[str, Any], expected: int
) -> None:
    async with serve(Counter) as peer:
        async with peer.http.post(f"{peer.url}{path}", **options) as answer:
            assert answer.status == expected
            assert "error" in await answer.json() or expected == 200
        assert len(peer.servers[0].sessions) == 0
    assert Counter.live == 0


async def test_bodies_that_are_too_large_or_too_slow_are_refused(serve: Any) -> None:
    async def trickle() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    limits = HttpLimits(max_body=1000, body_timeout=0.1)
    async with serve(Counter, http_limits=limits) as peer:
        status, _ = await peer.post("/seed_session", {**row(), "more": "x" * 2000})
        assert status == 413
        async with peer.http.post(f"{peer.url}/seed_session", data=trickle()) as answer:
            assert answer.status == 408


async def test_other_interfaces_need_a_token(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GYM_ADAPTERS_SERVE_TOKEN", raising=False)
    with pytest.raises(InvalidConfig, match="GYM_ADAPTERS_SERVE_TOKEN"):
        Listener("0.0.0.0")
    monkeypatch.setenv("GYM_ADAPTERS_SERVE_TOKEN", "s3cret")
    assert "s3cret" not in repr(Listener("0.0.0.0"))
    async with serve(Counter, listener=Listener()) as peer:
        assert (await peer.post("/seed_session", row()))[0] == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert (await peer.post("/seed_session", row(), headers=headers))[0] == 200
        async with peer.http.get(peer.url) as answer:
            assert answer.status == 200


async def test_a_tool_with_the_name_of_an_endpoint_is_refused_at_the_start(serve: Any) -> None:
    with pytest.raises(InvalidEnvironment, match="verify"):
        async with serve(ToolNamedVerify):
            pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.full)])
async def test_sessions_opened_and_dropped_are_all_freed(serve: Any, count: int) -> None:
    limits = SessionLimits(max_sessions=500, idle_timeout=0.2)
    async with serve(Counter, cookies=False, sessions=limits) as peer:
        await peer.post("/seed_session", row())
        sessions = peer.servers[0].sessions
        await until(lambda: len(sessions) == Counter.live == 0)
        before = what_is_held()
        opened, refused = 1, 0
        while opened < count:
            for status, _ in await asyncio.gather(
                *(peer.post("/seed_session", row()) for _ in range(100))
            ):
                assert status in (200, 503)
                opened += status == 200
                refused += status == 503
            if refused:
                await asyncio.sleep(0.1)
        assert len(sessions) <= 500
        await until(lambda: len(sessions) == Counter.live == 0)
        assert sessions.counts.opened == sessions.counts.expired == opened
        # Connections of the client's pool are all that there is more.
        after = what_is_held()
        assert after.instances == before.instances == 0
        assert after.tasks - before.tasks <= 200
        assert after.files - before.files <= 200


class Held(NamedTuple):
    instances: int
    tasks: int
    files: int


def what_is_held() -> Held:
    gc.collect()
    kinds = (Counter, EnvironmentSession)
    instances = sum(issubclass(type(each), kinds) for each in gc.get_objects())
    return Held(instances, len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))


async def test_a_client_that_vanishes_in_mid_session_leaves_a_session_that_expires(
    serve: Any,
) -> None:
    running: list[int] = []
    noticed = asyncio.Event()
    now = 0.0

    class Slow(Counter):
        @tool
        async def increment_counter(self, count: int) -> dict[str, bool]:
            """Add to the counter, slowly."""
            running.append(count)
            await noticed.wait()
            self.count += count
            return {"success": True}

    async with serve(Slow, cookies=False, sessions=SessionLimits(idle_timeout=10)) as peer:
        sessions = peer.servers[0].sessions
        sessions._clock = lambda: now
        await peer.post("/seed_session", row())
        headers = {"X-NeMo-Gym-Session-Token": peer.last.headers["x-nemo-gym-session-token"]}
        calling = asyncio.create_task(
            peer.post("/increment_counter", {"count": 3}, headers=headers)
        )
        await until(lambda: running == [3])
        calling.cancel()
        await asyncio.sleep(0.1)  # for the server to see that nobody listens
        (session,) = [each.value for each in sessions._entries.values()]
        now = 11.0
        await sessions.sweep()
        assert len(sessions) == 1
        # What has begun is done once, whoever listens.
        noticed.set()
        await until(lambda: session.episode.environment.count == 6)
        assert running == [3]
        await until(lambda: not any(each.in_use for each in sessions._entries.values()))
        now = 22.0
        await sessions.sweep()
        assert (Slow.live, sessions.counts.expired) == (0, 1)


async def test_a_client_that_vanishes_during_start_leaves_no_session(serve: Any) -> None:
    class Slow(Counter):
        async def start(self) -> None:
            await super().start()
            await asyncio.sleep(30)

    async with serve(Slow) as peer:
        asking = asyncio.create_task(peer.post("/seed_session", row()))
        await until(lambda: Slow.live == 1)
        asking.cancel()
        await until(lambda: Slow.live == 0)
        assert len(peer.servers[0].sessions) == 0


async def test_a_finished_session_makes_room_for_a_new_one(serve: Any) -> None:
    async with serve(Counter, cookies=False, sessions=SessionLimits(max_sessions=1)) as peer:
        await peer.post("/seed_session", row())
        headers = {"X-NeMo-Gym-Session-Token": peer.last.headers["x-nemo-gym-session-token"]}
        status, answer = await peer.post("/seed_session", row())
        assert (status, answer["error"]["type"]) == (503, "too_many_sessions")
        await peer.post("/verify", {**row(), "response": response(said(""))}, headers=headers)
        assert (await peer.post("/seed_session", row()))[0] == 200
        body = {**row(), "response": response(said(""))}
        assert (await peer.post("/verify", body, headers=headers))[0] == 410


async def test_the_access_log_holds_no_body_and_no_token(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="gym_adapters.serving.access")
    async with serve(Counter) as peer:
        await peer.post("/seed_session", row(note="very private"))
    (record,) = [r for r in caplog.records if r.name == "gym_adapters.serving.access"]
    assert record.__dict__["http"]["path"] == "/seed_session"
    assert record.__dict__["http"]["status"] == 200
    assert "private" not in str(record.__dict__)


async def test_an_environment_that_replies_is_not_seeded(serve: Any) -> None:
    async with serve(Talk) as peer:
        start = {"responses_create_params": {"input": "hi"}}
        status, answer = await peer.post("/seed_session", start)
        assert status == 422
        assert "/reset and /step" in answer["error"]["message"]


async def test_an_own_prompt_is_told_when_it_is_seeded(serve: Any) -> None:
    class Own(Counter):
        async def prompt(self) -> Any:
            return [{"type": "message", "role": "user", "content": "mine"}]

    async with serve(Own) as peer:
        _, answer = await peer.post("/seed_session", row())
        assert answer["obs"][0]["content"] == "mine"
        assert [each["name"] for each in answer["tools"]] == ["increment_counter", "break_down"]


async def test_an_environment_that_compares_is_refused(serve: Any) -> None:
    class Ranked(Counter):
        @classmethod
        async def compare(cls, rollouts: Any, **_: Any) -> list[Reward]:
            return []

    with pytest.raises(Unsupported, match="comparing"):
        async with serve(Ranked):
            pass


async def test_a_name_with_a_colon_makes_a_cookie_all_the_same(serve: Any) -> None:
    async with serve(EnvironmentEntry("my.module:Counter", Counter, None)) as peer:
        assert (await peer.post("/seed_session", row()))[0] == 200
        assert (await peer.post("/increment_counter", {"count": 1}))[0] == 200
