"""An office with email, calendar, website analytics, project boards and customers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from gym_adapters import Environment, EnvironmentConfig, Reward, Task, Transcript
from gym_adapters.environment import ToolCall
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.verifiers.state import differences
from gym_adapters.verifiers.tool_calls import successful_calls

from .analytics_tools import AnalyticsTools
from .calendar_tools import CalendarTools
from .customer_tools import CustomerTools
from .email_tools import DirectoryTools, EmailTools
from .generated_office import generated_database
from .generated_tasks import SYSTEM_PROMPT, Request, requests
from .project_tools import ProjectTools
from .tables import Database, Office, load_database

__all__ = ["ExpectedCall", "WorkplaceAssistant", "WorkplaceConfig", "WorkplaceTask"]

# Columns whose values are a fixed set, in which another case is another value.
CASE_SENSITIVE = frozenset({"status", "list_name", "board"})


class ExpectedCall(BaseModel):
    """A call whose effect an attempt should have; `arguments` is JSON text."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    arguments: str


class WorkplaceTask(Task):
    """A request, and the calls that fulfil it.

    Attributes:
        ground_truth: Calls that lead to the state an attempt should leave behind.
        category: The group of tools the request is about.
        lookups: Calls that find out what the others need; only gold transcripts use them.
    """

    ground_truth: list[ExpectedCall]
    category: str | None = None
    lookups: Sequence[ExpectedCall] = ()


class WorkplaceConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        database: Folder of six CSV files to start from; by default a generated office.
        database_seed: Which generated office.
    """

    database: Path | None = None
    database_seed: int = 0


class WorkplaceAssistant(
    CustomerTools,
    ProjectTools,
    AnalyticsTools,
    CalendarTools,
    EmailTools,
    DirectoryTools,
    Environment[WorkplaceTask],
):
    """Do what is asked with 27 office tools.

    The reward is 1 if the office is left as the row's `ground_truth` would leave it, else 0. Case
    matters only in status, list and board. Calls that look things up are free.
    """

    name = "workplace_assistant"
    stateless_verify = True
    Config = WorkplaceConfig
    parallel_tool_calls = False
    office: Office

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[Database]:
        """The database, read once."""
        yield _database(config)

    async def start(self) -> None:
        """Open a private view of the database."""
        self.office = self._new_office()

    async def verify(self, transcript: Transcript) -> Reward:
        """Replay what was done, and what should have been, and compare the two offices."""
        done = successful_calls(transcript.tool_calls)
        expected = [ToolCall(c.name, c.arguments, None) for c in self.task.ground_truth]
        actual_office = await self._office_after(done)
        expected_office = await self._office_after(expected)
        changed = sorted(actual_office.state().keys() | expected_office.state().keys())
        found = differences(
            actual_office.state_of(changed),
            expected_office.state_of(changed),
            case_sensitive=CASE_SENSITIVE,
        )
        return Reward(float(not found), info={"differences": found} if found else {})

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[WorkplaceTask]:
        """Requests over the generated office of seed 0.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: The share of requests that take several changes, and how many at most.
        """
        made = requests(generated_database(0), random.Random(seed), difficulty)
        for number, request in enumerate(islice(made, count)):
            yield _task(number, request)

    @classmethod
    def gold_turns(cls, task: WorkplaceTask) -> Sequence[Sequence[Item]]:
        """The look-ups and the expected calls, one a turn, then a word that it is done."""
        calls = [
            [function_call(expected.name, expected.arguments, f"call_{number}")]
            for number, expected in enumerate((*task.lookups, *task.ground_truth))
        ]
        return [*calls, [assistant_message("Done.")]]

    def _new_office(self) -> Office:
        database = self.resources
        return Office(database if isinstance(database, Database) else _database(self.config))

    async def _office_after(self, calls: Iterable[ToolCall]) -> Office:
        """The office after `calls`; one that can't be made changes nothing."""
        replay = type(self)(self.task, config=self.config, resources=self.resources)
        replay.office = self._new_office()
        for made in calls:
            tool = replay.bound_tools.get(made.name)
            if tool is not None and tool.name not in READ_ONLY:
                await tool.call(made.arguments)
        return replay.office


READ_ONLY = frozenset(
    name
    for name in WorkplaceAssistant.class_tools
    if any(verb in name for verb in ("_get_", "_search_", "_find_", "_count"))
)


def _database(config: EnvironmentConfig) -> Database:
    settings = config if isinstance(config, WorkplaceConfig) else WorkplaceConfig()
    if settings.database is not None:
        return load_database(settings.database)
    return generated_database(settings.database_seed)


def _task(number: int, request: Request) -> WorkplaceTask:
    tools = [tool.declaration() for tool in WorkplaceAssistant.class_tools.values()]
    row = {
        "id": number,
        "responses_create_params": {
            "input": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": request.text},
            ],
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "ground_truth": list(request.calls),
        "lookups": list(request.lookups),
        "category": f"workplace_assistant_{request.category}",
        "environment_name": "workplace_assistant",
    }
    # Through JSON, so that a generated task is what reading its row back gives.
    return WorkplaceTask.from_row(orjson.loads(orjson.dumps(row)))
