"""What an environment server answers: tool results, verdicts and steps."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

from gym_adapters.episode import Step
from gym_adapters.extras import require
from gym_adapters.items import Item, item_text
from gym_adapters.reward import Outcome, Reward
from gym_adapters.serving.environment_session import verdict_of

require("fastapi", "serve", "serving environments")

from fastapi import Response  # noqa: E402 - after the check above

__all__ = ["step_body", "tool_response", "verify_body"]


def tool_response(text: str, *, status: int = 200) -> Response:
    """A tool's result, as the model reads it."""
    kind = "application/json" if text[:1] in ("{", "[") else "text/plain"
    return Response(text.encode("utf-8", "replace"), status_code=status, media_type=kind)


def verify_body(body: Mapping[str, Any], reward: Reward) -> dict[str, Any]:
    """The request again, with the verdict; what it held under the same keys is replaced."""
    extras: dict[str, Any] = {"components": dict(reward.components), "info": dict(reward.info)}
    answer = {**body, "reward": reward.value, "gym_adapters": extras}
    answer.pop("reward_components", None)
    # Trainers take the components for a split of the reward, and check the sum.
    if reward.components and isclose(
        sum(reward.components.values()), reward.value, rel_tol=1e-6, abs_tol=1e-6
    ):
        answer["reward_components"] = dict(reward.components)
    return answer


def step_body(step: Step) -> dict[str, Any]:
    """A step as gymnasium has it.

    Raises:
        HttpError: If the attempt ended without a reward.
    """
    reward = verdict_of(step.outcome) if step.outcome is not None else None
    messages = [item for item in step.items if item["type"] == "message"]
    results: list[Item] = [item for item in step.items if item["type"] == "function_call_output"]
    cut = step.outcome is not None and _was_cut(step.outcome)
    info: dict[str, Any] = {"tool_outputs": results, "items": list(step.items)}
    if step.outcome is not None and reward is not None:
        info |= {"stop_reason": step.outcome.stop_reason.value, "reward_info": dict(reward.info)}
        info["components"] = dict(reward.components)
    return {
        "observation": "\n".join(map(item_text, messages)) if messages else None,
        # As in gymnasium, all of the reward comes with the last step.
        "reward": 0.0 if reward is None else reward.value,
        "terminated": step.done and not cut,
        "truncated": cut,
        "info": info,
    }


def _was_cut(outcome: Outcome) -> bool:
    return outcome.status.value == "truncated"
