"""A `TokenGenerator` over vLLM servers: token ids in, token ids and log-probabilities out.

It speaks to ``vllm serve``, to the server whose weights TRL pushes, and to verl's replicas. Start
servers with ``--logprobs-mode processed_logprobs``: without it log-probabilities leave out the
temperature, and a server only says which it gives in development mode (``VLLM_SERVER_DEV_MODE=1``).

Seeds are passed on; don't send any to vLLM's CPU build, which dies on a seeded request whose
context it reads in more than one step.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self
from urllib.parse import urlsplit
from zlib import crc32

import orjson

from gym_adapters.errors import InvalidConfig, ModelError, RolloutTimeout, Unsupported
from gym_adapters.extras import require
from gym_adapters.generation.connections import connection_limit
from gym_adapters.generation.constrained import constraint_of
from gym_adapters.generation.endpoint_errors import problem_of
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.vllm_sampling import (
    finish_reason_of,
    sampling_fields,
    scored_logprobs,
    scoring_fields,
    token_ids_of,
    with_policy_logprobs,
)

if TYPE_CHECKING:
    from aiohttp import ClientSession

__all__ = ["Route", "VLLMHttpGenerator"]

log = logging.getLogger(__name__)

Route = Literal["completions", "generate"]
"""``/v1/completions``, which every server has, or ``/inference/v1/generate``, which ``vllm serve
--enable-scale-out`` has and which never makes text of tokens."""

WeightsVersion = int | str | Callable[[], int | str | None] | None

# Answers of a server that is busy or coming up: it has not taken the request.
PASSING = frozenset({429, 502, 503, 504})
LONGEST_PAUSE = 8.0
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class _Server:
    """What a server says of itself."""

    model: str
    max_context: int | None


class _Reply(NamedTuple):
    """What is read of an answer, whichever the route."""

    token_ids: list[int]
    logprobs: list[float | None]
    finish_reason: str | None
    prompt_logprobs: Any


class VLLMHttpGenerator:
    """Samples from one or several vLLM servers of the same model.

    All turns of a rollout go to the same server, where its context is cached. Sampling has no side
    effects, so a request whose connection failed, or that a busy server sent away, is made again,
    after a pause; nothing else is. Cancelling a call closes its connection, and vLLM then aborts
    the request.

    Args:
        urls: Addresses of the servers, without ``/v1``; one or several.
        model: The served name, that of an adapter (LoRA) say; by default the first one served.
        route: Which of vLLM's addresses to use.
        api_key: Sent as a bearer token; never logged.
        weights_version: Stamped on each turn; a function is asked when the turn begins.
        deadline: Seconds for one turn, pauses and repetitions included.
        attempts: Most requests for one turn.
        max_connections: Most connections open at once; by default as many as requests are under
            way, within what the process may open.

    Raises:
        InvalidConfig: If an address is none.
        MissingExtra: Without aiohttp.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        model: str | None = None,
        route: Route = "completions",
        api_key: str | None = None,
        weights_version: WeightsVersion = None,
        deadline: float = 600.0,
        attempts: int = 4,
        max_connections: int | None = None,
    ) -> None:
        require("aiohttp", "remote", "a vLLM server")
        self._urls = [_address(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not self._urls or attempts < 1 or deadline <= 0:
            raise InvalidConfig(
                "a vLLM server needs an address, an attempt and a deadline above 0."
            )
        self._model = model
        self._route: _Wire = _COMPLETIONS if route == "completions" else _GENERATE
        self._headers = {"Content-Type": "application/json"}
        self._key = api_key
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.weights_version = weights_version
        self._deadline, self._attempts = deadline, attempts
        self._max_connections = max_connections
        self._numbers = itertools.count()
        self._servers: dict[str, _Server] = {}
        self._pool: tuple[asyncio.AbstractEventLoop, ClientSession] | None = None
        self._stale: list[ClientSession] = []

    async def max_context(self) -> int | None:
        """Most tokens of context and turn together; ``None`` where the servers don't tell.

        Raises:
            ModelError: If a server can't be reached.
        """
        servers = [await self._server(url) for url in self._urls]
        return min((each.max_context for each in servers if each.max_context), default=None)

    async def served_models(self) -> frozenset[str]:
        """The names that all servers know just now, those of adapters (LoRA) among them.

        Raises:
            ModelError: If a server can't be reached.
        """
        answers = [await self._asked("GET", f"{url}/v1/models") for url in self._urls]
        try:
            known = [{str(each["id"]) for each in answer["data"]} for answer in answers]
        except (KeyError, TypeError) as error:
            raise ModelError(f"the list of models can't be read: {answers!r:.300}") from error
        return frozenset.intersection(*map(frozenset, known))

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
            InvalidConfig: If a sampling setting is out of range, or the server gives raw
                log-probabilities.
            ModelError: If the server can't be reached, refuses, or answers something else.
            RolloutTimeout: If the deadline passed.
            Unsupported: If there is media.
        """
        if media:
            raise Unsupported("VLLMHttpGenerator takes text only, and there is media.")
        ids = token_ids_of(prompt_ids)
        url = self._urls[crc32(request_id.encode()) % len(self._urls)]
        version = self.weights_version() if callable(self.weights_version) else self.weights_version
        try:
            async with asyncio.timeout(self._deadline):
                reply = await self._sampled(url, ids, sampling_fields(sampling), request_id)
                turn = _generation(reply, version)
                if constraint_of(sampling) is None:
                    return turn
                context = [*ids, *turn.token_ids]
                scored = await self._sampled(url, context, scoring_fields(), request_id)
        except TimeoutError as error:
            raise RolloutTimeout(f"{url} gave no turn within {self._deadline:g} s") from error
        return with_policy_logprobs(turn, scored_logprobs(scored.prompt_logprobs, turn.token_ids))

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""
        sessions = self._stale if self._pool is None else [*self._stale, self._pool[1]]
        self._pool, self._stale = None, []
        for session in sessions:
            # Those of an event loop that ended before can't say goodbye.
            with suppress(RuntimeError):
                await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _sampled(
        self, url: str, ids: list[int], fields: dict[str, Any], request_id: str
    ) -> _Reply:
        server = await self._server(url)
        if fields["max_tokens"] is None:
            # Left out, it would be 16.
            if server.max_context is None:
                raise InvalidConfig(f"{url} doesn't tell its context length: max_tokens is needed.")
            fields = {**fields, "max_tokens": max(1, server.max_context - len(ids))}
        headers = {
            "X-Request-Id": f"{request_id}#{next(self._numbers)}",
            "X-Session-Id": request_id,
        }
        body = self._route.body(server.model, ids, fields)
        answer = await self._asked("POST", f"{url}{self._route.path}", body, headers)
        try:
            return self._route.reply(answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(f"{url} gave an answer without tokens: {answer!r:.300}") from error

    async def _server(self, url: str) -> _Server:
        if url not in self._servers:
            answer = await self._asked("GET", f"{url}/v1/models")
            try:
                served = {str(each["id"]): each.get("max_model_len") for each in answer["data"]}
                name = next(iter(served)) if self._model is None else self._model
            except (KeyError, TypeError, StopIteration) as error:
                raise ModelError(f"{url} serves no model: {answer!r:.300}") from error
            if name not in served:
                raise InvalidConfig(f"{url} serves no {name!r}, but {', '.join(served)}.")
            lengths = [length for length in served.values() if length]
            await self._check_logprobs(url)
            self._servers[url] = _Server(name, served[name] or min(lengths, default=None))
        return self._servers[url]

    async def _check_logprobs(self, url: str) -> None:
        """Refuse raw log-probabilities, where the server tells."""
        try:
            info = await self._asked("GET", f"{url}/server_info?config_format=json")
            mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        except (ModelError, KeyError, TypeError):
            return
        if mode != "processed_logprobs":
            raise InvalidConfig(
                f"{url} gives log-probabilities of the kind {mode!r}, which leave out the "
                "temperature. Fix: start it with --logprobs-mode processed_logprobs."
            )

    async def _asked(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        import aiohttp

        attempt = 1
        while True:
            try:
                return await self._once(method, url, body, headers)
            except (aiohttp.ClientConnectionError, _BusyError) as error:
                problem = error
            except aiohttp.ClientError as error:
                raise ModelError(f"{url}: {type(error).__name__}: {error}") from error
            if attempt >= self._attempts:
                said = str(problem) or type(problem).__name__
                raise ModelError(f"{url} failed {attempt} time(s), at last with: {said}")
            pause = min(0.25 * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            log.info("%s: %s; asking again in %.1f s", url, problem, pause)
            await asyncio.sleep(pause)
            attempt += 1

    async def _once(
        self,
        method: str,
        url: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> Any:
        data = None if body is None else orjson.dumps(body)
        # A redirect would take the key elsewhere.
        async with self._session().request(
            method, url, data=data, headers=headers, allow_redirects=False
        ) as answer:
            content = await answer.read()
        if answer.status != 200:
            _, said = problem_of(content, self._key)
            if answer.status in PASSING:
                raise _BusyError(f"{answer.status}: {said}")
            raise ModelError(f"{url} answered {answer.status}: {said}")
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise ModelError(f"{url} answered with something that is not JSON") from error

    def _session(self) -> ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        if self._pool is not None and self._pool[0] is not loop:
            # Connections belong to a loop; a trainer's may have ended and begun anew.
            self._stale.append(self._pool[1])
            self._pool = None
        if self._pool is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=connection_limit(self._max_connections)),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._pool = (loop, session)
        return self._pool[1]


class _BusyError(Exception):
    """The server sent the request away untouched."""


class _Wire(Protocol):
    """How one of vLLM's addresses is spoken to."""

    @property
    def path(self) -> str: ...

    def body(self, model: str, ids: list[int], fields: Mapping[str, Any]) -> dict[str, Any]: ...

    def reply(self, answer: Any) -> _Reply: ...


class _CompletionsWire:
    path = "/v1/completions"

    def body(self, model: str, ids: list[int], fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model, "prompt": ids, "return_token_ids": True, **fields}

    def reply(self, answer: Any) -> _Reply:
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"]["token_logprobs"] if choice.get("logprobs") else []
        return _Reply(
            [int(token) for token in choice["token_ids"]],
            list(logprobs),
            choice["finish_reason"],
            choice.get("prompt_logprobs"),
        )


class _GenerateWire:
    path = "/inference/v1/generate"

    def body(self, model: str, ids: list[int], fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model, "token_ids": ids, "sampling_params": {**fields, **FINAL_ONLY}}

    def reply(self, answer: Any) -> _Reply:
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"]["content"] if choice.get("logprobs") else []
        return _Reply(
            [int(token) for token in choice["token_ids"]],
            [each["logprob"] for each in logprobs],
            choice["finish_reason"],
            answer.get("prompt_logprobs"),
        )


# vLLM's RequestOutputKind.FINAL_ONLY: on this address it has no default that gives whole turns.
FINAL_ONLY = {"output_kind": 2}
_COMPLETIONS = _CompletionsWire()
_GENERATE = _GenerateWire()


def _generation(reply: _Reply, version: int | str | None) -> Generation:
    finish_reason = finish_reason_of(reply.finish_reason)
    logprobs = [each for each in reply.logprobs if each is not None]
    if len(logprobs) != len(reply.token_ids):
        raise ModelError("vLLM gave no log-probability for each sampled token.")
    return Generation(reply.token_ids, logprobs, finish_reason, version)


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidConfig(
            f"a vLLM server needs an address like http://localhost:8000, not {url!r}."
        )
    return url.rstrip("/").removesuffix("/v1")
