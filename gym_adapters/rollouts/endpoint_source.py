"""The model specs ``openai:NAME@URL`` and ``openai-responses:NAME@URL``, of one or more URLs."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from gym_adapters.environment import Environment
from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.chat import ChatModel
from gym_adapters.generation.openai_endpoint import Api, OpenAIEndpoint
from gym_adapters.rollouts.models import ModelSource, SourceBase
from gym_adapters.task import Task

__all__ = ["EndpointSource", "openai_responses_source", "openai_source"]

KEY = "OPENAI_API_KEY"


class EndpointSource(SourceBase):
    """An endpoint for all rollouts; ends the run once it says that no request will ever succeed."""

    def __init__(self, endpoint: OpenAIEndpoint) -> None:
        super().__init__(endpoint.name)
        self._endpoint = endpoint

    async def __aenter__(self) -> Self:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._endpoint.__aexit__(kind, error, trace)

    def for_rollout(
        self, environment: type[Environment[Any]], task: Task, rollout_index: int = 0
    ) -> ChatModel:
        """The endpoint.

        Raises:
            InvalidConfig: If it has said that address, key or model name is wrong, or is gone.
        """
        if self._endpoint.refused is not None:
            raise InvalidConfig(self._endpoint.refused)
        return self._endpoint


def openai_source(argument: str, seed: int) -> ModelSource:
    """``openai:NAME@URL``: Chat Completions."""
    return _source(argument, seed, "chat")


def openai_responses_source(argument: str, seed: int) -> ModelSource:
    """``openai-responses:NAME@URL``: the Responses API."""
    return _source(argument, seed, "responses")


def _source(argument: str, seed: int, api: Api) -> ModelSource:
    at = max(argument.find("@http://"), argument.find("@https://"))
    if at < 1:
        # No address is assumed: nothing may reach the network, or an account, by default.
        raise InvalidConfig(
            f"an endpoint is written as NAME@URL, e.g. openai:my-model@http://localhost:8000/v1, "
            f"and {argument!r} is not"
        )
    name, urls = argument[:at], [url.strip() for url in argument[at + 1 :].split(",")]
    # A file that held it ends in a newline more often than not.
    key = os.environ.get(KEY, "").strip() or None
    return EndpointSource(OpenAIEndpoint(name, urls, api=api, api_key=key, seed=seed))
