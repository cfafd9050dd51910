"""Turns that must follow a JSON schema, a regular expression or a grammar.

One of these keys in `SamplingParams.extras` asks for it:

* ``json_schema``: a JSON schema, as a mapping or as text;
* ``regex``: a regular expression, in the engine's dialect, that the whole turn matches;
* ``grammar``: a context-free grammar, in the engine's dialect (GBNF for vLLM's xgrammar).

The constraint holds for everything that is sampled in the turn, reasoning and tool calls included.

The engine then samples from another distribution than the policy's: tokens that break the
constraint have probability 0 and the others share their mass. What a trainer needs is the policy's
own log-probability of each token, so that is what `Generation.logprobs` holds: the engine is asked
a second time, without the constraint, how likely the turn was. The log-probability under which the
token was really drawn is kept beside it, in the extra `CONSTRAINED_LOGPROBS`, and
`off_policy_report` tells from the two how far a run is off-policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gym_adapters.errors import InvalidConfig, InvalidEnvironment, Unsupported
from gym_adapters.generation.protocol import SamplingParams
from gym_adapters.segment import Segment

__all__ = [
    "CONSTRAINED_LOGPROBS",
    "CONSTRAINT_KEYS",
    "Constraint",
    "OffPolicyReport",
    "constraint_of",
    "off_policy_report",
    "refuse_constraint",
    "with_constraint",
]

CONSTRAINED_LOGPROBS = "constrained_logprobs"
"""Extra of a `Generation`: each token's natural-log probability under the constraint."""

CONSTRAINT_KEYS = ("json_schema", "regex", "grammar")

# Below this, in nats, two log-probabilities of the same token are the same number computed twice.
ROUNDING = 1e-2


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a turn must look like.

    Attributes:
        kind: One of `CONSTRAINT_KEYS`.
        text: The schema as JSON text, the regular expression, or the grammar.
    """

    kind: str
    text: str


def constraint_of(sampling: SamplingParams, *, any_temperature: bool = False) -> Constraint | None:
    """The constraint in the extras of `sampling`, if there is one.

    Args:
        sampling: How to sample.
        any_temperature: Whether the engine knows the policy's log-probabilities at any temperature.

    Raises:
        InvalidConfig: If there are several, or its value is of a wrong kind.
        Unsupported: If the temperature is neither 0 nor 1, and the engine scores turns at 1 only.
    """
    asked = [key for key in CONSTRAINT_KEYS if sampling.extras.get(key) is not None]
    if not asked:
        return None
    if len(asked) > 1:
        raise InvalidConfig(f"a turn can follow one constraint, not {' and '.join(asked)}.")
    kind = asked[0]
    if not any_temperature and sampling.temperature not in (0.0, 1.0):
        raise Unsupported(
            f"a turn constrained by {kind} needs temperature 1 (or 0), not {sampling.temperature}: "
            "its log-probabilities under the policy can't be had at another."
        )
    return Constraint(kind, _text(kind, sampling.extras[kind]))


def with_constraint(sampling: SamplingParams, constraint: Mapping[str, Any]) -> SamplingParams:
    """`sampling` for a turn that its environment constrains (`Environment.constraint`).

    Raises:
        InvalidEnvironment: If `constraint` is not one of `CONSTRAINT_KEYS` with its value.
        InvalidConfig: If `sampling` has a constraint of its own.
    """
    if len(constraint) != 1 or not set(constraint).issubset(CONSTRAINT_KEYS):
        raise InvalidEnvironment(
            f"a constraint has one key of {', '.join(CONSTRAINT_KEYS)}, "
            f"not {', '.join(map(str, constraint)) or 'none'}."
        )
    own = [key for key in CONSTRAINT_KEYS if sampling.extras.get(key) is not None]
    if own:
        raise InvalidConfig(
            f"the environment constrains the turn by {next(iter(constraint))}, and the sampling "
            f"settings by {own[0]}: leave one of them out."
        )
    return replace(sampling, extras={**sampling.extras, **constraint})


def refuse_constraint(sampling: SamplingParams, generator: str) -> None:
    """For generators that can't hold a turn to a constraint.

    Raises:
        Unsupported: If there is one in the extras of `sampling`.
    """
    asked = [key for key in CONSTRAINT_KEYS if sampling.extras.get(key) is not None]
    if asked:
        raise Unsupported(
            f"{generator} can't hold a turn to a {asked[0]} and keep the policy's own "
            "log-probabilities: leave it out, or switch the environment's constraints off."
        )


def _text(kind: str, value: Any) -> str:
    if kind == "json_schema" and isinstance(value, Mapping):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        kinds = "a mapping or text" if kind == "json_schema" else "text"
        raise InvalidConfig(f"the constraint {kind} must be {kinds}, not {value!r}.")
    return value


@dataclass(frozen=True, slots=True)
class OffPolicyReport:
    """How far constrained sampling took a run off its policy.

    Attributes:
        sampled_tokens: Tokens sampled in all.
        constrained_tokens: Of these, the ones sampled under a constraint.
        changed_tokens: Of these, the ones whose probability the constraint changed.
        lost_nats: Mean over constrained tokens of constrained minus policy log-probability: what
            importance sampling has to make up for; 0 where there are none.
    """

    sampled_tokens: int
    constrained_tokens: int
    changed_tokens: int
    lost_nats: float

    def __add__(self, other: OffPolicyReport) -> OffPolicyReport:
        """Both together."""
        constrained = self.constrained_tokens + other.constrained_tokens
        lost = self.lost_nats * self.constrained_tokens + other.lost_nats * other.constrained_tokens
        return OffPolicyReport(
            self.sampled_tokens + other.sampled_tokens,
            constrained,
            self.changed_tokens + other.changed_tokens,
            lost / constrained if constrained else 0.0,
        )

    @property
    def is_off_policy(self) -> bool:
        """Whether any token was drawn from another distribution than the policy's."""
        return self.changed_tokens > 0

    def __str__(self) -> str:
        if not self.constrained_tokens:
            return f"{self.sampled_tokens} tokens sampled, none under a constraint"
        verdict = "off-policy" if self.is_off_policy else "on-policy"
        return (
            f"{verdict}: {self.constrained_tokens} of {self.sampled_tokens} tokens were sampled "
            f"under a constraint, which changed the probability of {self.changed_tokens} "
            f"(by {self.lost_nats:.3f} nats a constrained token)"
        )


def off_policy_report(segments: Iterable[Segment]) -> OffPolicyReport:
    """Compare policy and constrained log-probabilities over all sampled tokens of `segments`."""
    sampled = constrained = changed = 0
    lost = 0.0
    for segment in segments:
        for span in segment.spans:
            if not span.sampled:
                continue
            sampled += span.end - span.start
            drawn = span.extras.get(CONSTRAINED_LOGPROBS)
            if drawn is None:
                continue
            gaps = [
                behaviour - policy
                for behaviour, policy in zip(
                    drawn, segment.logprobs[span.start : span.end], strict=True
                )
            ]
            constrained += len(gaps)
            changed += sum(abs(gap) > ROUNDING for gap in gaps)
            lost += sum(gaps)
    return OffPolicyReport(
        sampled, constrained, changed, lost / constrained if constrained else 0.0
    )
