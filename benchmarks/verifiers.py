"""What a reward costs in CPU time, for each environment, and whether that grows with the text.

Run it: ``python benchmarks/verifiers.py``. No part of it needs a network or a GPU. CPU time is of
this process and of the ones that a verifier keeps; environments whose packages are absent are left
out. The floor is a verifier that looks at the final text and gives a number. The last column is of
wrong answers that were never seen before, by processes that are warm.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gym_adapters.environments.calendar.schedule import event_list
from gym_adapters.environments.reasoning_gym.environment import answer_in

from gym_adapters import Environment, MissingExtra, StopReason, Task, Transcript, load_environment
from gym_adapters.items import Item, assistant_message
from gym_adapters.verifiers.documents import DocumentError, DocumentKind, parse_document
from gym_adapters.verifiers.instructions import INSTRUCTIONS, follows
from gym_adapters.verifiers.judge import Labels, normal_answer
from gym_adapters.verifiers.math import answer_window, same_value

ENVIRONMENTS: Mapping[str, Sequence[str]] = {
    "calendar": (),
    "equivalence_llm_judge": ("judge=exact",),
    "instruction_following": (),
    "math_with_judge": ("workers=1",),
    "mcqa": (),
    "reasoning_gym": ("workers=1",),
    "structured_outputs": (),
}
TICK = os.sysconf("SC_CLK_TCK")
REPEATS = 5
SHORT = 25_000


class Floor(Environment[Task]):
    """Gives a number for a final text."""

    name = "floor"

    async def verify(self, transcript: Transcript) -> float:
        return float(bool(transcript.final_text))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that are still there."""
    own = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            own += (int(fields[11]) + int(fields[12])) / TICK
    return own


def wrong(number: int) -> list[Item]:
    """A turn that is wrong in a way that must be looked into."""
    return [assistant_message(rf"\boxed{{{number}x - 1}}")]


async def cost(name: str, overrides: Sequence[str], rounds: int) -> tuple[float, float, float]:
    """Milliseconds of CPU time per reward: of gold answers, of wrong ones, of new wrong ones."""
    entry = load_environment(name)
    config = entry.config(overrides)
    tasks = list(entry.environment.generate_tasks(20, seed=1, difficulty=0.7))
    gold = [entry.environment.gold_turns(task)[-1] for task in tasks]
    async with entry.environment.open_resources(config) as resources:

        async def mean_of(attempts: Sequence[Sequence[Sequence[Item]]]) -> float:
            began = cpu_seconds()
            for turns in attempts:
                for task, turn in zip(tasks, turns, strict=True):
                    attempt = entry.environment(task, config=config, resources=resources)
                    await attempt.verify(Transcript(task.input, turn, StopReason.ANSWERED))
            return (cpu_seconds() - began) / (len(attempts) * len(tasks)) * 1000

        same = [wrong(0)] * len(tasks)
        await mean_of([gold, same])
        new = [[wrong(number)] * len(tasks) for number in range(1, rounds)]
        return await mean_of([gold] * rounds), await mean_of([same] * rounds), await mean_of(new)


async def floor() -> float:
    """Milliseconds of CPU time for the least that a reward can cost."""
    task = Task.from_row({"responses_create_params": {"input": "?"}})
    transcript = Transcript(task.input, [assistant_message("a")], StopReason.ANSWERED)
    began = time.process_time()
    for _ in range(20_000):
        await Floor(task).verify(transcript)
    return (time.process_time() - began) / 20


def seconds(function: Callable[[str], object], text: str) -> float:
    """The least CPU time of several calls."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        function(text)
        times.append(time.process_time() - began)
    return min(times)


def parsing(kind: DocumentKind) -> Callable[[str], object]:
    """Parsing that takes a refusal for an answer."""

    def parse(text: str) -> object:
        try:
            return parse_document(text, kind)
        except DocumentError as error:
            return error

    return parse


def every_instruction(text: str) -> object:
    """All instructions that need no arguments."""
    bare = [name for name, instruction in INSTRUCTIONS.items() if not instruction.needs]
    return [follows(text, name, None) for name in bare]


READERS: Mapping[str, Callable[[str], object]] = {
    "calendar list": event_list,
    "math window": answer_window,
    "math same value": lambda text: same_value("5", text),
    "answer in": answer_in,
    "judge labels": Labels().verdict,
    "normal answer": normal_answer,
    "instructions": every_instruction,
    **{kind: parsing(kind) for kind in ("json", "yaml", "xml", "toml", "csv")},
}
UNITS = (
    "word ",
    "[{",
    '[{"a":',
    "{a}",
    "\\boxed{",
    "<a>",
    "<answer>",
    '"',
    "* a\n",
    "a: b\n",
    "1,2\n",
)


def growth(reader: Callable[[str], object]) -> tuple[float, float, str]:
    """The worst text of 50,000 characters: milliseconds, ratio to half of it, and what it is."""
    worst = (0.0, 0.0, "")
    for unit in UNITS:
        half, whole = (seconds(reader, unit * (size // len(unit))) for size in (SHORT, 2 * SHORT))
        if whole > worst[0]:
            worst = (whole, whole / max(half, 1e-7), unit)
    return worst[0] * 1000, worst[1], worst[2]


async def main() -> None:
    print(f"{'CPU time per reward, ms':30}{'gold':>10}{'wrong':>10}{'new wrong':>12}")
    least = statistics.median([await floor() for _ in range(3)])
    print(f"{'(floor)':30}{least:10.4f}{least:10.4f}{least:12.4f}")
    for name, overrides in ENVIRONMENTS.items():
        try:
            right, other, new = await cost(name, overrides, rounds=10)
        except MissingExtra as error:
            print(f"{name:30}{'-':>10}{'-':>10}  {error}")
            continue
        print(f"{name:30}{right:10.4f}{other:10.4f}{new:12.4f}")
    print(f"\n{'worst of 50,000 characters':30}{'ms':>10}{'× half':>10}")
    for name, reader in READERS.items():
        worst, ratio, unit = growth(reader)
        print(f"{name:30}{worst:10.2f}{ratio:10.2f}  {unit!r}")


if __name__ == "__main__":
    asyncio.run(main())
