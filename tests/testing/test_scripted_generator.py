"""The scripted generator says what it was told, to whom it was told, and remembers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest

from gym_adapters.errors import ModelError, Unsupported, UsageError
from gym_adapters.generation.protocol import Generation, SamplingParams, TokenGenerator
from gym_adapters.testing.scripted_generator import ScriptedGenerator, scripted_logprobs

ANY = SamplingParams()


def test_it_is_a_token_generator() -> None:
    assert isinstance(ScriptedGenerator([]), TokenGenerator)


def test_importing_it_pulls_in_no_torch() -> None:
    code = (
        "import sys, gym_adapters.testing.scripted_generator; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


async def test_a_list_of_turns_is_said_to_every_request_in_order() -> None:
    generator = ScriptedGenerator([[1, 2], [3]], weights_version=7)

    first = await generator.generate([9], ANY, request_id="a")
    other = await generator.generate([9], ANY, request_id="b")
    second = await generator.generate([9, 1, 2], ANY, request_id="a")

    assert [first.token_ids, other.token_ids, second.token_ids] == [[1, 2], [1, 2], [3]]
    assert first.logprobs == scripted_logprobs([1, 2]) == [-2 / 16, -6 / 16]
    assert first.weights_version == 7
    assert [(c.request_id, c.turn, c.prompt_ids) for c in generator.calls] == [
        ("a", 0, (9,)),
        ("b", 0, (9,)),
        ("a", 1, (9, 1, 2)),
    ]
    assert [c.turn for c in generator.calls_of("a")] == [0, 1]


async def test_a_mapping_gives_each_request_its_own_turns() -> None:
    generator = ScriptedGenerator({"a": [[1]], "b": [[2]]})

    assert (await generator.generate([], ANY, request_id="b")).token_ids == [2]
    assert (await generator.generate([], ANY, request_id="a")).token_ids == [1]
    with pytest.raises(UsageError, match="does not know the request 'c'"):
        await generator.generate([], ANY, request_id="c")
    with pytest.raises(UsageError, match=r"1 turn\(s\) for the request 'a', and turn 1"):
        await generator.generate([], ANY, request_id="a")


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_decides_call_by_call(is_async: bool) -> None:
    def plain(prompt_ids: Sequence[int], request_id: str, turn: int) -> list[int]:
        return [len(prompt_ids), turn, len(request_id)]

    async def awaited(prompt_ids: Sequence[int], request_id: str, turn: int) -> list[int]:
        await asyncio.sleep(0)
        return plain(prompt_ids, request_id, turn)

    generator = ScriptedGenerator(awaited if is_async else plain)
    await generator.generate([5, 5], ANY, request_id="abc")

    assert (await generator.generate([5], ANY, request_id="abc")).token_ids == [1, 1, 3]


async def test_a_generation_comes_back_as_it_was_given() -> None:
    given = Generation([1], [-0.5], finish_reason="stop", weights_version="v", extras={"e": [3]})

    assert await ScriptedGenerator([given]).generate([], ANY, request_id="a") == given


async def test_a_turn_is_cut_at_max_tokens_and_says_so() -> None:
    whole = Generation([1, 2, 3], [-1.0, -2.0, -3.0], finish_reason="stop", extras={"e": [7, 8, 9]})
    generator = ScriptedGenerator([whole, [1, 2, 3]])
    sampling = SamplingParams(max_tokens=2)

    assert await generator.generate([], sampling, request_id="a") == Generation(
        [1, 2], [-1.0, -2.0], finish_reason="length", extras={"e": [7, 8]}
    )
    bare = await generator.generate([], sampling, request_id="a")
    assert (bare.token_ids, bare.finish_reason) == ([1, 2], "length")


@pytest.mark.parametrize(
    ("ids", "finish_reason"), [([1], "stop"), ([1, 2], "length"), ([1, 0], "stop"), ([], "stop")]
)
async def test_bare_ids_finish_as_an_engine_would_say(ids: list[int], finish_reason: str) -> None:
    sampling = SamplingParams(max_tokens=2, stop_token_ids=(0,))

    turn = await ScriptedGenerator([ids]).generate([], sampling, request_id="a")

    assert turn.finish_reason == finish_reason


async def test_an_exception_in_the_script_is_raised_and_the_next_turn_still_comes() -> None:
    generator = ScriptedGenerator([ModelError("engine died"), [4]])

    with pytest.raises(ModelError, match="engine died"):
        await generator.generate([], ANY, request_id="a")
    assert (await generator.generate([], ANY, request_id="a")).token_ids == [4]


async def test_concurrent_requests_each_get_their_own_answer() -> None:
    generator = ScriptedGenerator(
        lambda _, request_id, turn: [int(request_id), turn],
        delay=lambda _, request_id, turn: 0.001 * (20 - int(request_id)),
    )

    async def rollout(index: int) -> list[Sequence[int]]:
        turns = [await generator.generate([], ANY, request_id=str(index)) for _ in range(3)]
        return [turn.token_ids for turn in turns]

    answers = await asyncio.gather(*(rollout(i) for i in range(20)))

    assert answers == [[[i, 0], [i, 1], [i, 2]] for i in range(20)]
    assert generator.peak_concurrency == 20
    assert len(generator.calls) == 60


async def test_a_cancelled_call_is_recorded_as_aborted() -> None:
    generator = ScriptedGenerator([[1]], delay=60)
    task = asyncio.create_task(generator.generate([], ANY, request_id="a"))
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [call.request_id for call in generator.aborted] == ["a"]


async def test_media_is_refused_unless_accepted() -> None:
    image = [{"type": "input_image", "image_url": "data:,"}]
    with pytest.raises(Unsupported, match="accepts_media=True"):
        await ScriptedGenerator([[1]]).generate([], ANY, request_id="a", media=image)

    generator = ScriptedGenerator([[1]], accepts_media=True)
    await generator.generate([], ANY, request_id="a", media=image)
    assert generator.calls[0].media == tuple(image)


def test_a_script_of_bare_token_ids_is_refused_with_the_fix() -> None:
    with pytest.raises(UsageError, match=r"\[\[1, 2, 3\]\]"):
        ScriptedGenerator([1, 2, 3])  # type: ignore[list-item]
