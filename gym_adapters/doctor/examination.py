"""Everything that is looked at, in the order a run would stumble over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gym_adapters.adapters.capabilities import CARRIES, Feature, refuse_unsupported
from gym_adapters.config import Budget
from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.lengths import (
    Opening,
    length_findings,
    openings,
    prompt_sizes,
    token_finding,
)
from gym_adapters.doctor.machine import Machine, machine_findings, this_machine
from gym_adapters.doctor.memory import memory_findings
from gym_adapters.doctor.model_files import ModelFiles, find_model
from gym_adapters.doctor.setup import Setup, setup_of
from gym_adapters.doctor.stop_tokens import stop_token_findings
from gym_adapters.doctor.template import Speech, needed_shapes, speech_of, template_findings
from gym_adapters.doctor.trainers import trainer_findings
from gym_adapters.errors import GymAdaptersError, InvalidConfig, Unsupported
from gym_adapters.extras import require
from gym_adapters.items import FunctionTool
from gym_adapters.registry import EnvironmentEntry, load_environment
from gym_adapters.rollouts.task_input import TaskInput
from gym_adapters.task import Task
from gym_adapters.tokens.tokenizer import ChatTokenizer
from gym_adapters.training.recipe import EnvironmentTasks, Recipe
from gym_adapters.training.rows import settings_of
from gym_adapters.training.smoke import TINY

__all__ = ["Asked", "examine"]

LOOKED_AT = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be run.

    Attributes:
        model: Name or folder; by default the recipe's.
        environments: Names; by default the recipe's.
        recipe: The recipe.
    """

    model: str | None = None
    environments: tuple[str, ...] = ()
    recipe: Recipe | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """An environment, and what is known of its conversations.

    Attributes:
        entry: The environment.
        tasks: Some of its tasks.
        found: How their episodes begin.
    """

    entry: EnvironmentEntry
    tasks: Sequence[Task]
    found: list[Opening] = field(default_factory=list)

    @property
    def tools(self) -> list[FunctionTool]:
        """All tools of the episodes looked at."""
        by_name = {tool["name"]: tool for opening in self.found for tool in opening.tools}
        return list(by_name.values())


def examine(asked: Asked, machine: Machine | None = None) -> Iterator[Finding]:
    """Look at machine, trainers, environment and model; what can't be looked at is told.

    Raises:
        UnknownEnvironment: If an environment's name is not known.
        InvalidConfig: If settings of a recipe are wrong.
    """
    machine = machine if machine is not None else this_machine()
    setup = setup_of(asked.recipe) if asked.recipe is not None else None
    yield from machine_findings(machine)
    yield from trainer_findings(
        setup.trainer if setup is not None else None,
        with_vllm=setup is not None and setup.engine != "none",
    )
    places: list[Place] = []
    for name, rows in _rows_of(asked).items():
        place = Place(load_environment(name), [])
        yield from _environment(place.entry, rows, setup, places)
    model = _model_of(asked)
    if model is not None:
        yield from _model(model, asked, setup, machine, places)


def _rows_of(asked: Asked) -> dict[str, EnvironmentTasks]:
    recipe = asked.recipe
    told = dict(recipe.environments) if recipe is not None else {}
    if asked.environments:
        return {name: told.get(name, EnvironmentTasks()) for name in asked.environments}
    return told


def _model_of(asked: Asked) -> str | None:
    if asked.model is not None or asked.recipe is None:
        return asked.model
    return asked.recipe.model


def _environment(
    entry: EnvironmentEntry, rows: EnvironmentTasks, setup: Setup | None, places: list[Place]
) -> Iterator[Finding]:
    """Whether its tasks can be read, its episodes begin, and the trainer can carry it."""
    part = entry.name
    try:
        source = TaskInput(
            entry,
            path=rows.rows,
            generate=min(rows.generate, LOOKED_AT) if rows.generate is not None else None,
            difficulty=rows.difficulty,
            limit=LOOKED_AT,
        )
        tasks = list(source())
        found = openings(entry, tasks, settings_of(rows))
    except (GymAdaptersError, TimeoutError) as error:
        fix = f"gym-adapters validate {entry.name} ROWS, and gym-adapters envs {entry.name}"
        yield failed(part, "episodes", f"they can't be started here: {error}", fix)
        return
    if not found:
        yield failed(part, "episodes", "there are no tasks", "give rows, or generate them")
        return
    places.append(Place(entry, tasks, found))
    yield fine(part, "episodes", f"{len(found)} started")
    if setup is not None and setup.samples:
        yield _carried(entry, tasks, setup)


def _carried(entry: EnvironmentEntry, tasks: Sequence[Task], setup: Setup) -> Finding:
    try:
        refuse_unsupported(setup.adapter, entry.environment, tasks)
    except Unsupported as error:
        fix = "another trainer: see the table in its page of the docs"
        return failed(entry.name, "trainer", str(error), fix)
    return fine(entry.name, "trainer", f"{setup.adapter.value} carries all that it needs")


def _model(
    name: str, asked: Asked, setup: Setup | None, machine: Machine, places: list[Place]
) -> Iterator[Finding]:
    try:
        model = find_model(_tiny_folder() if name == TINY else name)
        count = len(model.weights)
    except InvalidConfig as error:
        # A recipe's model is downloaded by the trainer; one given by name was to be looked at.
        level = failed if asked.model is not None else warned
        what, _, fix = str(error).partition(". Fix: ")
        yield level("model", "files", what, fix)
        return
    yield fine("model", "files", f"{model.folder}, {count} tensors")
    yield from _speaking(model, asked.recipe, setup, machine, places)


def _tiny_folder() -> str:
    from gym_adapters.testing.tiny_model import tiny_policy

    return str(tiny_policy().model_path)


def _speaking(
    model: ModelFiles,
    recipe: Recipe | None,
    setup: Setup | None,
    machine: Machine,
    places: list[Place],
) -> Iterator[Finding]:
    try:
        speech = speech_of(_tokenizer(model), _variables(recipe))
    except (GymAdaptersError, OSError, ValueError) as error:
        fix = "the tokenizer of an instruction-tuned model, saved beside the weights"
        yield failed("chat template", "tokenizer", str(error), fix)
        return
    shapes, tools = _conversations(places, speech)
    takes = None
    if setup is not None:
        takes = CARRIES[setup.adapter].features[Feature.SEVERAL_SEGMENTS].carried
    try:
        yield from template_findings(speech, shapes, tools, takes_segments=takes)
        yield from stop_token_findings(speech, model)
    except GymAdaptersError as error:
        yield failed("chat template", "rendering", str(error), "another chat template or model")
    yield from _sizes(model, speech, setup, machine, places)


def _conversations(
    places: Sequence[Place], speech: Speech
) -> tuple[frozenset[str], list[FunctionTool]]:
    """The shapes of all environments' conversations, and their tools; every shape without any."""
    if not places:
        shapes = needed_shapes(tools=True, replies=True, thinks=speech.thinks)
        return shapes, []
    shapes = frozenset[str]().union(
        *(
            needed_shapes(
                tools=bool(place.tools),
                replies=place.entry.environment.capabilities().replies,
                thinks=speech.thinks,
            )
            for place in places
        )
    )
    return shapes, [tool for place in places for tool in place.tools]


def _sizes(
    model: ModelFiles,
    speech: Speech,
    setup: Setup | None,
    machine: Machine,
    places: Sequence[Place],
) -> Iterator[Finding]:
    most: int | None = None
    for place in places:
        try:
            sizes = prompt_sizes(speech.renderer, place.found)
        except GymAdaptersError as error:
            yield failed(place.entry.name, "prompts", str(error), "another chat template or model")
            continue
        card = place.entry.card
        limits = card.budget if card is not None else Budget()
        budget = limits.max_turns * limits.max_tokens_per_turn
        found = list(length_findings(sizes, setup, context=model.max_context, budget=budget))
        if setup is not None and (tokens := token_finding(setup, max(sizes), budget)) is not None:
            found.append(tokens)
        # With several environments, each finding says whose it is.
        yield from found if len(places) == 1 else [_of(place.entry.name, each) for each in found]
        asked = (setup.max_completion if setup is not None else None) or budget
        most = max(most or 0, max(sizes) + asked)
    if most is not None and model.max_context is not None:
        most = min(most, model.max_context)
    yield from memory_findings(model, setup, machine, rollout_tokens=most)


def _of(name: str, finding: Finding) -> Finding:
    return replace(finding, subject=f"{finding.subject} ({name})")


def _tokenizer(model: ModelFiles) -> ChatTokenizer:
    transformers = require("transformers", "tokens", "looking at a chat template")
    tokenizer: ChatTokenizer = transformers.AutoTokenizer.from_pretrained(
        Path(model.folder), local_files_only=True
    )
    return tokenizer


def _variables(recipe: Recipe | None) -> dict[str, Any] | None:
    given = recipe.arguments.get("chat_template_kwargs") if recipe is not None else None
    return dict(given) if isinstance(given, dict) else None
