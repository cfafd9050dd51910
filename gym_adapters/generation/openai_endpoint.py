"""A chat model behind an OpenAI-compatible address: OpenAI itself, vLLM, SGLang, llama.cpp ...

It keeps no tokens, so it serves collection and evaluation, and not training.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from gym_adapters.errors import InvalidConfig, ModelError, RolloutTimeout, Unsupported
from gym_adapters.generation.addresses import Address, Addresses, check_address, check_key
from gym_adapters.generation.chat import ModelTurn
from gym_adapters.generation.chat_completions import ChatCompletionsWire
from gym_adapters.generation.connections import connections
from gym_adapters.generation.endpoint_errors import means_context, problem_of, retry_after
from gym_adapters.generation.endpoint_wire import UnreadableReply, Wire, decoded, encoded
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.generation.responses_wire import ResponsesWire
from gym_adapters.items import FunctionTool, Item
from gym_adapters.segment import Segment

__all__ = ["Api", "ContextExceeded", "EndpointDown", "EndpointRefused", "OpenAIEndpoint", "Place"]

log = logging.getLogger(__name__)

Api = Literal["chat", "responses"]

# Sampling changes nothing on the server, so asking again is safe; these may pass by themselves.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
# Nobody gets a turn from this address with this key and this model name.
HOPELESS = frozenset({401, 403, 404})
LONGEST_PAUSE = 30.0
# Seconds between looks at whether an address is up again.
POLL = 0.5


class EndpointRefused(ModelError):
    """The address, the key or the model's name is wrong: no request will ever succeed."""


class EndpointDown(ModelError):
    """No address of the endpoint has answered for so long that waiting has no more sense."""


class ContextExceeded(ModelError):
    """The conversation does not fit into the model's context."""


class OpenAIEndpoint:
    """A `ChatModel` over HTTP. Use it as an async context manager: it holds a pool of connections.

    A request that failed in passing (no connection, 429, 5xx) is repeated with growing, jittered
    pauses, or after the pause that the server asks for, until `attempts` or `deadline` are used up.

    Args:
        model: The model's name at the endpoint.
        base_url: Its address, up to and with ``/v1``. Of several, each conversation stays with the
            one that had the least to do when it began, and moves on while that one is down.
        api: Chat Completions or the Responses API.
        api_key: Sent as a bearer token; never logged or recorded.
        deadline: Seconds for one turn, pauses and repetitions included.
        attempts: Most requests for one turn.
        max_connections: Most connections open at once; by default as many as requests are under
            way, within what the process may open for all its endpoints.
        seed: Makes the seed of each turn a function of it, the rollout and the turn, where the API
            takes one; ``None`` sends none.

    Attributes:
        refused: Why no request will ever succeed, once that is known.

    Raises:
        InvalidConfig: If the address is none, or the key can't be sent.
    """

    def __init__(
        self,
        model: str,
        base_url: str | Sequence[str],
        *,
        api: Api = "chat",
        api_key: str | None = None,
        deadline: float = 600.0,
        attempts: int = 6,
        max_connections: int | None = None,
        seed: int | None = None,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else base_url
        if not urls:
            raise InvalidConfig(f"the endpoint of {model!r} needs an address")
        for url in urls:
            check_address(model, url)
        self._model, self._api = model, api
        self._addresses = Addresses([Address(url.rstrip("/")) for url in urls])
        self._wire: Wire = ResponsesWire() if api == "responses" else ChatCompletionsWire()
        self._headers = {"Content-Type": "application/json"}
        self._key = api_key
        if api_key:
            check_key(api_key)
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._deadline, self._attempts = deadline, attempts
        self._max_connections, self._seed = max_connections, seed
        self._client: aiohttp.ClientSession | None = None
        self._open = AsyncExitStack()
        self.refused: str | None = None

    @property
    def name(self) -> str:
        """Model and addresses, as a model spec."""
        scheme = "openai-responses" if self._api == "responses" else "openai"
        return f"{scheme}:{self._model}@{self._where}"

    @property
    def _where(self) -> str:
        return ",".join(address.url for address in self._addresses.all)

    @property
    def template_hash(self) -> str | None:
        """``None``: it keeps no tokens."""
        return None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            connector = await stack.enter_async_context(connections(self._max_connections))
            self._client = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector,
                    connector_owner=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
                    headers=self._headers,
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
            )
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client = None
        await self._open.aclose()

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> _EndpointSession:
        """A fresh conversation."""
        settings = self._wire.settings(self._model, tools, sampling)
        seed = sampling.seed if sampling.seed is not None else self._seed
        return _EndpointSession(self, self._wire, settings, request_id, seed)

    async def ask(self, body: bytes, place: Place | None = None) -> Mapping[str, Any]:
        """Post one request, again where that may help, and decode the answer.

        Args:
            body: The request.
            place: Which address the conversation is at; changed where it moves.

        Raises:
            ContextExceeded: If the conversation is too long.
            EndpointRefused: If no request will ever succeed.
            EndpointDown: If no address has answered for long.
            RolloutTimeout: If the deadline passed.
            ModelError: If the endpoint fails otherwise.
        """
        end = time.monotonic() + self._deadline
        try:
            async with asyncio.timeout(self._deadline):
                return await self._ask(body, end, place if place is not None else Place())
        except TimeoutError as error:
            raise RolloutTimeout(
                f"{self._where} gave no turn within {self._deadline:g} s"
            ) from error

    async def _ask(self, body: bytes, end: float, place: Place) -> Mapping[str, Any]:
        for attempt in range(1, self._attempts + 1):
            address = place.address = await self._ready(place.address)
            pause: float | None = None
            try:
                return await self._post(address, body, place)
            except _Passing as failure:
                problem: Exception = failure
                pause = failure.pause
                if pause is not None:
                    address.rest(pause)
            except (aiohttp.ClientError, ConnectionError) as failure:
                problem = failure
            if self._addresses.another(address) and not address.free:
                pause = 0.0
            elif pause is None:
                pause = min(0.5 * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            said = str(problem) or type(problem).__name__
            if attempt == self._attempts or time.monotonic() + pause >= end:
                raise ModelError(
                    f"{address.url} failed {attempt} time(s), at last with: {said}"
                ) from problem
            log.info("%s: %s; asking again in %.1f s", address.url, said, pause)
            await asyncio.sleep(pause)
        raise ModelError(f"{self._where} was not asked: attempts must be at least 1")

    async def _ready(self, last: Address | None) -> Address:
        """The address to ask, once one is up."""
        while (address := self._addresses.choose(last)) is None:
            if self._addresses.given_up:
                self.refused = (
                    f"{self._where} has been down for too long. "
                    "Fix: see that it runs, then go on with --resume"
                )
                raise EndpointDown(self.refused)
            await asyncio.sleep(min(POLL, LONGEST_PAUSE))
        return address

    async def _post(self, address: Address, body: bytes, place: Place) -> Mapping[str, Any]:
        if self._client is None:
            raise RuntimeError("enter the endpoint (async with) before using it")
        url = f"{address.url}/{self._wire.path}"
        tries = address.asked()
        try:
            # A redirect would take the key elsewhere.
            async with self._client.post(url, data=body, allow_redirects=False) as answer:
                content = await answer.read()
            if answer.status >= 500:
                place.failed_at(address, answer.status, tries)
            else:
                address.answered()
        except (aiohttp.ClientError, ConnectionError):
            address.failed(LONGEST_PAUSE, tries=tries)
            raise
        finally:
            address.done(tries)
        if answer.status != 200:
            self._raise_for(address.url, answer.status, content, answer.headers)
        try:
            data = decoded(content)
        except ValueError as error:
            raise UnreadableReply(f"{url} answered with something that is not JSON") from error
        if not isinstance(data, dict):
            raise UnreadableReply(f"{url} answered with JSON that is not an object")
        return data

    def _raise_for(self, url: str, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        code, text = problem_of(content, self._key)
        said = f"{url} answered {status}: {text}"
        if means_context(code, text) and status in (400, 413, 422):
            raise ContextExceeded(said)
        if status in HOPELESS:
            self.refused = f"{said}. Fix: check address, model name and OPENAI_API_KEY"
            raise EndpointRefused(self.refused)
        if status in PASSING and code != "insufficient_quota":
            raise _Passing(said, retry_after(headers))
        raise ModelError(said)


@dataclass(slots=True)
class Place:
    """Where a conversation is: the address that answered it last."""

    address: Address | None = None
    _blamed: set[str] = field(default_factory=set)

    def failed_at(self, address: Address, status: int, tries: bool) -> None:
        """Count a server's error against the address.

        A request that a server can't stomach answers 500 each time it is asked again, and says
        nothing about others: such an error counts once a conversation. 502 and its like come from
        what stands before a server that is down.
        """
        if status != 500 or address.url not in self._blamed or not address.trusted:
            address.failed(LONGEST_PAUSE, tries=tries)
        if status == 500:
            self._blamed.add(address.url)


class _Passing(Exception):
    """A failure that may pass; `pause` is what the server asks to wait, in seconds."""

    def __init__(self, said: str, pause: float | None) -> None:
        self.pause = pause
        super().__init__(said)


class _EndpointSession:
    """One conversation. Each item is encoded once; a request joins what is there already."""

    def __init__(
        self,
        endpoint: OpenAIEndpoint,
        wire: Wire,
        settings: Mapping[str, Any],
        request_id: str,
        seed: int | None,
    ) -> None:
        self._endpoint, self._wire = endpoint, wire
        self._settings, self._request_id, self._seed = settings, request_id, seed
        self._history: list[bytes] = []
        self._call_ids: set[str] = set()
        self._turn = 0
        self._place = Place()

    @property
    def segments(self) -> Sequence[Segment]:
        return ()

    async def respond(
        self, new_items: Sequence[Item], *, constraint: Mapping[str, Any] | None = None
    ) -> ModelTurn | None:
        if constraint is not None:
            raise Unsupported(
                f"{self._endpoint.name} can't be held to {' or '.join(constraint)}: use a model of "
                "vllm or transformers, or switch the environment's constraints off."
            )
        self._call_ids.update(
            item["call_id"] for item in new_items if item["type"] == "function_call"
        )
        self._history.extend(self._wire.entries(new_items))
        try:
            data = await self._endpoint.ask(self._body(), self._place)
        except ContextExceeded:
            if self._turn == 0:
                # Not the model's doing: the prompt, or the budget of a turn, is too large for it.
                raise
            return None
        reply = self._wire.reply(data, self._call_ids)
        self._history.extend(reply.history)
        self._turn += 1
        return reply.turn

    def _body(self) -> bytes:
        settings = dict(self._settings)
        if self._seed is not None:
            settings.update(self._wire.seed(_turn_seed(self._seed, self._request_id, self._turn)))
        head = encoded(settings)[:-1]
        key = encoded(self._wire.history_key)
        return b"%b,%b:[%b]}" % (head, key, b",".join(self._history))


def _turn_seed(seed: int, request_id: str, turn: int) -> int:
    packed = f"{seed}:{request_id}:{turn}".encode()
    return int.from_bytes(blake2b(packed, digest_size=8).digest())
