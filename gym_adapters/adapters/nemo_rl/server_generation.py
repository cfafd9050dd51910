"""NeMo RL's vLLM servers as a `TokenGenerator`, to the token.

The servers speak chat only. But a request may carry ``required_prefix_token_ids``, which replace
what the chat template makes of the conversation, up to its last end-of-sequence token. So the whole
context but its last few tokens, which open the assistant's turn, is given as ids; those few come
from the template, rendered by the server. Each answer tells the ids that were read: they are
compared with the context, and an answer to any other context is refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from gym_adapters.errors import InvalidConfig, ModelError, RolloutTimeout, Unsupported
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.vllm_http import VLLMHttpGenerator
from gym_adapters.generation.vllm_sampling import finish_reason_of

__all__ = ["NemoServerGenerator"]

# The conversation whose opening of the assistant's turn is borrowed.
_ASK = ({"role": "user", "content": "-"},)


class NemoServerGenerator(VLLMHttpGenerator):
    """Samples from the servers that ``expose_http_server`` starts.

    All turns of a rollout go to the same server. Passing failures are repeated, as in
    `VLLMHttpGenerator`.

    Args:
        urls: ``dp_openai_server_base_urls``.
        model: The served name.
        eos_token_id: The tokenizer's; the servers cut there.
        template_kwargs: Variables for the chat template.
        deadline: Seconds for one turn, pauses and repetitions included.
        attempts: Most requests for one turn.

    Raises:
        InvalidConfig: If an address is none.
        MissingExtra: Without aiohttp.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        model: str,
        eos_token_id: int,
        template_kwargs: Mapping[str, Any] | None = None,
        deadline: float = 600.0,
        attempts: int = 4,
    ) -> None:
        super().__init__(urls, model=model, deadline=deadline, attempts=attempts)
        self.served = model
        self._eos = eos_token_id
        self._template_kwargs = dict(template_kwargs or {})
        self._count = itertools.count()

    async def max_context(self) -> int | None:
        """Most tokens of context and turn together; ``None`` where the servers don't tell.

        Raises:
            ModelError: If the servers can't be reached.
        """
        body = {"model": self.served, "messages": list(_ASK)}
        # Where the others of these routes are below /v1, this one isn't.
        answer = await self._asked("POST", f"{self._urls[0]}/tokenize", body)
        told = answer.get("max_model_len") if isinstance(answer, dict) else None
        return told if isinstance(told, int) else None

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
            InvalidConfig: If there is no ``max_tokens``.
            ModelError: If the server can't be reached, refuses, or answers something else.
            RolloutTimeout: If the deadline passed.
            Unsupported: If the template opens the assistant's turn otherwise than `prompt_ids` do,
                or there is media, or a setting that the servers refuse.
        """
        if media:
            raise Unsupported("NeMo RL's server is given text only here, and there is media.")
        ids = list(prompt_ids)
        body = self._body(ids, sampling)
        url = self._urls[crc32(request_id.encode()) % len(self._urls)]
        headers = {"X-Request-Id": f"{request_id}#{next(self._count)}"}
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._asked("POST", f"{url}/v1/chat/completions", body, headers)
        except TimeoutError as error:
            raise RolloutTimeout(f"{url} gave no turn within {self._deadline:g} s") from error
        return _generation(answer, ids, url)

    def _body(self, ids: list[int], sampling: SamplingParams) -> dict[str, Any]:
        if sampling.max_tokens is None:
            raise InvalidConfig("NeMo RL's server is asked for turns without a token budget.")
        if sampling.top_k or sampling.stop or sampling.extras:
            raise Unsupported(
                "NeMo RL's server takes temperature and top_p only; leave out top_k, stop strings "
                "and engine settings."
            )
        body: dict[str, Any] = {
            "model": self.served,
            "messages": list(_ASK),
            "required_prefix_token_ids": ids[: _after_last(ids, self._eos)],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
            "logprobs": True,
            "top_logprobs": 0,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        if self._template_kwargs:
            body["chat_template_kwargs"] = self._template_kwargs
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        return body


def _after_last(ids: Sequence[int], eos: int) -> int:
    for position in range(len(ids) - 1, -1, -1):
        if ids[position] == eos:
            return position + 1
    raise Unsupported(
        "the context holds no end-of-sequence token of the tokenizer, where NeMo RL's server would "
        "join it to the template. Fix: use a tokenizer whose eos_token ends turns."
    )


def _generation(answer: Any, asked: list[int], url: str) -> Generation:
    try:
        (choice,) = answer["choices"]
        said = choice["message"]
        read = [int(token) for token in said["prompt_token_ids"]]
        sampled = [int(token) for token in said["generation_token_ids"]]
        logprobs = [float(number) for number in said["generation_log_probs"]]
        finish_reason = finish_reason_of(choice["finish_reason"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{url} gave an answer without tokens: {answer!r:.300}") from error
    if read != asked:
        raise Unsupported(
            f"NeMo RL's server read {len(read)} tokens where it was given {len(asked)}: its chat "
            "template opens the assistant's turn in another way. Fix: give both the same template "
            "and template_kwargs, one that ends every message with the end-of-sequence token."
        )
    if len(logprobs) != len(sampled):
        raise ModelError(f"{url} gave {len(logprobs)} log-probabilities for {len(sampled)} tokens")
    return Generation(sampled, logprobs, finish_reason)
