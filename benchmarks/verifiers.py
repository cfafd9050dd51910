"""What a reward costs in CPU time, for each environment, and whether that grows with the text.

Run it: ``python benchmarks/verifiers.py``. No part of it needs a network or a GPU; with ``--peers``
NeMo Gym is installed from PyPI into a virtual environment of its own in a cache folder (some
minutes, once), and judges the same answers. CPU time is of this process and of the ones that a
verifier keeps; environments whose packages are absent are left out. The floor is a verifier that
looks at the final text and gives a number. The last column is of wrong answers that were never seen
before, by processes that are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gym_adapters.environments.calendar.schedule import event_list
from gym_adapters.environments.reasoning_gym.environment import answer_in
from gym_adapters.environments.swe.environment import Swe
from peers.installed import Peer, installed_in

from gym_adapters import (
    Environment,
    EnvironmentEntry,
    Episode,
    MissingExtra,
    Reward,
    StopReason,
    Task,
    Transcript,
    Unsupported,
    environment_names,
    load_environment,
)
from gym_adapters.items import Item, assistant_message, item_text
from gym_adapters.verifiers.choices import choice
from gym_adapters.verifiers.documents import DocumentError, DocumentKind, parse_document
from gym_adapters.verifiers.instructions import INSTRUCTIONS, follows
from gym_adapters.verifiers.json_schema import compiled_schema
from gym_adapters.verifiers.judge import Labels, normal_answer
from gym_adapters.verifiers.math import answer_window, same_value

# Settings for a run of one process; all others run as their cards say.
SETTINGS: Mapping[str, Sequence[str]] = {
    "math_with_judge": ("workers=1",),
    "reasoning_gym": ("workers=1",),
}
STARTS_PROCESSES = ("code_debugging", "code_gen", "swe")
TICK = os.sysconf("SC_CLK_TCK")
NEMO_GYM = Peer(
    "nemo-gym 0.4 verifiers",
    (
        "nemo-gym==0.4.0",
        *("math-verify[antlr4_9_3]==0.8.0", "openapi-schema-validator", "xmltodict", "tiktoken"),
        *("tomli-w", "tabulate", "numpy"),
    ),
    ("python3.12",),
    "nemo_gym_verifiers.py",
)
SHARED_WITH_NEMO_GYM = ("calendar", "math_with_judge", "mcqa", "structured_outputs")
REPEATS = 5
SHORT = 25_000


class Floor(Environment[Task]):
    """Gives a number for a final text."""

    name = "floor"

    async def verify(self, transcript: Transcript) -> float:
        return float(bool(transcript.final_text))


class Watch:
    """CPU time of this process, of its descendants, and of those that they have waited for."""

    def __init__(self) -> None:
        self._others = _others()
        self._own = time.process_time()

    def seconds(self) -> float:
        """Since it was made; looking at the other processes does not count."""
        own = time.process_time() - self._own
        return own + _others() - self._others


def _others() -> float:
    children: dict[int, list[tuple[int, float]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used = sum(map(int, fields[11:15])) / TICK
        children.setdefault(int(fields[1]), []).append((int(stat.parent.name), used))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = spent.ru_utime + spent.ru_stime
    waiting = [os.getpid()]
    while waiting:
        for process, used in children.get(waiting.pop(), ()):
            total += used
            waiting.append(process)
    return total


class Played(NamedTuple):
    """A finished attempt that can be verified again."""

    environment: Environment[Any]
    transcript: Transcript


async def play(
    entry: EnvironmentEntry,
    task: Task,
    turns: Sequence[Sequence[Item]],
    stack: AsyncExitStack,
    **run: Any,
) -> Played:
    """An attempt in which the assistant says `turns`; closed by `stack`, so that its files stay."""
    episode = await stack.enter_async_context(Episode(entry.environment, task, **run))
    step = await episode.start()
    for turn in turns:
        if step.done:
            break
        step = await episode.advance(turn)
    if not step.done:
        await episode.truncate(StopReason.MAX_TURNS)
    said = Transcript(episode.prompt, tuple(episode.output), StopReason.ANSWERED)
    return Played(episode.environment, said)


def wrong(number: int) -> list[list[Item]]:
    """An answer that is wrong in a way that must be looked into."""
    return [[assistant_message(rf"\boxed{{{number}x - 1}}")]] * 3


async def verify(played: Sequence[Played], rounds: int) -> float:
    """Milliseconds of CPU time per verdict."""
    watch = Watch()
    for _ in range(rounds):
        for environment, transcript in played:
            if isinstance(environment, Swe):
                environment.verdict = None
            await environment.verify(transcript)
    return watch.seconds() / (rounds * len(played)) * 1000


def tasks_of(entry: EnvironmentEntry, count: int) -> list[Task]:
    """Generated tasks, or the examples where there is no generator."""
    try:
        return list(entry.environment.generate_tasks(count, seed=1, difficulty=0.7))
    except Unsupported:
        return entry.example_tasks()[:count]


async def cost(name: str) -> tuple[float, float, float]:
    """Milliseconds of CPU time per reward: of gold answers, of wrong ones, of new wrong ones."""
    entry = load_environment(name)
    config = entry.config(SETTINGS.get(name, ()))
    slow = name in STARTS_PROCESSES
    tasks = tasks_of(entry, 5 if slow else 20)
    rounds, new_ones = (2, 1) if slow else (20, 9)
    async with entry.environment.open_resources(config) as resources, AsyncExitStack() as stack:

        async def played(turns: Callable[[Task], Sequence[Sequence[Item]]]) -> list[Played]:
            run = {"config": config, "resources": resources}
            return [await play(entry, task, turns(task), stack, **run) for task in tasks]

        gold = await played(entry.environment.gold_turns)
        same = await played(lambda task: wrong(0))
        await verify([*gold, *same], 1)
        new = [
            Played(one.environment, replace(one.transcript, output=wrong(number)[0]))
            for number in range(1, new_ones + 1)
            for one in same
        ]
        return await verify(gold, rounds), await verify(same, rounds), await verify(new, 1)


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


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "count": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}
DOCUMENT = {"name": "kettle", "count": 3, "tags": ["red", "steel"]}


def each(function: Callable[[], object], times: int) -> float:
    """Milliseconds of CPU time per call, its child processes included."""
    function()
    watch = Watch()
    for _ in range(times):
        function()
    return watch.seconds() / times * 1000


def parts() -> dict[str, Callable[[], float]]:
    """Checks on their own, and what others need for the same; see `each`."""

    def cached_schema() -> float:
        text = json.dumps(SCHEMA)
        return each(lambda: compiled_schema(text).fault(DOCUMENT), 20_000)

    def peer_schema() -> float:
        import jsonschema

        check = jsonschema.Draft202012Validator(SCHEMA)
        return each(lambda: check.is_valid(DOCUMENT), 2_000)

    def peer_math() -> float:
        import math_verify

        answers = [*MATH_MIX] * 3

        def verdicts() -> None:
            for expected, said in answers:
                gold = math_verify.parse(f"${expected}$", parsing_timeout=None)
                given = math_verify.parse(rf"\boxed{{{said}}}", parsing_timeout=None)
                math_verify.verify(gold, given, timeout_seconds=None)

        return each(verdicts, 3) / len(answers)

    def options() -> float:
        offered: list[dict[str, str | None]] = [{letter: "x"} for letter in "ABCD"]
        text = "So the answer is \\boxed{B}"
        return each(lambda: choice(text, offered, "strict_single_letter_boxed"), 20_000)

    def python() -> float:
        command = [sys.executable, "-c", ""]
        return each(lambda: subprocess.run(command, check=True, timeout=60), 10)

    return {
        "choice of four": options,
        "schema, cached": cached_schema,
        "  peer: jsonschema": peer_schema,
        "  peer: math-verify, bare": peer_math,
        "  peer: python -c ''": python,
    }


async def nemo_gym(python: Path) -> None:
    """Print what verdicts on the same answers, half right and half wrong, cost here and there."""
    print(f"\n{'beside NeMo Gym 0.4, ms':30}{'ours':>10}{'theirs':>10}{'ratio':>10}{'agree':>10}")
    ours: dict[str, tuple[float, list[float]]] = {}
    asked: dict[str, list[tuple[dict[str, Any], str]]] = {}
    for name in SHARED_WITH_NEMO_GYM:
        entry = load_environment(name)
        config = entry.config(SETTINGS.get(name, ()))
        tasks = [task for task in tasks_of(entry, 40) if _one_message(entry, task)]
        gold = [item_text(entry.environment.gold_turns(task)[0][0]) for task in tasks]
        # The answer to the task before: wrong, and of the right kind.
        pairs = [*zip(tasks, gold, strict=True), *zip(tasks, [*gold[1:], gold[0]], strict=True)]
        asked[name] = [(task.to_row(), text) for task, text in pairs]
        async with entry.environment.open_resources(config) as resources, AsyncExitStack() as stack:
            run = {"config": config, "resources": resources}
            played = [
                await play(entry, task, [[assistant_message(text)]], stack, **run)
                for task, text in pairs
            ]
            await verify([played[0]], 1)  # starts what is started once
            watch = Watch()
            # Once each: a second time, some are known.
            rewards = [
                Reward.of(await one.environment.verify(one.transcript)).value for one in played
            ]
            ours[name] = (watch.seconds() / len(played) * 1000, rewards)
    for name, theirs in (await asyncio.to_thread(verdicts_of, python, asked)).items():
        if "error" in theirs:
            print(f"{name:30}{'-':>20}  {theirs['error']}")
            continue
        cost_here, rewards = ours[name]
        alike = sum(map(float.__eq__, rewards, theirs["rewards"])) / len(rewards)
        there = theirs["milliseconds"]
        print(f"{name:30}{cost_here:10.4f}{there:10.4f}{there / cost_here:9.1f}x{alike:10.0%}")


def verdicts_of(python: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What NeMo Gym says, by environment.

    Raises:
        RuntimeError: If it can't be asked.
    """
    done = subprocess.run(
        [str(python), str(Path(__file__).parent / "peers" / NEMO_GYM.script)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{NEMO_GYM.name} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _one_message(entry: EnvironmentEntry, task: Task) -> bool:
    turns = entry.environment.gold_turns(task)
    return len(turns) == 1 and [item["type"] for item in turns[0]] == ["message"]


MATH_MIX = (
    ("1/2", "0.5"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{3}{4}", r"\frac{6}{8}"),
    ("12", "13"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(1,2)", "(1,2)"),
    ("5", "3x-1"),
)


async def main(*, peers: bool) -> None:
    logging.disable(logging.WARNING)
    print(f"{'CPU time per reward, ms':30}{'gold':>10}{'wrong':>10}{'new wrong':>12}")
    least = statistics.median([await floor() for _ in range(3)])
    print(f"{'(floor)':30}{least:10.4f}{least:10.4f}{least:12.4f}")
    for name in environment_names():
        try:
            right, other, new = await cost(name)
        except (MissingExtra, Unsupported) as error:
            print(f"{name:30}{'-':>10}{'-':>10}  {error}", flush=True)
            continue
        print(f"{name:30}{right:10.4f}{other:10.4f}{new:12.4f}", flush=True)
    print(f"\n{'CPU time per check, ms':30}")
    for name, measure in parts().items():
        try:
            print(f"{name:30}{measure():10.4f}", flush=True)
        except ImportError as error:
            print(f"{name:30}{'-':>10}  {error}")
    print(f"\n{'worst of 50,000 characters':30}{'ms':>10}{'× half':>10}")
    for name, reader in READERS.items():
        worst, ratio, unit = growth(reader)
        print(f"{name:30}{worst:10.2f}{ratio:10.2f}  {unit!r}")
    if peers:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        python = installed_in(home / "gym_adapters" / "peers", NEMO_GYM)
        if python is None:
            print(f"{NEMO_GYM.name}: left out, it needs {' or '.join(NEMO_GYM.pythons)}")
        else:
            await nemo_gym(python)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", action="store_true", help="measure NeMo Gym, from PyPI")
    asyncio.run(main(peers=parser.parse_args().peers))
