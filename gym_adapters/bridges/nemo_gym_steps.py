r"""NeMo Gym's gymnasium-style servers as environments: ``/reset``, then a ``/step`` a turn.

::

    gym-adapters collect gym_adapters.bridges.nemo_gym_steps:NemoGymSteps \
        --set url=http://127.0.0.1:8000 -i rows.jsonl -m transformers:./model
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import orjson

from gym_adapters.bridges.nemo_gym import SHOWN, NemoGymResources, response_object
from gym_adapters.environment import Transcript
from gym_adapters.errors import EnvironmentFailure, InvalidRow, VerifierError
from gym_adapters.items import (
    Item,
    assistant_message,
    check_items,
    function_call,
    input_items,
    user_message,
)
from gym_adapters.reward import Reward

__all__ = ["NemoGymSteps"]


class NemoGymSteps(NemoGymResources):
    """An environment behind a gymnasium-style server of NeMo Gym.

    A message is a step, and a tool call is one of its own. The reward is the sum of the steps'.
    """

    parallel_tool_calls = False

    async def start(self) -> None:
        """Reset with the row."""
        self._cookies: dict[str, str] = {}
        self._session: str | None = None
        self._rewards: list[float] = []
        self._ids = count()
        answer = await self._post("reset", self.task.to_row())
        if answer.status == 422:
            raise InvalidRow(f"the server refuses the row: {answer.text[:SHOWN]}")
        self._expect_success(answer, "reset", EnvironmentFailure)
        self._session = answer.session
        told = _object(answer.body, "reset")
        info = told.get("info")
        self._info: Mapping[str, Any] = info if isinstance(info, Mapping) else {}
        self._first = told.get("observation")

    async def prompt(self) -> Sequence[Item]:
        """What the server says that the model reads first, or the row's input; then what it sees.

        A server of ours tells the whole prompt, the observation in it.
        """
        told = self._info.get("prompt")
        if isinstance(told, list) and told:
            check_items(told, "info.prompt")
            return input_items(told)
        seen = [user_message(self._first)] if isinstance(self._first, str) and self._first else []
        return [*self.task.input, *seen]

    async def reply(self, message: str) -> str | None:
        """What the model sees after the step; ``None`` where there is nothing to see."""
        told = await self._step([assistant_message(message)])
        observation = told.get("observation")
        return None if observation is None or _ended(told) else str(observation)

    async def verify(self, transcript: Transcript) -> Reward:
        """The sum of the steps' rewards.

        Raises:
            VerifierError: If there was no step: a turn that was cut is not sent.
        """
        if not self._rewards and not transcript.truncated:
            raise VerifierError(f"{self.config.url} was not asked for a single step")
        return Reward(sum(self._rewards), info={"steps": len(self._rewards)})

    def _told_tools(self) -> object:
        return self._info.get("tools")

    async def _call(self, name: str, /, **arguments: Any) -> str:
        call_id = f"call_{next(self._ids)}"
        told = await self._step([function_call(name, orjson.dumps(arguments).decode(), call_id)])
        if _ended(told):
            self.end_episode()
        info = told.get("info")
        outputs = info.get("tool_outputs") if isinstance(info, Mapping) else None
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, Mapping) and output.get("call_id") == call_id:
                return str(output.get("output"))
        observation = told.get("observation")
        return "" if observation is None else str(observation)

    async def _step(self, turn: Sequence[Item]) -> Mapping[str, Any]:
        body = {**self.task.to_row(), "response": response_object(turn, cut=False)}
        answer = await self._post("step", body)
        self._expect_success(answer, "step", EnvironmentFailure)
        told = _object(answer.body, "step")
        reward = told.get("reward")
        if not isinstance(reward, int | float):
            raise EnvironmentFailure(f"a step gave no reward: {answer.text[:SHOWN]}")
        self._rewards.append(float(reward))
        return told


def _ended(told: Mapping[str, Any]) -> bool:
    return bool(told.get("terminated") or told.get("truncated"))


def _object(body: bytes, path: str) -> dict[str, Any]:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EnvironmentFailure(f"/{path} answered with no JSON: {body[:SHOWN]!r}") from error
    if not isinstance(told, dict):
        raise EnvironmentFailure(f"/{path} answered with no object: {body[:SHOWN]!r}")
    return told
