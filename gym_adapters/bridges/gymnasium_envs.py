"""gymnasium's environments as ours, and ours as gymnasium's, with text in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, cast

from gym_adapters.bridges.gymnasium_codecs import TextCodec, derived_codec
from gym_adapters.bridges.gymnasium_stepping import StepsAlone, StepsTogether
from gym_adapters.environment import Environment, EnvironmentConfig, Transcript
from gym_adapters.episode import Episode, EpisodeLimits, open_episode_resources
from gym_adapters.errors import InvalidEnvironment, InvalidRow, ToolError
from gym_adapters.extras import require
from gym_adapters.items import (
    Item,
    assistant_message,
    check_items,
    input_items,
    item_text,
    user_message,
)
from gym_adapters.reward import Reward
from gym_adapters.task import Task

gymnasium = require("gymnasium", "gymnasium", "the gymnasium bridge")

__all__ = ["GymnasiumEnvironment", "GymnasiumTask", "TextEnv", "from_gymnasium"]

THREADS = 16
LONGEST_TEXT = 1_000_000


class GymnasiumTask(Task):
    """A row; ``seed`` makes the environment's start reproducible."""

    seed: int | None = None


class GymnasiumEnvironment(Environment[GymnasiumTask]):
    """A gymnasium environment, a step a message. Make a subclass with `from_gymnasium`.

    The reward is the sum of the steps' rewards. Steps run in a bounded pool of threads.
    """

    make: ClassVar[Callable[[], Any]]
    codec: ClassVar[TextCodec]
    vectorised: ClassVar[bool] = False

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Any]:
        """A pool of threads."""
        threads = 1 if cls.vectorised else THREADS
        pool = ThreadPoolExecutor(threads, thread_name_prefix=cls.name)
        try:
            yield StepsTogether(pool) if cls.vectorised else StepsAlone(pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def start(self) -> None:
        """Make the environment, and reset it."""
        self._rewards: list[float] = []
        self._env: Any = None
        self._env = await self._in_thread(type(self).make)
        seed = self.task.seed if self.task.seed is not None else self.rng.getrandbits(31)
        observation, self._info = await self._in_thread(lambda: self._env.reset(seed=seed))
        self._first = self.codec.observation_text(observation)

    async def prompt(self) -> Sequence[Item]:
        """The row's own input, the instructions and the first observation."""
        begin = [item for item in self.task.input if item_text(item)]
        return [*begin, user_message(f"{self.codec.instructions()}\n\n{self._first}")]

    async def reply(self, message: str) -> str | None:
        """The observation after the action that `message` asks for."""
        try:
            action = self.codec.action(message)
        except ToolError as error:
            return str(error)
        env = self._env
        observation, reward, terminated, truncated, self._info = await self._in_thread(
            lambda: env.step(action)
        )
        self._rewards.append(float(reward))
        if terminated or truncated:
            self.end_episode()
        return self.codec.observation_text(observation)

    async def verify(self, transcript: Transcript) -> Reward:
        """The sum of all rewards."""
        return Reward(sum(self._rewards), info={"steps": len(self._rewards)})

    async def close(self) -> None:
        """Close the environment."""
        env = getattr(self, "_env", None)
        if env is not None:
            await self._in_thread(env.close)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await self.resources.run(work)


def from_gymnasium(
    make: str | Callable[[], Any],
    codec: TextCodec | None = None,
    *,
    name: str | None = None,
    vectorised: bool = False,
) -> type[GymnasiumEnvironment]:
    """An `Environment` class for a gymnasium environment.

    Args:
        make: An id that ``gymnasium.make`` knows, or a function that makes one.
        codec: Observations to text, text to actions; by default derived from the spaces, for which
            an environment is made once.
        name: How it is called; by default the id.
        vectorised: Whether the steps that attempts wait for at the same time are taken one after
            the other in a single thread. Faster where a step costs less than a change of threads,
            and slower where it costs more.

    Raises:
        InvalidEnvironment: If neither gives a name, or no codec can be derived.
    """
    called = name or (make if isinstance(make, str) else getattr(make, "__name__", ""))
    if not called:
        raise InvalidEnvironment("give the environment a name: from_gymnasium(..., name=...)")
    maker: Callable[[], Any] = make if callable(make) else partial(gymnasium.make, make)
    if codec is None:
        made = maker()
        try:
            codec = derived_codec(made.observation_space, made.action_space)
        finally:
            made.close()
    members = {"name": called, "make": staticmethod(maker), "codec": codec}
    members["vectorised"] = vectorised
    return cast("type[GymnasiumEnvironment]", type(called, (GymnasiumEnvironment,), members))


class TextEnv(gymnasium.Env):  # type: ignore[misc,name-defined] # it may not be installed
    """One of our environments as ``gymnasium.Env``; actions and observations are text.

    An action is the assistant's message, or, to call tools, a JSON list of Responses items. An
    observation is what the model reads next: replies, or tool results. ``info`` has them as
    ``items``, and ``tools`` after a reset. A rollout that can't be scored raises: it has no reward.

    Not for use within an event loop: it has its own.

    Args:
        environment: The environment.
        rows: Rows to attempt; each reset takes the next, and begins again after the last. Or give
            one as ``reset(options={"row": ...})``.
        config: Settings of the environment.
        limits: Turns and times.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        environment: type[Environment[Any]],
        rows: Sequence[Mapping[str, Any]] = (),
        *,
        config: EnvironmentConfig | None = None,
        limits: EpisodeLimits | None = None,
    ) -> None:
        self.observation_space = self.action_space = _AnyText(LONGEST_TEXT, min_length=0)
        self._environment, self._rows = environment, list(rows)
        self._config, self._limits = config, limits
        self._runner = asyncio.Runner()
        self._opening: Any = None
        self._resources: Any = None
        self._episode: Episode | None = None
        self._count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin a fresh attempt.

        Raises:
            InvalidRow: If there is no row, or it is not one of the environment's.
            RolloutError: If the environment can't be started.
        """
        super().reset(seed=seed)
        row = (options or {}).get("row")
        if row is None and not self._rows:
            raise InvalidRow("there is no row.", fix='give rows=, or reset(options={"row": ...}).')
        if row is None:
            row = self._rows[self._count % len(self._rows)]
        task = self._environment.task_type.from_row(row)
        return self._runner.run(self._reset(task, seed or 0))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one assistant turn.

        Raises:
            InvalidRow: If the action looks like a list of items, and is none.
            RuntimeError: If the attempt can't be scored, or there is none under way.
        """
        if self._episode is None:
            raise RuntimeError("call reset() before the first step")
        step = self._runner.run(self._episode.advance(_items_of(action)))
        text = "\n".join(map(_text_of, step.items))
        info: dict[str, Any] = {"items": list(step.items)}
        if step.outcome is None:
            return text, 0.0, False, False, info
        if step.outcome.reward is None:
            raise RuntimeError(f"the attempt can't be scored: {step.outcome.failure}")
        info["stop_reason"] = step.outcome.stop_reason.value
        info["components"] = dict(step.outcome.reward.components)
        cut = step.outcome.status.value == "truncated"
        return text, step.outcome.reward.value, not cut, cut, info

    def close(self) -> None:
        """Close the attempt and the environment's resources."""
        self._runner.run(self._close())
        self._runner.close()

    async def _reset(self, task: Task, seed: int) -> tuple[str, dict[str, Any]]:
        if self._opening is None:
            self._opening = open_episode_resources(self._environment, self._config)
            self._resources = await self._opening.__aenter__()
        if self._episode is not None:
            await self._episode.close()
        self._episode = Episode(
            self._environment,
            task,
            config=self._config,
            resources=self._resources,
            seed=seed,
            rollout_index=self._count,
            limits=self._limits,
        )
        self._count += 1
        step = await self._episode.start()
        if step.outcome is not None:
            raise RuntimeError(f"the environment can't be started: {step.outcome.failure}")
        info = {"items": list(step.items), "tools": self._episode.tools}
        return "\n".join(map(item_text, step.items)), info

    async def _close(self) -> None:
        if self._episode is not None:
            await self._episode.close()
            self._episode = None
        if self._opening is not None:
            opening, self._opening = self._opening, None
            await opening.__aexit__(None, None, None)


class _AnyText(gymnasium.spaces.Text):  # type: ignore[misc,name-defined] # as above
    """Text of any characters; samples are of gymnasium's own."""

    def contains(self, x: object) -> bool:
        """Whether it is text that is not too long."""
        return isinstance(x, str) and len(x) <= LONGEST_TEXT


def _text_of(item: Item) -> str:
    return item["output"] if item["type"] == "function_call_output" else item_text(item)


def _items_of(action: str) -> list[Item]:
    if not action.lstrip().startswith("[{"):
        return [assistant_message(action)]
    try:
        items = json.loads(action)
    except ValueError:
        return [assistant_message(action)]
    check_items(items, "action")
    return input_items(items)
