"""One finished attempt at a task, with everything a trainer or a reader needs.

On disk a rollout is one JSON line. NeMo Gym's own keys stand where its readers look for them
(the row's fields, ``responses_create_params``, ``response``, ``reward``, ``_ng_task_index``,
``_ng_rollout_index``); what NeMo Gym has no place for is under ``gym_adapters``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gym_adapters.errors import Boundary, InvalidRow
from gym_adapters.items import Item, check_items, input_items
from gym_adapters.reward import Failure, Outcome, OutcomeStatus, Reward, StopReason
from gym_adapters.segment import Segment

__all__ = ["Provenance", "Rollout", "Segment", "Timings", "TokenUsage"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a rollout went, in seconds of wall time."""

    total: float = 0.0
    model: float = 0.0
    environment: float = 0.0
    verify: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens and turns of a rollout: context read over all calls, tokens sampled, model calls."""

    input_tokens: int = 0
    output_tokens: int = 0
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """What it takes to say where a rollout came from."""

    environment: str = ""
    environment_version: str = ""
    library_version: str = ""
    model: str = ""
    template_hash: str | None = None
    weights_version: int | str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished attempt.

    Attributes:
        row: The task row, unknown fields included, as it came in.
        task_id: Names the task; the same for all attempts at it.
        rollout_index: Which attempt this is, 0-based.
        prompt: Items the model started from.
        output: Items after the prompt: the assistant's, tool results, the environment's replies.
        tools: Tools the model was offered.
        outcome: How it ended.
        segments: Exact tokens; empty where the model gave none.
    """

    row: Mapping[str, Any]
    task_id: str
    rollout_index: int
    prompt: Sequence[Item]
    output: Sequence[Item]
    tools: Sequence[Mapping[str, Any]]
    outcome: Outcome
    segments: Sequence[Segment] = ()
    timings: Timings = field(default_factory=Timings)
    usage: TokenUsage = field(default_factory=TokenUsage)
    provenance: Provenance = field(default_factory=Provenance)
    task_index: int | None = None

    @property
    def group_id(self) -> str:
        """Names the group of attempts that share a baseline: all attempts at one task."""
        return self.task_id

    @property
    def reward(self) -> float | None:
        """The reward's value; ``None`` when the rollout is unscored."""
        return None if self.outcome.reward is None else self.outcome.reward.value

    def to_json(self) -> dict[str, Any]:
        """The rollout as one JSON-serialisable object."""
        outcome, reward = self.outcome, self.outcome.reward
        params = dict(self.row.get("responses_create_params", {}))
        params["input"] = list(self.prompt)
        # The prompt holds them.
        params.pop("instructions", None)
        params["tools"] = list(self.tools)
        cut = outcome.stop_reason is StopReason.LENGTH
        return {
            **self.row,
            "responses_create_params": params,
            "response": {
                "id": f"resp_{self.task_id}_{self.rollout_index}",
                "object": "response",
                "created_at": 0,
                "model": self.provenance.model,
                "status": "incomplete" if cut else "completed",
                "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
                "output": list(self.output),
                "parallel_tool_calls": True,
                "tool_choice": "auto",
                "tools": list(self.tools),
                "usage": {
                    "input_tokens": self.usage.input_tokens,
                    "output_tokens": self.usage.output_tokens,
                    "total_tokens": self.usage.input_tokens + self.usage.output_tokens,
                },
            },
            "reward": self.reward,
            "_ng_task_index": self.task_index,
            "_ng_rollout_index": self.rollout_index,
            "gym_adapters": {
                "format": FORMAT_VERSION,
                "task_id": self.task_id,
                "row": dict(self.row),
                "outcome": {
                    "status": outcome.status.value,
                    "stop_reason": outcome.stop_reason.value,
                    "components": dict(reward.components) if reward else {},
                    "info": dict(reward.info) if reward else {},
                    "failure": _fields(outcome.failure) if outcome.failure else None,
                },
                "segments": [segment.to_json() for segment in self.segments],
                "timings": _fields(self.timings),
                "usage": _fields(self.usage),
                "provenance": _fields(self.provenance),
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rollout:
        """Read what `to_json` wrote.

        Raises:
            InvalidRow: If a field is missing or of the wrong type.
        """
        own = data.get("gym_adapters")
        if not isinstance(own, dict):
            raise InvalidRow(
                "this line is not one of our rollouts.",
                field="gym_adapters",
                fix="read files that other libraries wrote with their own reader.",
            )
        try:
            check_items(data["response"]["output"], "response.output")
            return cls(
                row=own["row"],
                task_id=own["task_id"],
                rollout_index=data["_ng_rollout_index"],
                prompt=input_items(data["responses_create_params"]["input"]),
                output=input_items(data["response"]["output"]),
                tools=data["responses_create_params"].get("tools", []),
                outcome=_outcome_from(own["outcome"], data["reward"]),
                segments=tuple(Segment.from_json(segment) for segment in own["segments"]),
                timings=Timings(**own["timings"]),
                usage=TokenUsage(**own["usage"]),
                provenance=Provenance(**own["provenance"]),
                task_index=data.get("_ng_task_index"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRow(
                f"a rollout of format {FORMAT_VERSION} was expected, but: "
                f"{type(error).__name__}: {error}.",
                field="gym_adapters",
                fix="read it with the version that wrote it, or collect it again.",
            ) from error


def _fields(record: Timings | TokenUsage | Provenance | Failure) -> dict[str, Any]:
    # These hold plain values; dataclasses.asdict copies them deeply, at ten times the cost.
    return {name: getattr(record, name) for name in record.__slots__}


def _outcome_from(data: Mapping[str, Any], value: float | None) -> Outcome:
    failure = data["failure"]
    status: Literal["scored", "truncated", "unscored"] = data["status"]
    return Outcome(
        status=OutcomeStatus(status),
        stop_reason=StopReason(data["stop_reason"]),
        reward=None if value is None else Reward(value, data["components"], data["info"]),
        failure=None
        if failure is None
        else Failure(**{**failure, "boundary": Boundary(failure["boundary"])}),
    )
