"""Answers judged against each other, not against a key."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import Field

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidConfig,
    Reward,
    Rollout,
    Task,
    Transcript,
    VerifierError,
)
from gym_adapters.items import Item, assistant_message, final_text
from gym_adapters.verifiers.judge import open_judge

from .scorers import Brief, CoverageScorer, JudgedPairs, PairwiseScorer, coverage, win_rates
from .subjects import SUBJECTS, text_on

__all__ = ["Preference", "PreferenceConfig", "PreferenceTask"]

OFFLINE, JUDGED = "coverage", "judge"


class PreferenceTask(Task):
    """A request for a short text.

    Attributes:
        request: What is asked for.
        required_words: Words that should occur, in any form that begins with them.
        max_words: How long the text may be.
    """

    request: str
    required_words: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    max_words: int = Field(default=100, ge=1)

    @property
    def brief(self) -> Brief:
        """What the text should be like."""
        return Brief(self.request, self.required_words, self.max_words)


class PreferenceConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        judge: A judge to compare pairs (see `gym_adapters.verifiers.judge.open_judge`); by default
            none, and texts are compared by how well they cover the brief.
        judge_timeout: Seconds for each of its answers.
    """

    judge: str | None = None
    judge_timeout: float = Field(default=60.0, gt=0)


class Preference(Environment[PreferenceTask]):
    """Write a better text than the other attempts.

    Within a group the reward is the share of the other attempts that the text is preferred to, a
    tie being a half. An attempt without a group is rewarded by how well it covers its brief. One
    that was cut short gets 0, and loses every comparison.
    """

    name = "preference"
    Config = PreferenceConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[PairwiseScorer]:
        """Who compares, for the run.

        Raises:
            InvalidConfig: If the judge can't be found, or can't compare.
        """
        settings = config if isinstance(config, PreferenceConfig) else PreferenceConfig()
        if settings.judge is None:
            yield CoverageScorer()
            return
        if settings.judge == "exact":
            raise InvalidConfig(
                "judge exact can't say which of two texts is better. Name a model, or leave judge "
                "out to compare by coverage"
            )
        async with open_judge(settings.judge) as judge:
            yield JudgedPairs(judge, timeout=settings.judge_timeout)

    async def verify(self, transcript: Transcript) -> Reward:
        """How well the text covers its brief; `compare` replaces it within a group."""
        text = "" if transcript.truncated else transcript.final_text
        score = coverage(self.task.brief, text)
        return Reward(
            score,
            components={"coverage": score},
            info={"compared_by": JUDGED if isinstance(self.resources, JudgedPairs) else OFFLINE},
        )

    @classmethod
    async def compare(
        cls, rollouts: Sequence[Rollout], *, config: EnvironmentConfig, resources: Any
    ) -> list[Reward]:
        """The share of the others that each is preferred to.

        Raises:
            VerifierError: Without the resources.
            JudgeError: If the judge fails.
        """
        if len(rollouts) < 2:
            return [r.outcome.reward for r in rollouts if r.outcome.reward is not None]
        if not isinstance(resources, CoverageScorer | JudgedPairs):
            raise VerifierError(f"{cls.name} was run without its resources; use open_resources")
        brief = PreferenceTask.from_row(rollouts[0].row).brief
        texts = ["" if _cut(rollout) else final_text(rollout.output) for rollout in rollouts]
        rates = await win_rates(resources, brief, texts)
        return [
            Reward(
                0.0 if _cut(rollout) else rate,
                components={"win_rate": rate, "coverage": coverage(brief, text)},
                info=rollout.outcome.reward.info if rollout.outcome.reward else {},
            )
            for rollout, rate, text in zip(rollouts, rates, texts, strict=True)
        ]

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[PreferenceTask]:
        """Requests for short texts.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: The higher, the more must be covered in fewer words.
        """
        rng = random.Random(f"preference:{seed}")
        for _ in range(count):
            yield _task(rng, difficulty)

    @classmethod
    def gold_turns(cls, task: PreferenceTask) -> Sequence[Sequence[Item]]:
        """A text that covers its brief: one on its own scores the most."""
        return [[assistant_message(text_on(task.required_words))]]


def _cut(rollout: Rollout) -> bool:
    return rollout.outcome.status == "truncated"


def _task(rng: random.Random, difficulty: float) -> PreferenceTask:
    subject, reader = rng.choice(list(SUBJECTS)), rng.choice(("a child", "a friend", "a colleague"))
    words = rng.sample(SUBJECTS[subject], 2 + round(3 * difficulty))
    max_words = 80 - round(30 * difficulty)
    topics = ", ".join(words)
    request = f"Explain to {reader} {subject}, in at most {max_words} words. Speak of: {topics}."
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": request}]},
        "request": request,
        "required_words": words,
        "max_words": max_words,
    }
    return PreferenceTask.from_row(row)
