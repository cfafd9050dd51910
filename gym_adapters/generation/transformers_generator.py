"""A `TokenGenerator` over any causal language model of transformers, on a CPU if need be.

It decodes on its own, step by step, so that concurrent rollouts share a batch that they join and
leave as they please. `model.generate` would make all of them wait for the slowest.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gym_adapters.errors import InvalidConfig, MissingExtra, ModelError, Unsupported
from gym_adapters.generation.constrained import CONSTRAINED_LOGPROBS, constraint_of
from gym_adapters.generation.protocol import Generation, SamplingParams

try:
    from gym_adapters.generation.decode_batch import DecodeBatch, DecodeRow
    from gym_adapters.generation.decode_worker import DecodeWorker, Request
    from gym_adapters.generation.token_constraints import ConstraintCompiler
    from gym_adapters.generation.token_sampling import check_sampling
except ModuleNotFoundError as error:
    raise MissingExtra(
        "transformers", package=error.name or "torch", needed_for="TransformersGenerator"
    ) from error

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["TransformersGenerator", "WeightsVersion"]

WeightsVersion = int | str | Callable[[], int | str | None] | None

# Requests whose turns are remembered for reproducible seeds; more than any run has at once.
REMEMBERED = 65_536
# Seconds to wait for a decode step to end when a call is cancelled or the generator closed.
PATIENCE = 60.0


class TransformersGenerator:
    """Samples from a live model, batching concurrent calls continuously.

    The model may be one that is being trained. It is put in eval mode (no dropout, no gradient
    checkpointing) while calls are in flight, and its training flags are restored, module by module,
    before the last of them returns; do not change its weights in between. It runs where its
    parameters are, without gradients, in a thread of its own, so the event loop is never blocked.
    From a synchronous trainer, run an event loop inside its rollout function::

        def rollout_func(prompts, trainer):
            return asyncio.run(collect(prompts, TransformersGenerator(trainer.model)))

    Log-probabilities are the processed ones: after temperature, top-k and top-p. At temperature 0
    the likeliest token is taken and reported at temperature 1, as vLLM does.

    Turns may be constrained (`gym_adapters.generation.constrained`), at any temperature; this needs
    the extra ``constrained`` and a fast tokenizer. Their log-probabilities are the policy's at that
    temperature, before top-k and top-p; the constrained ones are beside them.

    Models with a sliding-window or recurrent cache are decoded in static batches: rows that arrive
    while one is running wait for its end.

    Args:
        model: A causal language model, or a wrapper with the same forward pass. Nothing is
            unwrapped.
        tokenizer: Needed only for stop strings and constraints; gives the end-of-text and padding
            ids too.
        max_batch_size: Most rows decoded at once.
        eos_token_ids: Ids that end every turn, beside a request's own; those of the generation
            config, or else of the config, and of the tokenizer by default.
        max_context: Most tokens of prompt and turn together; the config's
            ``max_position_embeddings`` by default.
        weights_version: Stamped on each turn; a function is asked when the turn begins.
        seed: Makes sampling a function of (seed, request id, how many calls that request made
            before), whoever shares the batch; fresh entropy by default. A request's own
            ``sampling.seed`` wins, and alone decides its turn.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_batch_size: int = 64,
        eos_token_ids: Sequence[int] | None = None,
        max_context: int | None = None,
        weights_version: WeightsVersion = None,
        seed: int | None = None,
    ) -> None:
        if max_batch_size < 1:
            raise InvalidConfig(f"max_batch_size must be at least 1, not {max_batch_size}.")
        config = getattr(model, "config", None)
        self.model = model
        self.weights_version = weights_version
        self._tokenizer = tokenizer
        self._eos = frozenset(
            _eos_token_ids(model, tokenizer) if eos_token_ids is None else eos_token_ids
        )
        self._max_context = max_context or getattr(config, "max_position_embeddings", None)
        if self._max_context is None:
            raise InvalidConfig("the model's config tells no context length: pass max_context.")
        self._vocabulary = _vocabulary(model)
        self._seed = secrets.randbits(64) if seed is None else seed
        self._turns: OrderedDict[str, int] = OrderedDict()
        pad = getattr(tokenizer, "pad_token_id", None) or 0
        self._compiler: ConstraintCompiler | None = None
        self._worker = DecodeWorker(model, DecodeBatch(model, pad), max_batch_size)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        allow_download: bool = False,
        **options: Any,
    ) -> Self:
        """Load model and tokenizer from a folder, or from what is in the Hugging Face cache.

        Args:
            path: Folder, or name of a model on the Hub.
            dtype: Type of the weights; as they were saved by default.
            device: Where to put the model.
            allow_download: Whether a model that is not here may be fetched from the Hub.
            **options: Passed to the constructor.

        Raises:
            InvalidConfig: If there is no such model here.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        here = {"local_files_only": not allow_download}
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **here)
            model: nn.Module = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **here)
        except OSError as error:
            raise InvalidConfig(
                f"there is no model at {str(path)!r}: {error} Fix: give a folder that holds one, "
                "or pass allow_download=True to fetch it from the Hub."
            ) from error
        return cls(model.to(device).eval(), tokenizer, **options)

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
            ModelError: If the prompt doesn't fit, has ids the model doesn't know, or decoding
                fails. The generator stays usable.
            InvalidConfig: If a sampling setting is out of range, or a constraint can't be read.
            Unsupported: If there is media, an unknown sampling setting, or a stop string or a
                constraint without a tokenizer.
        """
        if media:
            raise Unsupported("the transformers generator takes text only, and there is media.")
        row = self._row(prompt_ids, sampling, request_id)
        constraint = constraint_of(sampling, any_temperature=True)
        if constraint is not None:
            row.constraint = await asyncio.to_thread(
                self._constraints().compile, constraint, row.stop_token_ids
            )
        version = self.weights_version() if callable(self.weights_version) else self.weights_version
        loop = asyncio.get_running_loop()
        request = Request(row, loop, loop.create_future())
        self._worker.submit(request)
        try:
            # Not the future itself: cancelling it would lose the worker's word that it let go.
            await asyncio.wait([request.done])
        except asyncio.CancelledError:
            self._worker.cancel(request)
            await asyncio.wait([request.done], timeout=PATIENCE)
            with suppress(ModelError, asyncio.InvalidStateError):
                request.done.result()
            raise
        request.done.result()
        if row.failure is not None:
            raise row.failure
        extras = {} if constraint is None else {CONSTRAINED_LOGPROBS: row.constrained_logprobs}
        return Generation(row.token_ids, row.logprobs, row.finish_reason, version, extras)

    async def aclose(self) -> None:
        """Fail what is still waiting and end the thread. The model is left as it is."""
        await asyncio.to_thread(self._worker.close, PATIENCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _row(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, request_id: str
    ) -> DecodeRow:
        check_sampling(sampling)
        if sampling.stop and self._tokenizer is None:
            raise Unsupported("stop strings need a tokenizer: pass one to TransformersGenerator.")
        ids = [int(token) for token in prompt_ids]
        if not ids:
            raise ModelError("the prompt is empty, and there is nothing to continue.")
        # Checked here because on a GPU a bad id would take down the whole process.
        if min(ids) < 0 or (self._vocabulary is not None and max(ids) >= self._vocabulary):
            raise ModelError(
                f"the prompt has ids from {min(ids)} to {max(ids)}, and the model knows "
                f"{self._vocabulary}: is this its tokenizer?"
            )
        room = (self._max_context or 0) - len(ids)
        if room < 1:
            raise ModelError(
                f"a prompt of {len(ids)} tokens leaves no room in a context of {self._max_context}."
            )
        return DecodeRow(
            prompt_ids=ids,
            sampling=sampling,
            limit=min(room, sampling.max_tokens or room),
            stop_token_ids=self._eos.union(sampling.stop_token_ids),
            random=self._random(sampling, request_id),
            decode=self._decode if sampling.stop else None,
        )

    def _constraints(self) -> ConstraintCompiler:
        if self._compiler is None:
            if self._tokenizer is None:
                raise Unsupported(
                    "constrained turns need a tokenizer: pass one to TransformersGenerator."
                )
            self._compiler = ConstraintCompiler(self._tokenizer, self._vocabulary or 0)
        return self._compiler

    def _decode(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids) if self._tokenizer is not None else ""
        return text if isinstance(text, str) else "".join(text)

    def _random(self, sampling: SamplingParams, request_id: str) -> Random:
        turn = self._turns.pop(request_id, 0)
        self._turns[request_id] = turn + 1
        if len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)
        # Text seeds are hashed with SHA-512, so the streams of like seeds are not alike.
        if sampling.seed is not None:
            return Random(f"turn {sampling.seed}")
        return Random(f"{self._seed} {turn} {request_id}")


def _eos_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> set[int]:
    found: set[int] = set()
    for holder in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        eos = getattr(holder, "eos_token_id", None)
        if eos is not None:
            found.update([eos] if isinstance(eos, int) else eos)
            break
    own = getattr(tokenizer, "eos_token_id", None)
    return found if own is None else found | {own}


def _vocabulary(model: nn.Module) -> int | None:
    embeddings = getattr(model, "get_input_embeddings", None)
    size = getattr(embeddings() if embeddings is not None else None, "num_embeddings", None)
    return size if isinstance(size, int) else None
