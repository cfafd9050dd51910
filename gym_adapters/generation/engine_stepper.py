"""A `TokenGenerator` over a synchronous vLLM engine that belongs to somebody else.

A trainer that shares its GPU with vLLM owns an ``LLM`` object whose ``generate`` takes a batch and
returns when the slowest of it is done. Here the engine is stepped instead: requests of any number
of concurrent rollouts join and leave the running batch between two steps, so that no rollout waits
for another one's tool.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from gym_adapters.errors import GymAdaptersError, ModelError, Unsupported
from gym_adapters.generation.constrained import constraint_of
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.step_group import Admission, OneEngine, StepGroup
from gym_adapters.generation.step_loop import Finished, StepLoop, Ticket
from gym_adapters.generation.vllm_launch import engine_params, is_cpu
from gym_adapters.generation.vllm_sampling import (
    generation_of,
    sampling_fields,
    scored_logprobs,
    scoring_fields,
    token_ids_of,
    with_policy_logprobs,
)

__all__ = ["EngineStepper"]

# Seconds that a cancelled call waits for the engine to let go of its request.
PATIENCE = 60.0

WeightsVersion = int | str | Callable[[], int | str | None] | None
LoRA = Callable[[], object | None] | None
ResultT = TypeVar("ResultT")


class EngineStepper:
    """Samples by stepping an ``LLM`` that its owner keeps.

    Rollouts run on an event loop, in any thread but the one that steps::

        with stepper.session():                    # steps in a thread of its own
            rollouts = loop.run(roll_out(stepper))

        rollouts = stepper.drive(                  # or in this one
            lambda: asyncio.run_coroutine_threadsafe(roll_out(stepper), loop)
        )

    Steps are taken inside these two alone, and only while there is a request. Outside, the engine
    is its owner's: to load weights, to put it to sleep and wake it, or to generate with.

    With tensor parallelism over ``external_launcher`` every rank has an engine of its own, and all
    must step the same batch. Pass the `group`; all ranks must enter the same sessions. Before each
    step they tell each other what joins and what leaves, and each gets the turns of its own
    rollouts. A session ends on all ranks together, when the rollouts of all are over.

    On a CPU, seeds are not passed on (see `gym_adapters.generation.vllm_engine.VLLMGenerator`).

    Args:
        llm: A synchronous ``vllm.LLM`` with ``logprobs_mode="processed_logprobs"``.
        lora_request: Gives vLLM's ``LoRARequest``, or none, when a request joins; must give the
            same on all ranks.
        weights_version: Stamped on each turn; a function is asked when the turn begins.
        group: The ranks of a tensor-parallel engine.

    Raises:
        Unsupported: If the engine has several ranks and `group` doesn't match, or if it gives raw
            log-probabilities.
    """

    def __init__(
        self,
        llm: Any,
        *,
        lora_request: LoRA = None,
        weights_version: WeightsVersion = None,
        group: StepGroup | None = None,
    ) -> None:
        engine = llm.llm_engine
        self._group: StepGroup = OneEngine() if group is None else group
        _check_engine(engine, self._group)
        self.weights_version = weights_version
        self._max_context = int(engine.model_config.max_model_len)
        self._loop = StepLoop(_VLLMSteps(engine, lora_request), self._group)
        self._numbers = itertools.count()
        self._seeded = not is_cpu()
        self._device = _current_device()

    @property
    def max_context(self) -> int:
        """Most tokens of context and turn together."""
        return self._max_context

    @property
    def running(self) -> int:
        """Requests of this process that wait or are in the engine."""
        return self._loop.pending

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """Sample a continuation of `prompt_ids`; without ``max_tokens``, up to the context's end.

        Raises:
            InvalidConfig: If a sampling setting is out of range or unknown.
            ModelError: If the prompt doesn't fit, or the engine fails.
            Unsupported: If there is media.
            UsageError: If nobody is stepping the engine.
        """
        if media:
            raise Unsupported("EngineStepper takes text only, and there is media.")
        ids = token_ids_of(prompt_ids)
        version = self.weights_version() if callable(self.weights_version) else self.weights_version
        fields = sampling_fields(sampling, seeded=self._seeded)
        output = await self._finished(ids, fields, request_id, bool(sampling.stop))
        generation = generation_of(output, version)
        if constraint_of(sampling) is None:
            return generation
        context = [*ids, *generation.token_ids]
        if len(context) >= self.max_context:
            raise ModelError(
                "a constrained turn that ends at the very end of the context can't be scored. "
                "Fix: a smaller max_tokens."
            )
        scored = await self._finished(context, scoring_fields(), request_id, detokenize=False)
        logprobs = scored_logprobs(scored.prompt_logprobs, generation.token_ids)
        return with_policy_logprobs(generation, logprobs)

    def drive(self, start: Callable[[], Future[ResultT]]) -> ResultT:
        """Step in this thread until the work that `start` begins is done (on all ranks).

        When this thread is interrupted, the work is cancelled.

        Returns:
            The result of the work.

        Raises:
            ModelError: If the engine fails; it can't be stepped again.
            UsageError: If it is being stepped already.
        """
        self._loop.open()
        try:
            # Only now: requests before would find nobody stepping.
            work = start()
        except BaseException:
            self._loop.close()
            raise
        work.add_done_callback(lambda _: self._loop.notify())
        try:
            self._loop.run(work.done)
        except BaseException:
            work.cancel()
            raise
        return work.result()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Step in a thread for as long as the block runs (on all ranks).

        Raises:
            ModelError: At the end of the block, if the engine failed; it can't be stepped again.
            UsageError: If it is being stepped already.
        """
        over = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self._enter_device()
                self._loop.run(over.is_set)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                failures.append(error)

        self._loop.open()
        thread = threading.Thread(target=work, name="gym_adapters-stepper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            self._loop.notify()
            thread.join()
        if failures:
            raise failures[0]

    async def _finished(
        self, ids: list[int], fields: dict[str, Any], request_id: str, detokenize: bool
    ) -> Any:
        loop = asyncio.get_running_loop()
        name = f"{request_id}#{self._group.rank}.{next(self._numbers)}"
        ticket = Ticket(Admission(name, ids, fields, detokenize), loop, loop.create_future())
        self._loop.submit(ticket)
        try:
            # Not the future itself: cancelling it would lose the engine's word that it let go.
            await asyncio.wait([ticket.done])
        except asyncio.CancelledError:
            self._loop.cancel(ticket)
            await asyncio.wait([ticket.done], timeout=PATIENCE)
            with suppress(GymAdaptersError, asyncio.InvalidStateError):
                ticket.done.result()
            raise
        return ticket.done.result()

    def _enter_device(self) -> None:
        """Make this thread like the one that made the engine, where that counts."""
        torch = sys.modules.get("torch")
        if torch is None:
            return
        if self._device is not None:
            # Which GPU is current belongs to a thread; a new one starts with the first.
            torch.cuda.set_device(self._device)
        else:
            # So does OpenMP's number of threads, and vLLM's CPU kernels fail where it is another
            # than torch's. Their worker puts a mere warning in the place of torch.set_num_threads.
            torch._C.set_num_threads(torch.get_num_threads())


class _VLLMSteps:
    """vLLM's synchronous engine as a `gym_adapters.generation.step_loop.SteppedEngine`."""

    def __init__(self, engine: Any, lora_request: LoRA) -> None:
        self._engine = engine
        self._lora_request = lora_request

    def add(self, admission: Admission) -> None:
        from vllm.sampling_params import RequestOutputKind

        params = engine_params(admission.fields, admission.detokenize, RequestOutputKind.FINAL_ONLY)
        lora = self._lora_request() if self._lora_request is not None else None
        prompt = {"prompt_token_ids": admission.token_ids}
        try:
            self._engine.add_request(admission.name, prompt, params, lora_request=lora)
        except Exception as error:
            raise ModelError(
                f"vLLM refuses {admission.name}: {type(error).__name__}: {error}"
            ) from error

    def abort(self, names: Sequence[str]) -> None:
        self._engine.abort_request(list(names))

    def step(self) -> Iterable[Finished]:
        for output in self._engine.step():
            if output.finished:
                yield Finished(output.request_id, output)


def _check_engine(engine: Any, group: StepGroup) -> None:
    config = engine.vllm_config
    mode = str(config.model_config.logprobs_mode)
    if mode != "processed_logprobs":
        raise Unsupported(
            f"the engine gives log-probabilities of the kind {mode!r}, which leave out the "
            "temperature. Fix: start it with logprobs_mode='processed_logprobs'."
        )
    parallel = config.parallel_config
    if parallel.data_parallel_size > 1:
        raise Unsupported(
            "an engine of several data-parallel ranks can't be stepped by one of them. Fix: "
            "data_parallel_size=1, one engine a replica."
        )
    launched = parallel.distributed_executor_backend == "external_launcher"
    ranks = parallel.tensor_parallel_size * parallel.pipeline_parallel_size if launched else 1
    if ranks != group.size:
        raise Unsupported(
            f"the engine has {ranks} ranks that must step together, and the group has {group.size}."
            " Fix: pass group=TorchStepGroup(...) over the ranks of this engine."
        )


def _current_device() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.current_device())
