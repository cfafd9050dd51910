"""The vLLM server that TRL keeps the weights of, over HTTP: token ids in, token ids out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.generation.constrained import refuse_constraint
from gym_adapters.generation.protocol import Generation, SamplingParams

__all__ = ["ServedVllm", "server_generator"]

# Seconds for one turn, at most; a rollout's own turn timeout is usually shorter.
TURN_TIMEOUT = 3600.0


def server_generator(trainer: Any) -> ServedVllm:
    """A generator over the server whose weights the trainer pushes; every process asks itself."""
    args, state = trainer.args, trainer.state
    url = args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"
    return ServedVllm(url, lambda: int(state.global_step))


class ServedVllm:
    """A `TokenGenerator` over vLLM's ``/v1/completions``.

    The server must run with ``--logprobs-mode processed_logprobs``, as TRL asks for.

    Args:
        base_url: Of the server, without ``/v1``.
        weights_version: Asked for when a turn begins.
    """

    def __init__(self, base_url: str, weights_version: Callable[[], int | str | None]) -> None:
        self._url = base_url.rstrip("/")
        self._weights_version = weights_version
        self._model: str | None = None
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

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
            ModelError: If the server can't be reached, refuses, or answers with something else.
            Unsupported: If there is media, or a constraint.
            InvalidConfig: Without a token budget: the server would take 16 for one.
        """
        if media:
            raise Unsupported("the vLLM server is asked for text only, and there is media.")
        if sampling.max_tokens is None:
            raise InvalidConfig("a turn of a vLLM server needs max_tokens.")
        refuse_constraint(sampling, "TRL's vLLM server")
        version = self._weights_version()
        body = {
            "model": await self._model_name(),
            "prompt": list(prompt_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop_token_ids": list(sampling.stop_token_ids),
            "stop": list(sampling.stop),
            "logprobs": 0,
            "return_token_ids": True,
            "request_id": request_id,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
            **sampling.extras,
        }
        answer = await self._ask("POST", "/v1/completions", body)
        return _generation(answer, version)

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _model_name(self) -> str:
        if self._model is None:
            answer = await self._ask("GET", "/v1/models")
            try:
                self._model = str(answer["data"][0]["id"])
            except (KeyError, IndexError, TypeError) as error:
                raise ModelError(f"{self._url} serves no model: {answer!r:.200}") from error
        return self._model

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self._url}{path}"
        try:
            async with self._connected().request(method, url, json=body) as response:
                if response.status != 200:
                    text = (await response.text())[:500]
                    raise ModelError(f"{url} answers {response.status}: {text}")
                return await response.json()
        except (aiohttp.ClientError, ValueError) as error:
            raise ModelError(f"{url}: {type(error).__name__}: {error}") from error

    def _connected(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            # A session belongs to a loop, and the environment's may have been ended and begun anew.
            self._loop = loop
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TURN_TIMEOUT, sock_connect=30),
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session


def _generation(answer: Any, version: int | str | None) -> Generation:
    try:
        (choice,) = answer["choices"]
        ids = [int(token) for token in choice["token_ids"]]
        logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        reason = choice["finish_reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"vLLM's answer can't be read: {answer!r:.500}") from error
    if reason not in ("stop", "length"):
        raise ModelError(f"vLLM ended a turn early: {reason}")
    return Generation(ids, logprobs, reason, version)
