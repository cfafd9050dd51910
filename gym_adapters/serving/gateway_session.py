"""One agent's session at the gateway, and what it amounts to when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gym_adapters.agents.remote_agent import ToolCaller
from gym_adapters.errors import Boundary, boundary
from gym_adapters.generation.chat import ModelTurn
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.items import Item
from gym_adapters.reward import StopReason
from gym_adapters.rollout import TokenUsage
from gym_adapters.segment import Segment
from gym_adapters.serving.captured import CapturedConversation, ContextFull
from gym_adapters.serving.http_errors import HttpError
from gym_adapters.serving.openai_requests import ModelRequest

__all__ = ["CapturedSession", "GatewaySession"]


@dataclass(frozen=True, slots=True)
class CapturedSession:
    """What a session amounts to.

    Attributes:
        name: The session.
        model: The policy's name.
        output: What was said after the first prompt.
        segments: Exact tokens, one training sample each.
        usage: Tokens read and sampled, and model calls.
        expired: Whether nobody ended it.
        overridden: Sampling settings that the agent asked for and did not get.
    """

    name: str
    model: str
    output: tuple[Item, ...]
    segments: tuple[Segment, ...]
    usage: TokenUsage
    expired: bool = False
    overridden: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As one JSON-serialisable object."""
        return {
            "session": self.name,
            "model": self.model,
            "output": list(self.output),
            "segments": [segment.to_json() for segment in self.segments],
            "usage": {
                "input_tokens": self.usage.input_tokens,
                "output_tokens": self.usage.output_tokens,
                "turns": self.usage.turns,
            },
            "expired": self.expired,
            "overridden": list(self.overridden),
        }


@dataclass(slots=True)
class GatewaySession:
    """One agent's session.

    Attributes:
        name: Its name.
        conversation: Its tokens.
        address: Of the gateway.
        api_key: The gateway's token, for the agent.
        fixed: Sampling that wins over what the agent asks for; ``None`` takes the agent's.
        max_turns: Most model calls; ``None`` for any number.
        call_tool: Runs the environment's tools, where there are any.
        failure: The last call's.
        overridden: Sampling settings that the agent asked for and did not get.
    """

    name: str
    conversation: CapturedConversation
    address: str = ""
    api_key: str = "none"
    fixed: SamplingParams | None = None
    max_turns: int | None = None
    call_tool: ToolCaller | None = None
    failure: Exception | None = None
    overridden: set[str] = field(default_factory=set)
    _stopped: StopReason | None = None
    _begun: int = 0

    @property
    def base_url(self) -> str:
        """OpenAI-compatible address of this session."""
        return f"{self.address}/sessions/{self.name}/v1"

    @property
    def tools_url(self) -> str:
        """Address below which the tools are."""
        return f"{self.address}/sessions/{self.name}/tools"

    @property
    def output(self) -> list[Item]:
        """What was said after the first prompt, in the order it happened."""
        return self.conversation.output

    @property
    def segments(self) -> list[Segment]:
        """Exact tokens."""
        return self.conversation.segments

    @property
    def usage(self) -> TokenUsage:
        """Tokens read and sampled, and model calls."""
        said = self.conversation
        return TokenUsage(said.input_tokens, said.output_tokens, said.turns)

    @property
    def stopped(self) -> StopReason | None:
        """Why the model takes no further turn; ``length`` where the last one was cut."""
        if self._stopped is None and self.conversation.finish_reason == "length":
            return StopReason.LENGTH
        return self._stopped

    def stop(self, reason: StopReason) -> None:
        """Refuse further model calls; the first reason stays."""
        self._stopped = self._stopped or reason

    async def respond(self, asked: ModelRequest, *, repeated: bool) -> ModelTurn:
        """The next turn; a call that is `repeated` gets the turn that it got.

        Raises:
            HttpError: If there is none to be had.
        """
        self.overridden.update(asked.overridden)
        if repeated:
            answered = self.conversation.answered(asked.items, asked.tools)
            if answered is not None:
                return answered
        if self.max_turns is not None and self._begun >= self.max_turns:
            self.stop(StopReason.MAX_TURNS)
        if self._stopped is not None:
            raise HttpError(400, "session_over", f"no further turn: {self._stopped.value}")
        self._begun += 1
        try:
            with boundary(Boundary.MODEL, f"a turn of {self.conversation.request_id}"):
                turn = await self.conversation.respond(asked.items, asked.tools, asked.sampling)
        except ContextFull as error:
            self.stop(StopReason.CONTEXT)
            raise HttpError(400, "context_length_exceeded", str(error)) from error
        except Exception as error:
            self.failure = error
            self._begun -= 1
            raise
        except BaseException:
            self._begun -= 1
            raise
        self.failure = None
        return turn

    def captured(self, *, expired: bool) -> CapturedSession:
        """What the session amounts to by now."""
        said = self.conversation
        return CapturedSession(
            self.name,
            said.model.name,
            tuple(said.output),
            tuple(said.segments),
            self.usage,
            expired,
            tuple(sorted(self.overridden)),
        )
