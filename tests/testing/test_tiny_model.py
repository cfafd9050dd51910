"""The tiny policy is small, reproducible, cached, and speaks the format with wrong numbers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the transformers extra")
pytest.importorskip("transformers", reason="needs the transformers extra")

import torch
import transformers

from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.transformers_generator import TransformersGenerator
from gym_adapters.items import (
    FunctionTool,
    Item,
    assistant_message,
    function_call,
    function_call_output,
    user_message,
)
from gym_adapters.testing.tiny_model import Conversation, TinyPolicy, WarmUp, tiny_policy

ADD: FunctionTool = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"of": {"type": "string"}}},
}


def sum_of(a: int, b: int) -> Conversation:
    items: list[Item] = [
        user_message(f"{a}+{b}?"),
        function_call("add", json.dumps({"of": f"{a}+{b}"}), "call_0"),
        function_call_output("call_0", str(a + b)),
        assistant_message(str(a + b)),
    ]
    return Conversation(items, [ADD])


SUMS = [sum_of(a, b) for a in range(1, 10) for b in range(1, 10)]
BRIEF = WarmUp(SUMS[:4], copy_steps=2, mistake_steps=2, batch_size=2)


def weights(policy: TinyPolicy) -> dict[str, Any]:
    return dict(policy.load_model().state_dict())


def same(one: TinyPolicy, other: TinyPolicy) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_sizes_stay_below_a_million_parameters_and_match_the_tokenizer(tmp_path: Path) -> None:
    counts = {}
    for size in ("small", "default", "large"):
        policy = tiny_policy(size=size, cache_dir=tmp_path)
        model = policy.load_model()
        counts[size] = sum(parameter.numel() for parameter in model.parameters())
        assert model.config.vocab_size == len(policy.tokenizer)
        assert (model.dtype, model.training) == (torch.float32, False)
        assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight

    assert counts == {"small": 35_616, "default": 108_096, "large": 511_296}


def test_it_loads_with_the_auto_classes(tmp_path: Path) -> None:
    policy = tiny_policy(size="small", cache_dir=tmp_path)

    model = transformers.AutoModelForCausalLM.from_pretrained(policy.model_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(policy.model_path)

    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def test_a_seed_makes_the_same_policy_and_another_seed_another(tmp_path: Path) -> None:
    one = tiny_policy(size="small", seed=1, warmup=BRIEF, cache_dir=tmp_path / "a")
    again = tiny_policy(size="small", seed=1, warmup=BRIEF, cache_dir=tmp_path / "b")
    other = tiny_policy(size="small", seed=2, warmup=BRIEF, cache_dir=tmp_path / "b")

    assert (one.was_cached, again.was_cached) == (False, False)
    assert same(one, again)
    assert not same(one, other)


def test_the_second_time_it_comes_from_the_cache(tmp_path: Path) -> None:
    steps: list[int] = []

    def told(step: int, total: int, loss: float) -> None:
        assert (total, loss > 0) == (4, True)
        steps.append(step)

    made = tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path, progress=told)
    found = tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path, progress=told)

    assert (made.was_cached, found.was_cached, steps) == (False, True, [1, 2, 3, 4])
    assert made.model_path == found.model_path
    assert [entry.name for entry in tmp_path.iterdir()] == [made.model_path.name]


def test_whatever_matters_has_its_own_place_in_the_cache(tmp_path: Path) -> None:
    variants = [
        BRIEF,
        None,
        replace(BRIEF, mistakes=0.1),
        replace(BRIEF, copy_steps=3),
        replace(BRIEF, conversations=SUMS[1:5]),
    ]
    paths = {
        tiny_policy(size="small", warmup=warmup, cache_dir=tmp_path).model_path
        for warmup in variants
    }
    assert len(paths) == len(variants)


def test_the_cache_follows_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    policy = tiny_policy(size="small")
    assert policy.model_path.parent == tmp_path / "gym_adapters" / "tiny_policy"


def test_a_home_that_can_not_be_written_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.write_text("a file has no folders below it")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    policies = [tiny_policy(size="small") for _ in range(2)]
    assert [policy.was_cached for policy in policies] == [False, True]
    assert policies[0].model_path.is_relative_to(tmp_path)


def test_nothing_is_left_behind_when_making_it_fails(tmp_path: Path) -> None:
    def stop(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(300)
def test_two_processes_may_make_it_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from gym_adapters.testing.tiny_model import tiny_policy; "
        "print(tiny_policy(size='small', seed=5, cache_dir=sys.argv[1]).model_path)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    paths = [process.communicate(timeout=280)[0].strip() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert [str(entry) for entry in tmp_path.iterdir()] == [paths[0]] == [paths[1]]


def test_a_draft_that_comes_second_gives_way_to_the_first(
    tmp_path: Path,
) -> None:
    def slow(step: int, total: int, loss: float) -> None:
        if step == total:  # another process finishes just before this one
            other.append(tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path))

    other: list[TinyPolicy] = []
    policy = tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path, progress=slow)

    assert other[0].model_path == policy.model_path
    assert [entry.name for entry in tmp_path.iterdir()] == [policy.model_path.name]


def test_the_callers_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    with torch.no_grad():
        tiny_policy(size="small", warmup=BRIEF, cache_dir=tmp_path)
        assert not torch.is_grad_enabled()

    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_arguments_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="unknown size 'huge'"):
        tiny_policy(size="huge", cache_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="at least one conversation"):
        WarmUp([])
    with pytest.raises(InvalidConfig, match=r"probability, not 1\.5"):
        WarmUp(SUMS, mistakes=1.5)
    with pytest.raises(InvalidConfig, match="at least 1"):
        WarmUp(SUMS, batch_size=0)
    warmup = WarmUp([Conversation([user_message("hi")])])
    with pytest.raises(InvalidConfig, match="conversation 0 of the warm-up has no assistant turn"):
        tiny_policy(size="small", warmup=warmup, cache_dir=tmp_path)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_after_a_warm_up_the_format_is_right_and_the_numbers_often_wrong(tmp_path: Path) -> None:
    policy = tiny_policy(warmup=WarmUp(SUMS, copy_steps=150, mistake_steps=80), cache_dir=tmp_path)
    prompt = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "3+4?"}],
        tools=[{"type": "function", "function": {k: v for k, v in ADD.items() if k != "type"}}],
        add_generation_prompt=True,
        return_dict=False,
    )

    async def calls() -> list[str]:
        async with TransformersGenerator(policy.load_model(), seed=0) as generator:
            turns = await asyncio.gather(
                *(
                    generator.generate(prompt, SamplingParams(max_tokens=80), request_id=str(i))
                    for i in range(64)
                )
            )
        return [str(policy.tokenizer.decode(list(turn.token_ids))) for turn in turns]

    said = asyncio.run(calls())
    head, tail = '<tool_call>\n{"name": "add", "arguments": {"of": "', '"}}\n</tool_call><|im_end|>'
    well_formed = [s[len(head) : -len(tail)] for s in said if s.startswith(head)]
    assert len(well_formed) >= 45
    assert 0.05 <= well_formed.count("3+4") / len(well_formed) <= 0.6


@pytest.mark.parametrize("first", ["gym_adapters.testing", "gym_adapters.testing.tiny_model"])
def test_the_package_gives_the_function_whichever_is_imported_first(first: str) -> None:
    asked = "from gym_adapters.testing import tiny_policy; print(callable(tiny_policy))"
    code = f"import {first}; {asked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr
