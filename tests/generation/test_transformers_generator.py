"""The transformers generator samples what the model says, whoever shares the batch."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the transformers extra")
pytest.importorskip("transformers", reason="needs the transformers extra")

import torch

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported, UsageError
from gym_adapters.generation.protocol import (
    Generation,
    SamplingParams,
    TokenGenerator,
)
from gym_adapters.generation.transformers_generator import TransformersGenerator
from gym_adapters.testing.tiny_model import TinyPolicy, tiny_policy

PROMPTS = [[65, 66, 67], [70] * 11, [80, 81], [90, 30, 31, 32, 33, 34, 35]]
NO_STOPS: tuple[int, ...] = ()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> TinyPolicy:
    return tiny_policy(size="small", cache_dir=tmp_path_factory.mktemp("policy"))


@pytest.fixture
def model(policy: TinyPolicy) -> Any:
    return policy.load_model()


def sampling(max_tokens: int = 12, **settings: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, **settings)


async def generate_all(
    generator: TransformersGenerator, prompts: Sequence[Sequence[int]], how: SamplingParams
) -> list[Generation]:
    return await asyncio.gather(
        *(
            generator.generate(prompt, how, request_id=f"r{index}")
            for index, prompt in enumerate(prompts)
        )
    )


def teacher_forced(model: Any, prompt: Sequence[int], turn: Generation, heat: float) -> list[float]:
    """Log-probabilities of the turn by one forward pass over prompt and turn, without padding."""
    ids = torch.tensor([[*prompt, *turn.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / heat
    scored = torch.log_softmax(logits, dim=-1)
    return [float(scored[i, token]) for i, token in enumerate(turn.token_ids)]


class Gate(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    """Holds the decode thread before each forward pass until told to go on; may fail instead."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        self.batch_sizes: list[int] = []
        self.reached = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.error: Exception | None = None
        self.free = True

    def hold(self) -> None:
        self.free = False

    def let_go(self, passes: int = 1, *, for_good: bool = False) -> None:
        self.free = for_good
        self.allowed.release(passes)

    async def arrived(self) -> None:
        assert await asyncio.to_thread(self.reached.acquire, timeout=30)

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, **inputs: Any) -> Any:
        self.reached.release()
        if not self.free:
            assert self.allowed.acquire(timeout=30)
        self.batch_sizes.append(len(inputs["input_ids"]))
        if self.error is not None:
            raise self.error
        return self.inner(**inputs)


@pytest.fixture
def gate(model: Any) -> Iterator[Gate]:
    gate = Gate(model)
    yield gate
    gate.let_go(1000, for_good=True)


async def test_it_is_a_token_generator(model: Any) -> None:
    assert isinstance(TransformersGenerator(model), TokenGenerator)


@pytest.mark.parametrize("heat", [1.0, 0.7, 2.0])
async def test_logprobs_are_those_of_a_teacher_forced_forward(model: Any, heat: float) -> None:
    async with TransformersGenerator(model, seed=1, eos_token_ids=NO_STOPS) as generator:
        turns = await generate_all(generator, PROMPTS, sampling(temperature=heat))

    for prompt, turn in zip(PROMPTS, turns, strict=True):
        assert len(turn.token_ids) == len(turn.logprobs) == 12
        assert turn.logprobs == pytest.approx(
            teacher_forced(model, prompt, turn, heat), rel=0, abs=1e-4
        )


async def test_greedy_tokens_are_the_same_alone_and_in_a_left_padded_batch(model: Any) -> None:
    how = sampling(temperature=0)
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS) as generator:
        alone = [(await generate_all(generator, [prompt], how))[0] for prompt in PROMPTS]
        together = await generate_all(generator, PROMPTS, how)

    assert [turn.token_ids for turn in together] == [turn.token_ids for turn in alone]
    for prompt, turn in zip(PROMPTS, together, strict=True):
        assert turn.logprobs == pytest.approx(teacher_forced(model, prompt, turn, 1.0), abs=1e-4)
        ids = torch.tensor([[*prompt, *turn.token_ids]])
        best = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert best.tolist() == turn.token_ids


async def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch(model: Any) -> None:
    first = TransformersGenerator(model, seed=5, eos_token_ids=NO_STOPS)
    again = TransformersGenerator(model, seed=5, eos_token_ids=NO_STOPS, max_batch_size=2)
    other = TransformersGenerator(model, seed=6, eos_token_ids=NO_STOPS)

    turns = [await generate_all(generator, PROMPTS, sampling()) for generator in (first, again)]
    differing = await generate_all(other, PROMPTS, sampling())
    second_turn = await first.generate(PROMPTS[0], sampling(), request_id="r0")

    assert [t.token_ids for t in turns[0]] == [t.token_ids for t in turns[1]]
    assert [t.token_ids for t in turns[0]] != [t.token_ids for t in differing]
    assert second_turn.token_ids != turns[0][0].token_ids
    for generator in (first, again, other):
        await generator.aclose()


async def test_a_seed_of_the_request_alone_decides_its_turn(model: Any) -> None:
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS) as generator:
        one = await generator.generate([65], sampling(seed=3), request_id="a")
        two = await generator.generate([65], sampling(seed=3), request_id="b")
        three = await generator.generate([65], sampling(seed=4), request_id="a")

    assert one == two
    assert one.token_ids != three.token_ids


async def test_sampling_follows_the_models_distribution(model: Any) -> None:
    prompt, draws = [65, 66], 4000
    async with TransformersGenerator(model, seed=0, max_batch_size=500) as generator:
        turns = await generate_all(generator, [prompt] * draws, sampling(1))

    with torch.no_grad():
        expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    seen = torch.bincount(torch.tensor([t.token_ids[0] for t in turns]), minlength=len(expected))
    # Five standard deviations of a binomial, for each token.
    spread = 5 * (draws * expected * (1 - expected)).sqrt() + 1
    assert bool(((seen - draws * expected).abs() <= spread).all())


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.2), (5, 0.5)])
async def test_truncated_logprobs_are_renormalised_over_what_is_left(
    model: Any, top_k: int, top_p: float
) -> None:
    prompt = [65, 66]
    how = sampling(1, top_k=top_k, top_p=top_p, temperature=0.8)
    async with TransformersGenerator(model, seed=0) as generator:
        turns = await generate_all(generator, [prompt] * 200, how)

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.8
    best, order = logits.sort(descending=True)
    kept = best[: top_k or None].softmax(-1)
    # The smallest set of likeliest tokens that holds at least top_p.
    size = len(kept) if top_p == 1 else int((kept.cumsum(-1) < top_p).sum()) + 1
    allowed = {
        int(t): float(p) for t, p in zip(order, kept[:size] / kept[:size].sum(), strict=False)
    }
    for turn in turns:
        assert math.exp(turn.logprobs[0]) == pytest.approx(allowed[turn.token_ids[0]], abs=1e-5)


async def test_a_stop_id_ends_the_turn_and_stays_in_it(model: Any) -> None:
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS) as generator:
        whole = await generator.generate([65], sampling(temperature=0), request_id="a")
        stop = whole.token_ids[4]
        cut = whole.token_ids[: whole.token_ids.index(stop) + 1]
        how = sampling(temperature=0, stop_token_ids=(stop,))
        ended, free = await asyncio.gather(
            generator.generate([65], how, request_id="a"),
            generator.generate([65], sampling(temperature=0), request_id="b"),
        )

    assert (ended.token_ids, ended.finish_reason) == (cut, "stop")
    assert (free.token_ids, free.finish_reason) == (whole.token_ids, "length")


async def test_the_models_own_end_of_text_ends_a_turn(policy: TinyPolicy, model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[policy.tokenizer.eos_token_id] = 0.0
        model.lm_head.weight *= 0.0  # all tokens alike: greedy takes id 0
    model.generation_config.eos_token_id = [0]
    async with TransformersGenerator(model) as generator:
        turn = await generator.generate([65], sampling(temperature=0), request_id="a")

    assert (turn.token_ids, turn.finish_reason) == ([0], "stop")
    assert turn.logprobs == pytest.approx([-math.log(len(policy.tokenizer))])


async def test_a_stop_string_ends_the_turn_and_all_ids_stay(policy: TinyPolicy, model: Any) -> None:
    letters = policy.tokenizer.convert_tokens_to_ids(list("abcd"))
    only_letters = torch.full((len(policy.tokenizer),), -torch.inf)
    only_letters[letters] = 0.0
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: output + only_letters)
    async with TransformersGenerator(model, policy.tokenizer) as generator:
        whole = await generator.generate([65], sampling(30, seed=1), request_id="a")
        text = str(policy.tokenizer.decode(list(whole.token_ids)))
        stop = text[6:9]
        how = sampling(30, seed=1, stop=("never", stop))
        turn = await generator.generate([65], how, request_id="a")

    end = text.index(stop) + len(stop)
    assert (turn.token_ids, turn.finish_reason) == (whole.token_ids[:end], "stop")


async def test_each_request_has_its_own_max_tokens(model: Any) -> None:
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS) as generator:
        turns = await asyncio.gather(
            *(
                generator.generate([65], sampling(length), request_id=str(length))
                for length in (1, 5, 3)
            )
        )

    assert [len(turn.token_ids) for turn in turns] == [1, 5, 3]
    assert {turn.finish_reason for turn in turns} == {"length"}


async def test_without_max_tokens_a_turn_may_fill_the_context(model: Any) -> None:
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS, max_context=10) as generator:
        turn = await generator.generate([65] * 4, SamplingParams(), request_id="a")
        assert (len(turn.token_ids), turn.finish_reason) == (6, "length")
        with pytest.raises(ModelError, match="10 tokens leaves no room in a context of 10"):
            await generator.generate([65] * 10, SamplingParams(), request_id="a")


async def test_a_request_joins_the_batch_mid_flight_and_changes_nothing_for_others(
    gate: Gate, model: Any
) -> None:
    how = sampling(8, temperature=0)
    plain = TransformersGenerator(model, eos_token_ids=NO_STOPS)
    expected = [(await generate_all(plain, [p], how))[0].token_ids for p in PROMPTS[:2]]
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS)
    gate.hold()

    early = asyncio.create_task(generator.generate(PROMPTS[0], how, request_id="early"))
    gate.let_go(3)
    for _ in range(4):
        await gate.arrived()
    late = asyncio.create_task(generator.generate(PROMPTS[1], how, request_id="late"))
    await asyncio.sleep(0)
    gate.let_go(1000, for_good=True)

    assert [(await early).token_ids, (await late).token_ids] == expected
    # The newcomer's prompt is read alone, then both are decoded together, then it ends alone.
    assert gate.batch_sizes[4:] == [1] + [2] * 4 + [1] * 3
    await generator.aclose()
    await plain.aclose()


async def test_a_cancelled_request_leaves_the_batch_and_the_others_go_on(
    gate: Gate, model: Any
) -> None:
    how = sampling(6, temperature=0)
    plain = TransformersGenerator(model, eos_token_ids=NO_STOPS)
    expected = (await generate_all(plain, [PROMPTS[0]], how))[0]
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS)
    gate.hold()

    tasks = [
        asyncio.create_task(generator.generate(prompt, how, request_id=str(prompt)))
        for prompt in PROMPTS[:2]
    ]
    gate.let_go(2)
    for _ in range(3):
        await gate.arrived()
    tasks[1].cancel()
    await asyncio.sleep(0)
    gate.let_go(1000, for_good=True)

    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert (await tasks[0]).token_ids == expected.token_ids
    assert gate.batch_sizes[-1] == 1
    await generator.aclose()
    await plain.aclose()


async def test_a_request_cancelled_while_it_waits_for_room_is_never_run(gate: Gate) -> None:
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS, max_batch_size=1)
    gate.hold()
    running = asyncio.create_task(generator.generate([65], sampling(2), request_id="a"))
    await gate.arrived()
    waiting = asyncio.create_task(generator.generate([66, 67], sampling(9), request_id="b"))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.let_go(1000, for_good=True)
    await running

    assert gate.batch_sizes == [1, 1]
    await generator.aclose()


async def test_no_more_than_max_batch_size_rows_are_decoded_at_once(gate: Gate) -> None:
    async with TransformersGenerator(gate, eos_token_ids=NO_STOPS, max_batch_size=3) as generator:
        turns = await generate_all(generator, [[65]] * 10, sampling(4))

    assert len(turns) == 10
    assert max(gate.batch_sizes) <= 3


async def test_the_event_loop_runs_while_the_model_does(gate: Gate) -> None:
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS)
    gate.hold()
    task = asyncio.create_task(generator.generate([65], sampling(1), request_id="a"))
    await gate.arrived()

    ticks = [await asyncio.sleep(0, result=tick) for tick in range(5)]
    assert (ticks, task.done()) == ([0, 1, 2, 3, 4], False)
    gate.let_go(10, for_good=True)
    assert len((await task).token_ids) == 1
    await generator.aclose()


async def test_an_engine_error_reaches_every_waiting_request_and_the_next_one_works(
    gate: Gate,
) -> None:
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS, max_batch_size=2)
    gate.error = RuntimeError("out of memory")

    results = await asyncio.gather(
        *(generator.generate([65], sampling(2), request_id=str(i)) for i in range(2)),
        return_exceptions=True,
    )

    assert [str(error) for error in results] == ["decoding: RuntimeError: out of memory"] * 2
    assert all(isinstance(error, ModelError) for error in results)
    assert results[0] is not results[1]
    gate.error = None
    assert len((await generator.generate([65], sampling(2), request_id="a")).token_ids) == 2
    await generator.aclose()


async def test_weights_that_are_nan_are_an_error_not_a_token(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    async with TransformersGenerator(model) as generator:
        with pytest.raises(ModelError, match="NaN logits"):
            await generator.generate([65], sampling(2), request_id="a")


async def test_training_flags_come_back_module_by_module_before_the_last_answer(model: Any) -> None:
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    during: list[bool] = []
    model.lm_head.register_forward_hook(lambda *_: during.append(model.training))

    async with TransformersGenerator(model, eos_token_ids=NO_STOPS) as generator:
        await generate_all(generator, PROMPTS, sampling(3))
        after = [module.training for module in model.modules()]

    assert (after, set(during)) == (before, {False})


async def test_training_flags_come_back_after_a_cancel_and_after_an_error(gate: Gate) -> None:
    gate.train()
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS)
    gate.hold()
    task = asyncio.create_task(generator.generate([65], sampling(9), request_id="a"))
    await gate.arrived()
    assert not gate.training
    task.cancel()
    await asyncio.sleep(0)
    gate.let_go(1000, for_good=True)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.training

    gate.error = RuntimeError("boom")
    with pytest.raises(ModelError):
        await generator.generate([65], sampling(9), request_id="b")
    assert gate.training
    await generator.aclose()


async def test_dropout_and_gradients_are_off(policy: TinyPolicy) -> None:
    model: Any = policy.load_model()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    async with TransformersGenerator(model, seed=0, eos_token_ids=NO_STOPS) as generator:
        turn = await generator.generate([65], sampling(), request_id="a")

    model.eval()
    assert turn.logprobs == pytest.approx(teacher_forced(model, [65], turn, 1.0), abs=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


async def test_a_step_of_the_optimizer_shows_in_the_next_turn(model: Any) -> None:
    version = 0
    generator = TransformersGenerator(
        model, seed=0, eos_token_ids=NO_STOPS, weights_version=lambda: version
    )
    before = await generator.generate([65], sampling(temperature=0), request_id="a")
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    version = 1
    after = await generator.generate([65], sampling(temperature=0), request_id="a")

    assert (before.weights_version, after.weights_version) == (0, 1)
    assert after.token_ids != before.token_ids
    assert after.logprobs == pytest.approx(teacher_forced(model, [65], after, 1.0), abs=1e-4)
    await generator.aclose()


async def test_a_sliding_window_model_is_decoded_right_in_static_batches(
    policy: TinyPolicy,
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=len(policy.tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    mistral: Any = MistralForCausalLM
    model = mistral(config).eval()
    async with TransformersGenerator(model, eos_token_ids=NO_STOPS, max_batch_size=3) as generator:
        turns = await asyncio.gather(
            *(
                generator.generate(prompt, sampling(4 + 3 * i), request_id=str(i))
                for i, prompt in enumerate(PROMPTS)
            )
        )

    for prompt, turn in zip(PROMPTS, turns, strict=True):
        assert turn.logprobs == pytest.approx(teacher_forced(model, prompt, turn, 1.0), abs=1e-4)


async def test_unusable_requests_are_refused_and_name_the_fault(model: Any) -> None:
    async with TransformersGenerator(model) as generator:
        with pytest.raises(ModelError, match="ids from 65 to 9999, and the model knows 265"):
            await generator.generate([65, 9999], sampling(), request_id="a")
        with pytest.raises(ModelError, match="empty"):
            await generator.generate([], sampling(), request_id="a")
        with pytest.raises(Unsupported, match="media"):
            await generator.generate([65], sampling(), request_id="a", media=[{"type": "image"}])
        with pytest.raises(Unsupported, match="min_p"):
            await generator.generate([65], sampling(extras={"min_p": 0.1}), request_id="a")
        with pytest.raises(Unsupported, match="tokenizer"):
            await generator.generate([65], sampling(stop=("x",)), request_id="a")


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_tokens": 0}]
)
async def test_sampling_out_of_range_is_refused(model: Any, settings: dict[str, Any]) -> None:
    async with TransformersGenerator(model) as generator:
        with pytest.raises(InvalidConfig, match=next(iter(settings))):
            await generator.generate([65], SamplingParams(**settings), request_id="a")


async def test_closing_fails_what_waits_and_refuses_what_comes(gate: Gate) -> None:
    generator = TransformersGenerator(gate, eos_token_ids=NO_STOPS)
    gate.hold()
    task = asyncio.create_task(generator.generate([65], sampling(9), request_id="a"))
    await gate.arrived()
    closing = asyncio.create_task(generator.aclose())
    await asyncio.sleep(0.05)
    gate.let_go(1000, for_good=True)

    await closing
    with pytest.raises(ModelError, match="closed"):
        await task
    with pytest.raises(UsageError, match="closed"):
        await generator.generate([65], sampling(), request_id="b")


def test_one_generator_serves_several_event_loops_in_turn(model: Any) -> None:
    generator = TransformersGenerator(model, seed=0, eos_token_ids=NO_STOPS)
    lengths = [
        len(asyncio.run(generator.generate([65], sampling(3), request_id="a")).token_ids)
        for _ in range(3)
    ]
    asyncio.run(generator.aclose())

    assert lengths == [3, 3, 3]


async def test_from_pretrained_loads_model_and_tokenizer_from_a_folder(policy: TinyPolicy) -> None:
    generator = TransformersGenerator.from_pretrained(policy.model_path, seed=0)
    turn = await generator.generate([65], sampling(3, stop=("zzz",)), request_id="a")
    await generator.aclose()

    expected = teacher_forced(policy.load_model(), [65], turn, 1.0)
    assert turn.logprobs == pytest.approx(expected, abs=1e-4)


def test_from_pretrained_reaches_for_no_network_by_default(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="allow_download=True"):
        TransformersGenerator.from_pretrained("nobody/has-this-model")
