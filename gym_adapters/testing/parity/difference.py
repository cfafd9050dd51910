"""Where what a trainer received is not what the rollouts were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from gym_adapters.rollout import Rollout
from gym_adapters.segment import Segment
from gym_adapters.testing.parity.case import Attempt
from gym_adapters.testing.parity.received import Received, ReceivedRollout, Sample

__all__ = ["Difference", "advantage_differences", "differences"]

# Rewards and advantages pass through float32 on their way.
_RELATIVE = 1e-5
_SEQUENCES = ("prompt_ids", "completion_ids", "mask", "logprobs")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs.

    Attributes:
        attempt: In which rollout.
        what: Which of its fields.
        expected: In the rollout of the agent in process.
        received: In what the trainer got.
        sample: In which training sample of the rollout, from 0; ``None`` outside of samples.
        index: First place in a sequence that differs; ``None`` where it is none.
    """

    attempt: Attempt
    what: str
    expected: object
    received: object
    sample: int | None = None
    index: int | None = None

    def __str__(self) -> str:
        """In one line."""
        where = f"task {self.attempt.task}, attempt {self.attempt.index}"
        if self.sample:
            where += f", sample {self.sample}"
        place = "" if self.index is None else f"[{self.index}]"
        return f"{where}: {self.what}{place} is {self.received}, and should be {self.expected}"


def differences(expected: Mapping[Attempt, Rollout], received: Received) -> list[Difference]:
    """All that differs; of each sequence the first place.

    A rollout without a reward, or without a sampled token, must not be trained on. What a trainer
    isn't told is not compared.
    """
    trained = _trained(expected, received.fewest_survivors)
    found: list[Difference] = []
    for attempt, rollout in expected.items():
        got = received.rollouts.get(attempt)
        if got is None:
            found.append(Difference(attempt, "rollout", "there", "missing"))
            continue
        found += _samples(attempt, rollout.segments if attempt in trained else (), got.samples)
        found += _verdict(attempt, rollout, got, is_trained=attempt in trained)
    return found


def advantage_differences(
    whole: Received, alone: Received, survivors: Sequence[Attempt]
) -> list[Difference]:
    """Where the survivors' advantages are not those of the group without the failed rollouts.

    Args:
        whole: A case in which rollouts fail.
        alone: The same with the survivors only, which are the attempts 0, 1, ... there.
        survivors: Of `whole`, in order.
    """
    found = []
    places: dict[int, int] = {}
    for attempt in survivors:
        place = places.setdefault(attempt.task, 0)
        places[attempt.task] += 1
        expected = alone.rollouts[Attempt(attempt.task, place)].advantage
        got = whole.rollouts[attempt].advantage
        if expected is None or got is None or not _close(expected, got):
            found.append(Difference(attempt, "advantage (beside failures)", expected, got))
    return found


def is_trainable(rollout: Rollout) -> bool:
    """Whether there is a reward, and a token to give it to."""
    return rollout.reward is not None and any(any(s.mask) for s in rollout.segments)


def _trained(expected: Mapping[Attempt, Rollout], fewest: int) -> set[Attempt]:
    survivors = [attempt for attempt, rollout in expected.items() if is_trainable(rollout)]
    groups: dict[int, int] = {}
    for attempt in survivors:
        groups[attempt.task] = groups.get(attempt.task, 0) + 1
    return {attempt for attempt in survivors if groups[attempt.task] >= fewest}


def _samples(
    attempt: Attempt, segments: Sequence[Segment], samples: Sequence[Sample]
) -> Iterator[Difference]:
    if len(segments) != len(samples):
        yield Difference(attempt, "number of training samples", len(segments), len(samples))
    for number, (segment, sample) in enumerate(zip(segments, samples, strict=False)):
        for name in _SEQUENCES:
            want, got = list(getattr(segment, name)), list(getattr(sample, name))
            if name == "logprobs":
                # What the environment wrote has none; trainers fill it in as they like.
                written = {place for place, sampled in enumerate(segment.mask) if not sampled}
                got = [0.0 if place in written else it for place, it in enumerate(got)]
            for index, (one, other) in enumerate(zip_longest(want, got, fillvalue="nothing")):
                if one != other:
                    yield Difference(attempt, name, one, other, number, index)
                    break


def _verdict(
    attempt: Attempt, rollout: Rollout, got: ReceivedRollout, *, is_trained: bool
) -> Iterator[Difference]:
    reward = rollout.reward if is_trained else None
    if (reward is None) != (got.reward is None) or (
        reward is not None and got.reward is not None and not _close(reward, got.reward)
    ):
        yield Difference(attempt, "reward", reward, got.reward)
    if got.components is not None and rollout.outcome.reward is not None and is_trained:
        parts = rollout.outcome.reward.components
        for name in sorted({*parts, *got.components}):
            one, other = parts.get(name), got.components.get(name)
            if one is None or other is None or not _close(one, other):
                yield Difference(attempt, f"component {name}", one, other)
    failure = rollout.outcome.failure
    boundary = None if failure is None else failure.boundary.value
    if boundary != got.failure:
        yield Difference(attempt, "failure", boundary, got.failure)
    reason = rollout.outcome.stop_reason.value
    if got.stop_reason is not None and got.stop_reason != reason:
        yield Difference(attempt, "stop reason", reason, got.stop_reason)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _RELATIVE * max(1.0, abs(one), abs(other))
