"""The environments that one run trains on: one of them, or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gym_adapters.adapters.environment_run import EnvironmentRun
from gym_adapters.adapters.trl.rows import environment_of_prompt, row_of_prompt
from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.rollouts.collect import Agent
from gym_adapters.task import Task

__all__ = ["Assignment", "EnvironmentBlend", "EnvironmentPart", "joined"]


@dataclass(frozen=True, slots=True)
class EnvironmentPart:
    """One environment of a run.

    Attributes:
        run: The environment.
        agent: Drives its episodes.
        max_tokens_per_turn: Most tokens of one turn.
    """

    run: EnvironmentRun
    agent: Agent
    max_tokens_per_turn: int | None = None

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.run.environment.name


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task, and the environment it is for."""

    part: EnvironmentPart
    task: Task


class EnvironmentBlend:
    """Environments by name. They share an event loop, so that they can share a model.

    Args:
        parts: One for each environment.

    Attributes:
        parts: By the environment's name.
        loop: Where all of their code runs.

    Raises:
        InvalidConfig: If there is none, or two of one name.
    """

    def __init__(self, parts: Sequence[EnvironmentPart]) -> None:
        names = [part.name for part in parts]
        if not parts or len(set(names)) < len(names):
            raise InvalidConfig(
                f"each environment of a run is named once, not {', '.join(names) or 'none at all'}."
            )
        self.parts: Mapping[str, EnvironmentPart] = {part.name: part for part in parts}
        self.loop = parts[0].run.loop
        for part in parts:
            part.run.share_loop(self.loop)

    @property
    def name(self) -> str:
        """The names of all of them."""
        return "+".join(self.parts)

    def of_prompt(self, prompt: Sequence[Mapping[str, Any]] | str) -> Assignment:
        """The task of a prompt that `trl_dataset` or `blended_dataset` made.

        Raises:
            InvalidRow: If it carries none, or one of another environment.
        """
        named = environment_of_prompt(prompt)
        if named is None and len(self.parts) == 1:
            (named,) = self.parts
        part = self.parts.get(named or "")
        if part is None:
            raise InvalidRow(
                f"the row is for {named or 'no environment by name'}, and this run has "
                f"{', '.join(self.parts)}.",
                field="environment",
                fix="blend whole specs, with blended_spec, and use the dataset of what it gives.",
            )
        return Assignment(part, part.run.task(row_of_prompt(prompt)))

    async def aclose(self) -> None:
        """Close agents and resources, on `loop`; the next episode opens the latter anew."""
        for part in self.parts.values():
            close = getattr(part.agent, "aclose", None)
            if close is not None:
                await close()
            await part.run.aclose()


def joined(blends: Sequence[EnvironmentBlend]) -> EnvironmentBlend:
    """All environments of `blends`, on the loop of the first.

    Raises:
        InvalidConfig: If two have one name.
    """
    return EnvironmentBlend([part for blend in blends for part in blend.parts.values()])
