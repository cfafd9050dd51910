"""A synchronous vLLM engine, stepped continuously for concurrent rollouts.

``LLM.generate`` answers a whole batch at once, so that every rollout would wait for the slowest.
Here requests join between the engine's steps, and each is answered when it is done.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gym_adapters.errors import ModelError, Unsupported
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.items import FinishReason

__all__ = ["SteppedVllm"]

# An idle thread ends after this many seconds; the next request starts another.
LINGER = 30.0


@dataclass(slots=True, eq=False)
class _Request:
    """One turn, and the event loop that waits for it."""

    name: str
    prompt: dict[str, Any]
    params: Any
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]

    def settle(self, output: Any = None, error: Exception | None = None) -> None:
        # A closed loop has nobody left to wake.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._wake, output, error)

    def _wake(self, output: Any, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(output)


class SteppedVllm:
    """A `TokenGenerator` over ``vllm.LLM``; nothing else may use the engine meanwhile.

    Args:
        llm: The engine, with ``logprobs_mode="processed_logprobs"``.
        weights_version: Asked for when a turn begins.
    """

    def __init__(self, llm: Any, weights_version: Callable[[], int | str | None]) -> None:
        self._llm, self._weights_version = llm, weights_version
        self._changed = threading.Condition()
        self._joining: list[_Request] = []
        self._leaving: list[str] = []
        self._running: dict[str, _Request] = {}
        self._thread: threading.Thread | None = None
        self._turns: Counter[str] = Counter()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """Sample a continuation of `prompt_ids`.

        Raises:
            ModelError: If the engine fails or refuses the request.
            Unsupported: If there is media, or a setting that vLLM does not know.
        """
        if media:
            raise Unsupported("the colocated vLLM engine is given text only, and there is media.")
        turn, self._turns[request_id] = self._turns[request_id], self._turns[request_id] + 1
        loop = asyncio.get_running_loop()
        request = _Request(
            name=f"{request_id}-turn-{turn}",
            prompt={"prompt_token_ids": list(prompt_ids)},
            params=vllm_params(sampling),
            loop=loop,
            done=loop.create_future(),
        )
        version = self._weights_version()
        self._submit(request)
        try:
            output = await request.done
        except asyncio.CancelledError:
            self._abort(request)
            raise
        return _generation(output, version)

    def _submit(self, request: _Request) -> None:
        with self._changed:
            self._joining.append(request)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(_device(),), name="gym_adapters-vllm", daemon=True
                )
                self._thread.start()

    def _abort(self, request: _Request) -> None:
        with self._changed:
            if request in self._joining:
                self._joining.remove(request)
            else:
                self._leaving.append(request.name)
            self._changed.notify_all()

    def _run(self, device: int | None) -> None:
        if device is not None:
            import torch

            # A new thread starts on the first device, whichever this process computes on.
            torch.cuda.set_device(device)
        while (changes := self._next_changes()) is not None:
            joining, leaving = changes
            try:
                self._step(joining, leaving)
            except Exception as error:  # noqa: BLE001 - an engine raises anything; all who wait hear
                problem = ModelError(f"vLLM failed: {type(error).__name__}: {error}")
                problem.__cause__ = error
                waiting, self._running = [*self._running.values(), *joining], {}
                for request in waiting:
                    request.settle(error=problem)

    def _next_changes(self) -> tuple[list[_Request], list[str]] | None:
        """Requests that come and go; waits while there is nothing to do, ``None`` to end."""
        with self._changed:
            while not (self._joining or self._running or self._leaving):
                if not self._changed.wait(timeout=LINGER) and not self._joining:
                    self._thread = None
                    return None
            changes = self._joining, self._leaving
            self._joining, self._leaving = [], []
            return changes

    def _step(self, joining: Sequence[_Request], leaving: Sequence[str]) -> None:
        engine = self._llm.llm_engine
        going = [name for name in leaving if self._running.pop(name, None) is not None]
        if going:
            engine.abort_request(going)
        for request in joining:
            try:
                engine.add_request(request.name, request.prompt, request.params)
            except ValueError as error:
                request.settle(error=ModelError(f"vLLM refuses a prompt: {error}"))
            else:
                self._running[request.name] = request
        if not self._running:
            return
        for output in engine.step():
            if output.finished:
                finished = self._running.pop(output.request_id, None)
                if finished is not None:
                    finished.settle(output)


def vllm_params(sampling: SamplingParams) -> Any:
    """`sampling` as vLLM's parameters.

    Raises:
        Unsupported: If vLLM knows no setting of some name, or not that value.
    """
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    try:
        return VllmParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop_token_ids=list(sampling.stop_token_ids),
            stop=list(sampling.stop),
            logprobs=0,
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
            **sampling.extras,
        )
    except (TypeError, ValueError) as error:
        raise Unsupported(f"vLLM takes no such sampling: {error}") from error


def _generation(output: Any, version: int | str | None) -> Generation:
    (completion,) = output.outputs
    ids = list(completion.token_ids)
    if completion.finish_reason not in ("stop", "length"):
        raise ModelError(f"vLLM ended a turn early: {completion.finish_reason}")
    reason: FinishReason = completion.finish_reason
    logprobs = [
        position[token].logprob for token, position in zip(ids, completion.logprobs, strict=True)
    ]
    return Generation(ids, logprobs, reason, version)


def _device() -> int | None:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else None
