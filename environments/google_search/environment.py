"""Questions that are answered by searching and reading."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from itertools import islice
from pathlib import Path
from typing import Literal

import orjson

from gym_adapters import (
    Environment,
    EnvironmentConfig,
    Reward,
    Task,
    ToolInfrastructureError,
    Transcript,
    tool,
)
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.verifiers.answers import boxed

from .almanac import SITE, Question, pages, questions
from .embedded_search import EmbeddedSearch, read_pages
from .search_provider import SearchProvider
from .web_search import open_web_search

__all__ = ["GoogleSearch", "GoogleSearchConfig", "GoogleSearchTask"]

MOST_WORDS = 10_000
INSTRUCTIONS = (
    "Answer the question with the help of the tools: `search` finds pages, `browse` reads one. "
    "Make one call at a time. At the end give the letter of the right option, and nothing but the "
    "letter, inside \\boxed{}."
)


class GoogleSearchTask(Task):
    """A question and the answer that must stand in the first box of the final message.

    Attributes:
        expected_answer: The answer, as it should be boxed.
        pages: Titles of the pages that hold the facts; only gold transcripts use them.
    """

    expected_answer: str
    pages: Sequence[str] = ()


class GoogleSearchConfig(EnvironmentConfig):
    """Settings.

    Attributes:
        provider: ``embedded`` searches the pages of `corpus`; ``web`` asks Google's Custom Search
            API and reads pages of the web, which needs the extra ``search``, network and a key.
        corpus: JSONL file of pages (``url``, ``title``, ``text``); by default our almanac.
        key_variable: Environment variable that holds the API's key.
        engine_variable: Environment variable that holds the search engine's id.
    """

    provider: Literal["embedded", "web"] = "embedded"
    corpus: Path | None = None
    key_variable: str = "GOOGLE_API_KEY"
    engine_variable: str = "GOOGLE_CSE_ID"


class GoogleSearch(Environment[GoogleSearchTask]):
    r"""Answer a question with a search engine and a page reader.

    The reward is 1 if the first ``\boxed{}`` of the final message holds the expected answer, else
    0. An attempt that was cut short scores 0.
    """

    name = "google_search"
    stateless_verify = True
    Config = GoogleSearchConfig
    resources: SearchProvider

    @classmethod
    @asynccontextmanager
    async def open_resources(cls, config: EnvironmentConfig) -> AsyncIterator[SearchProvider]:
        """The provider, shared by all rollouts."""
        settings = config if isinstance(config, GoogleSearchConfig) else GoogleSearchConfig()
        if settings.provider == "web":
            web = open_web_search(
                key_variable=settings.key_variable, engine_variable=settings.engine_variable
            )
            async with web:
                yield web
            return
        corpus = read_pages(settings.corpus) if settings.corpus is not None else pages()
        with closing(EmbeddedSearch(corpus)) as embedded:
            yield embedded

    @tool
    async def search(self, query: str) -> dict[str, str]:
        """Search for a query and return up to 10 results.

        Args:
            query: What to search for.
        """
        hits = await self._provider().search(query)
        items = [{"title": h.title, "link": h.link, "snippet": h.snippet} for h in hits]
        return {"search_results": orjson.dumps({"items": items}).decode()}

    @tool
    async def browse(self, url: str) -> dict[str, str]:
        """Return the text of a page, at most 10,000 words of it.

        Args:
            url: The page's address.
        """
        text = await self._provider().browse(url)
        words = text.split(maxsplit=MOST_WORDS)
        if len(words) > MOST_WORDS:
            text = " ".join(words[:MOST_WORDS]) + " ..."
        return {"page_content": text}

    async def verify(self, transcript: Transcript) -> Reward:
        """Compare what is boxed with the expected answer."""
        boxes = [] if transcript.truncated else boxed(transcript.final_text)
        if not boxes:
            return Reward(0.0, info={"reason": "cut short" if transcript.truncated else "no box"})
        return Reward(float(boxes[0] == self.task.expected_answer), info={"answer": boxes[0]})

    @classmethod
    def generate_tasks(
        cls, count: int, *, seed: int = 0, difficulty: float = 0.5
    ) -> Iterator[GoogleSearchTask]:
        """Questions about the almanac.

        Args:
            count: How many.
            seed: Seed of the generator.
            difficulty: At 0 the fact stands on one page; at 1 it may take three.
        """
        made = questions(random.Random(seed), difficulty)
        for question in islice(made, count):
            yield _task(question)

    @classmethod
    def gold_turns(cls, task: GoogleSearchTask) -> Sequence[Sequence[Item]]:
        """A search and a page for each fact, then the answer; only the answer in published rows."""
        turns: list[list[Item]] = []
        for number, title in enumerate(task.pages):
            query = orjson.dumps({"query": title}).decode()
            address = f"{SITE}/{title.lower().replace(' ', '-')}"
            url = orjson.dumps({"url": address}).decode()
            turns.append([function_call("search", query, f"call_{2 * number}")])
            turns.append([function_call("browse", url, f"call_{2 * number + 1}")])
        return [*turns, [assistant_message(f"\\boxed{{{task.expected_answer}}}")]]

    def _provider(self) -> SearchProvider:
        if self.resources is None:
            raise ToolInfrastructureError(
                "google_search needs its resources: open them with open_resources()"
            )
        return self.resources


def _task(question: Question) -> GoogleSearchTask:
    tools = [spec.declaration() for spec in GoogleSearch.class_tools.values()]
    row = {
        "responses_create_params": {
            "instructions": INSTRUCTIONS,
            "input": question.text,
            "tools": tools,
            "parallel_tool_calls": False,
        },
        "expected_answer": question.answer,
        "pages": list(question.titles),
    }
    # Through JSON, so that a generated task is what reading its row back gives.
    return GoogleSearchTask.from_row(orjson.loads(orjson.dumps(row)))
