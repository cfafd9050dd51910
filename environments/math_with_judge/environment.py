"""Problems with one mathematical answer, checked by algebra and, where asked for, by a judge."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

from pydantic import Field, PositiveFloat, PositiveInt

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    InvalidConfig,
    Reward,
    Task,
    Transcript,
    VerifierError,
)
from gym_adapters.items import Item, assistant_message, message
from gym_adapters.verifiers.answers import last_boxed
from gym_adapters.verifiers.judge import (
    Judge,
    JudgeRequest,
    Labels,
    Verdict,
    ask_equivalence,
    open_judge,
)
from gym_adapters.verifiers.math import MathPool, undelimited

from .problems import problem

__all__ = ["MathConfig", "MathResources", "MathTask", "MathWithJudge"]

_LABELS = Labels()
_JUDGE_SYSTEM = (
    "You compare two answers to a mathematical problem. Decide whether they mean the same value, "
    "expression or set; how they are written does not matter. You need not solve the problem. "
    "Think briefly, then end with [[A=B]] if they are equivalent or [[A!=B]] if they are not."
)
_JUDGE_USER = "Problem:\n{question}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}"
# A judge reads this much of an answer that is not in a box.
_SHOWN = 2000


class MathTask(Task):
    """A problem and its answer, in LaTeX; delimiters around the answer do not count."""

    question: str
    expected_answer: str = Field(min_length=1)


class MathConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        judge: Who is asked where algebra finds no equality: see `open_judge`; ``None`` for nobody.
        judge_timeout: Seconds of wall time for one verdict of the judge.
        workers: Most processes that do algebra.
        cpu_limit: Seconds of CPU time for one answer.
    """

    judge: str | None = None
    judge_timeout: PositiveFloat = 50.0
    workers: PositiveInt = 4
    cpu_limit: PositiveFloat = 10.0


@dataclass(frozen=True, slots=True)
class MathResources:
    """What all rollouts of a run share."""

    pool: MathPool
    judge: Judge | None = None


class MathWithJudge(Environment[MathTask]):
    r"""Solve a problem and put the answer into ``\boxed{...}``.

    The reward is 1 if the answer equals the expected one: as text or number, else by math-verify,
    else (where there is one) by a judge that must say so twice, with the answers in both orders.
    """

    name = "math_with_judge"
    Config = MathConfig

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[MathResources]:
        """Open the processes that do algebra, and the judge.

        Raises:
            MissingExtra: Without math-verify.
            InvalidConfig: If the judge can't be found.
        """
        if not isinstance(config, MathConfig):
            raise InvalidConfig(f"{cls.name} needs a MathConfig, not {type(config).__name__}")
        async with AsyncExitStack() as stack:
            pool = MathPool(workers=config.workers, cpu_limit=config.cpu_limit)
            await stack.enter_async_context(pool)
            judge = None
            if config.judge is not None:
                judge = await stack.enter_async_context(open_judge(config.judge, labels=_LABELS))
            yield MathResources(pool, judge)

    async def verify(self, transcript: Transcript) -> Reward:
        """1 for an answer that equals the expected one."""
        resources = self.resources
        if not isinstance(resources, MathResources):
            raise VerifierError(f"{self.name} was run without its resources; use open_resources")
        # What a budget cut off is not an answer.
        answer = "" if transcript.truncated else transcript.final_text
        verdict = await resources.pool.compare(self.task.expected_answer, answer)
        asked: list[Verdict] = []
        if not verdict.equal and resources.judge is not None and answer.strip():
            asked = await self._judged(resources.judge, last_boxed(answer) or answer[-_SHOWN:])
        equal = verdict.equal or (len(asked) == 2 and all(said.equal for said in asked))
        return Reward(
            float(equal),
            components={"library": float(verdict.equal)},
            info={
                "extracted_answer": verdict.extracted,
                "library_reward": float(verdict.equal),
                "library_fault": verdict.fault,
                "judge_evaluations": [said.to_json() for said in asked],
            },
        )

    async def _judged(self, judge: Judge, answer: str) -> list[Verdict]:
        """What the judge says in one order and, if that is equal, in the other."""
        config = cast("MathConfig", self.config)
        expected = undelimited(self.task.expected_answer)
        said: list[Verdict] = []
        for first, second in ((expected, answer), (answer, expected)):
            request = _request(self.task.question, first, second)
            verdict = await ask_equivalence(judge, request, _LABELS, timeout=config.judge_timeout)
            said.append(verdict)
            if not verdict.equal:
                break
        return said

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[MathTask]:
        """Problems from school.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: Below 0.34 sums and fractions, below 0.67 linear equations and percentages
                too, above that roots, products of brackets and systems of equations too; numbers
                grow with it.
        """
        rng = random.Random(seed)
        for _ in range(count):
            question, answer = problem(rng, difficulty)
            prompt = f"{question}\n\nPut your final answer, and nothing else, into \\boxed{{}}."
            yield MathTask.from_row(
                {
                    "responses_create_params": {"input": [{"role": "user", "content": prompt}]},
                    "question": question,
                    "expected_answer": answer,
                }
            )

    @classmethod
    def gold_turns(cls, task: MathTask) -> Sequence[Sequence[Item]]:
        """The expected answer in a box."""
        return [[assistant_message(f"\\boxed{{{undelimited(task.expected_answer)}}}")]]


def _request(question: str, first: str, second: str) -> JudgeRequest:
    text = _JUDGE_USER.format(question=question, first=first, second=second)
    prompt = (message("system", _JUDGE_SYSTEM), message("user", text))
    return JudgeRequest(prompt, first, second, question)
