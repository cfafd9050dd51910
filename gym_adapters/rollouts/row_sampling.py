"""How a row asks to be sampled, and who may overrule it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gym_adapters.errors import InvalidConfig, InvalidRow
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.task import Task

__all__ = ["RowSampling", "Sampling", "sampling_of"]

Sampling = SamplingParams | Callable[[Task], SamplingParams] | None
"""For all rollouts alike, or by task; ``None`` takes what each row asks for."""


@dataclass(frozen=True, slots=True)
class RowSampling:
    """Sampling by task: what is set here wins, then the row's own, then the default.

    Attributes:
        temperature: Softmax temperature.
        top_p: Nucleus mass.
        max_tokens: Most tokens of one turn; the row's name for it is ``max_output_tokens``.
        default_max_tokens: Where neither says.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    default_max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0.0 <= self.temperature < float("inf"):
            raise InvalidConfig(f"temperature must be at least 0, not {self.temperature}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise InvalidConfig(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidConfig(f"max_tokens must be at least 1, not {self.max_tokens}")

    def __call__(self, task: Task) -> SamplingParams:
        """The sampling of one rollout of `task`.

        Raises:
            InvalidRow: If the row's own setting is not a number.
        """
        temperature = _number(task, "temperature", self.temperature)
        top_p = _number(task, "top_p", self.top_p)
        max_tokens = _number(task, "max_output_tokens", self.max_tokens)
        return SamplingParams(
            max_tokens=self.default_max_tokens if max_tokens is None else int(max_tokens),
            temperature=1.0 if temperature is None else temperature,
            top_p=1.0 if top_p is None else top_p,
        )


def sampling_of(task: Task, sampling: Sampling) -> SamplingParams:
    """What `sampling` means for `task`."""
    if isinstance(sampling, SamplingParams):
        return sampling
    return (sampling if sampling is not None else RowSampling())(task)


def _number(task: Task, key: str, override: float | None) -> float | None:
    if override is not None:
        return override
    value = task.responses_create_params.get(key)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise InvalidRow(
        f"it must be a number, not {value!r}.",
        field=f"responses_create_params.{key}",
        fix="write a number, or leave it out.",
    )
