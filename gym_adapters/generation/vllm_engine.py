"""A `TokenGenerator` over vLLM's own asynchronous engine, with weights that can change under it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.extras import require
from gym_adapters.generation.constrained import constraint_of
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.vllm_cpu import WORKER
from gym_adapters.generation.vllm_launch import (
    build_engine,
    checkpoint_names,
    engine_params,
    is_cpu,
    loads_weights,
)
from gym_adapters.generation.vllm_sampling import (
    generation_of,
    sampling_fields,
    scored_logprobs,
    scoring_fields,
    token_ids_of,
    with_policy_logprobs,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InFlight", "VLLMGenerator"]

InFlight = Literal["keep", "wait", "abort"]
"""What becomes of turns that are being sampled when new weights arrive: they go on with the new
ones, their context read again; they end first; or they fail with a `ModelError`."""

# vLLM's own weight loading has no deadline; a hung worker must not hang the run for ever.
LOAD_TIMEOUT = 1800.0
PREFIX = "gym_adapters-weights-"
# Bytes of memory to leave to others.
MARGIN = 2**28


class VLLMGenerator:
    """Samples from an ``AsyncLLM``: token ids in, token ids and log-probabilities out.

    Rollouts join and leave the engine's running batch as they please, and turns of one rollout
    reuse the cached context of the one before. Cancelling a call aborts its request.

    Log-probabilities are those of the distribution sampled from (``processed_logprobs``). Turns
    under a constraint (`gym_adapters.generation.constrained`) are scored a second time without it.

    The engine runs in processes of its own, that are started anew: as with all of vLLM, a script
    that starts one needs ``if __name__ == "__main__":``.

    On a CPU, seeds are not passed on: vLLM's CPU build dies on a seeded request whose context is
    read in more than one step.

    Args:
        engine: A running ``AsyncLLM``; whoever started it ends it. See `start` for one of our own.
        lora_request: vLLM's ``LoRARequest`` for every turn, or none.
        weights_version: Version of the weights that the engine has now.
    """

    def __init__(
        self,
        engine: Any,
        *,
        lora_request: object | None = None,
        weights_version: int | str | None = 0,
    ) -> None:
        mode = str(engine.vllm_config.model_config.logprobs_mode)
        if mode != "processed_logprobs":
            raise InvalidConfig(
                f"the engine gives log-probabilities of the kind {mode!r}, which leave out the "
                "temperature. Fix: start it with logprobs_mode='processed_logprobs'."
            )
        self.engine = engine
        self.lora_request = lora_request
        self._version = weights_version
        self._seeded = not is_cpu()
        self._numbers = itertools.count()
        self._running: set[str] = set()
        self._updating = asyncio.Lock()
        self._expected: frozenset[str] = frozenset()
        self._owned = False
        self._unusable: str | None = None

    @classmethod
    async def start(
        cls,
        path: str | Path,
        *,
        lora_request: object | None = None,
        weights_version: int | str | None = 0,
        allow_download: bool = False,
        **engine_args: Any,
    ) -> Self:
        """Start an engine; `aclose` ends it. Takes seconds to minutes; the event loop goes on.

        What is not said in `engine_args` is chosen for rollouts: processed log-probabilities,
        prefix caching, no statistics sent anywhere. On a CPU also: 1 GiB of cache in place of nine
        tenths of the memory, no compilation, the checkpoint's own type of weights, and layers
        whose weights can be updated (`gym_adapters.generation.vllm_cpu`).

        Args:
            path: Model folder, or the name of a model in the Hugging Face cache.
            lora_request: As for the constructor.
            weights_version: As for the constructor.
            allow_download: Whether a model that is not here may be fetched from the Hub.
            **engine_args: vLLM's ``AsyncEngineArgs``.

        Raises:
            InvalidConfig: If there is no such model here, or vLLM refuses the arguments.
            MissingExtra: Without vLLM.
            ModelError: If the engine doesn't come up.
        """
        require("vllm", "vllm", "a vLLM engine")
        abandoned = threading.Event()
        building = asyncio.to_thread(
            build_engine, str(path), allow_download, engine_args, abandoned
        )
        try:
            engine, folder = await building
        except asyncio.CancelledError:
            # The thread can't be stopped: it ends the engine as soon as that is up.
            abandoned.set()
            raise
        generator = cls(engine, lora_request=lora_request, weights_version=weights_version)
        generator._owned = True
        generator._expected = await asyncio.to_thread(checkpoint_names, folder)
        return generator

    @property
    def weights_version(self) -> int | str | None:
        """Version of the weights that new turns are sampled from."""
        return self._version

    @property
    def max_context(self) -> int:
        """Most tokens of context and turn together."""
        return int(self.engine.vllm_config.model_config.max_model_len)

    @property
    def running(self) -> int:
        """Requests that this generator has in the engine."""
        return len(self._running)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        """Sample a continuation of `prompt_ids`; without ``max_tokens``, up to the context's end.

        A turn during which the weights were updated carries the version it began with.

        Raises:
            InvalidConfig: If a sampling setting is out of range or unknown.
            ModelError: If the prompt doesn't fit, or the engine fails.
            Unsupported: If there is media.
        """
        if media:
            raise Unsupported("VLLMGenerator takes text only, and there is media.")
        ids = token_ids_of(prompt_ids)
        version = self._version
        params = self._params(sampling_fields(sampling, seeded=self._seeded), sampling)
        output = await self._finished(ids, params, request_id)
        generation = generation_of(output, version)
        if constraint_of(sampling) is None:
            return generation
        return with_policy_logprobs(
            generation, await self._scored(ids, generation.token_ids, request_id)
        )

    async def update_weights(
        self,
        weights: Mapping[str, Tensor] | str | Path,
        *,
        version: int | str | None = None,
        in_flight: InFlight = "keep",
        partial: bool = False,
    ) -> int | str | None:
        """Give the engine new weights, without a restart; returns the version of them.

        The engine stops between two steps, loads, forgets all it has cached of the old weights and
        goes on. A state dict travels through a folder in memory or on disk: give the folder of
        safetensors files where there is one already.

        Args:
            weights: Tensors by their names in the checkpoint, or a folder of safetensors files.
            version: Stamped on turns from now on; by default the next integer.
            in_flight: What becomes of turns that are being sampled.
            partial: Whether some of the checkpoint's tensors may be missing: they then stay.

        Raises:
            InvalidConfig: If tensors are missing or unknown; nothing was changed then.
            ModelError: If loading fails. Weights are then undefined, and no turn is sampled until
                an update succeeds.
            Unsupported: If it is a CPU engine, started elsewhere, that can't.
        """
        if not loads_weights(self.engine):
            raise Unsupported(
                "the weights of this CPU engine are packed, and new ones would not take effect. "
                f"Fix: start it with VLLMGenerator.start, or with worker_cls={WORKER!r}."
            )
        async with self._updating:
            if isinstance(weights, str | Path):
                folder = await asyncio.to_thread(Path(weights).resolve)
                self._check_names(await asyncio.to_thread(checkpoint_names, folder), partial)
                await self._load(folder, in_flight)
            else:
                self._check_names(frozenset(weights), partial)
                with TemporaryDirectory(dir=_roomy(weights), prefix=PREFIX) as spare:
                    await asyncio.to_thread(_save, weights, Path(spare))
                    await self._load(Path(spare), in_flight)
            self._unusable = None
            self._version = _next_version(self._version) if version is None else version
            return self._version

    async def sleep(self, level: int = 1) -> None:
        """Free the accelerator's memory; turns that are being sampled fail.

        Args:
            level: 1 keeps the weights in main memory; 2 drops them, so that they must be updated
                after `wake`.

        Raises:
            Unsupported: Where vLLM can't: on a CPU, or without ``enable_sleep_mode=True``.
        """
        if is_cpu() or not self.engine.vllm_config.model_config.enable_sleep_mode:
            raise Unsupported(
                "this engine can't sleep. Fix: start it on a GPU, with enable_sleep_mode=True."
            )
        await self.engine.sleep(level)
        if level > 1:
            self._unusable = "its weights were dropped by sleep(2): call wake, then update_weights"

    async def wake(self, tags: Sequence[str] | None = None) -> None:
        """Undo `sleep`; `tags` (``weights``, ``kv_cache``) wake a part."""
        await self.engine.wake_up(None if tags is None else list(tags))

    async def aclose(self) -> None:
        """Abort our requests, and end the engine if it was started here."""
        if self._running:
            await self.engine.abort(list(self._running))
        if self._owned:
            self._owned = False
            self._unusable = "it was closed"
            # The task that hands out turns would take the end of the processes for a crash.
            if self.engine.output_handler is not None:
                self.engine.output_handler.cancel()
            await asyncio.to_thread(self.engine.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _params(self, fields: Mapping[str, Any], sampling: SamplingParams | None = None) -> Any:
        from vllm.sampling_params import RequestOutputKind

        detokenize = bool(sampling is not None and sampling.stop)
        return engine_params(fields, detokenize, RequestOutputKind.FINAL_ONLY)

    async def _finished(self, ids: list[int], params: Any, request_id: str) -> Any:
        if self._unusable is not None:
            raise ModelError(f"the vLLM engine can't be used: {self._unusable}.")
        # Turns of one rollout overlap in no way, but a name must never come twice.
        name = f"{request_id}#{next(self._numbers)}"
        final: Any = None
        async with self._registered(name):
            try:
                async for output in self.engine.generate(
                    {"prompt_token_ids": ids}, params, name, lora_request=self.lora_request
                ):
                    final = output
            except Exception as error:
                raise ModelError(
                    f"vLLM failed on {request_id}: {type(error).__name__}: {_reason(error)}"
                ) from error
        if final is None:
            raise ModelError(f"vLLM gave nothing for {request_id}.")
        return final

    @asynccontextmanager
    async def _registered(self, name: str) -> AsyncIterator[None]:
        self._running.add(name)
        try:
            yield
        except BaseException:
            # vLLM aborts by itself, but not when it is cancelled while it hands the request over.
            await asyncio.shield(asyncio.ensure_future(self._abort(name)))
            raise
        finally:
            self._running.discard(name)

    async def _abort(self, name: str) -> None:
        if not self.engine.errored:
            await self.engine.abort(name)

    async def _scored(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], request_id: str
    ) -> list[float]:
        context = [*prompt_ids, *token_ids]
        if len(context) >= self.max_context:
            raise ModelError(
                "a constrained turn that ends at the very end of the context can't be scored. "
                "Fix: a smaller max_tokens."
            )
        output = await self._finished(context, self._params(scoring_fields()), request_id)
        return scored_logprobs(output.prompt_logprobs, token_ids)

    def _check_names(self, names: frozenset[str], partial: bool) -> None:
        if not names:
            raise InvalidConfig(
                "there are no weights to load: no tensors, or no safetensors files."
            )
        if not self._expected:
            return
        unknown = sorted(names - self._expected - {"lm_head.weight"})
        if unknown:
            raise InvalidConfig(
                f"the checkpoint has no tensor named {unknown[0]!r} ({len(unknown)} unknown). "
                "Fix: name tensors as in the model's state dict, adapters merged."
            )
        missing = sorted(self._expected - names)
        if missing and not partial:
            raise InvalidConfig(
                f"{len(missing)} of {len(self._expected)} tensors are missing, {missing[0]!r} "
                "among them. Fix: give all weights, or pass partial=True to leave them as they are."
            )

    async def _load(self, folder: Path, in_flight: InFlight) -> None:
        engine = self.engine
        await engine.pause_generation(mode=in_flight, clear_cache=False)
        try:
            self._unusable = "its last weight update failed: call update_weights again"
            async with asyncio.timeout(LOAD_TIMEOUT):
                await engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
                # Running requests give up their cache too, and read their context again: cached
                # keys of old weights would be shared with every later turn of the same prefix.
                await engine.reset_prefix_cache(reset_running_requests=True)
        except BaseException as error:
            await engine.abort(list(self._running))
            if isinstance(error, Exception):
                raise ModelError(
                    f"vLLM could not load new weights: {type(error).__name__}: {error}"
                ) from error
            raise
        finally:
            await engine.resume_generation()


def _reason(error: BaseException) -> str:
    """The first line of what went wrong; vLLM wraps some errors in an empty one."""
    text = str(error) or str(error.__cause__ or "")
    return text.strip().partition("\n")[0]


def _next_version(version: int | str | None) -> int:
    return version + 1 if isinstance(version, int) else 1


def _roomy(weights: Mapping[str, Tensor]) -> str | None:
    """A folder in memory, where there is one with room for them; in containers it is often tiny."""
    shared = Path("/dev/shm")
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if shared.is_dir() and disk_usage(shared).free > 1.1 * size + MARGIN:
        return str(shared)
    return None


def _save(weights: Mapping[str, Tensor], folder: Path) -> None:
    save = require("safetensors.torch", "vllm", "weight updates")
    # Copies: views into one storage can't be saved.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()
    }
    save.save_file(tensors, str(folder / "model.safetensors"))
