"""Searching and reading: offline by default, and never a way into a private network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from gym_adapters.environments.google_search.almanac import pages
from gym_adapters.environments.google_search.embedded_search import (
    EmbeddedSearch,
    Page,
    read_pages,
)
from gym_adapters.environments.google_search.environment import (
    GoogleSearch,
    GoogleSearchConfig,
    GoogleSearchTask,
)
from gym_adapters.environments.google_search.web_search import WebSearch, open_web_search

from gym_adapters import Episode, InvalidRow, ToolError, ToolInfrastructureError, UsageError
from gym_adapters.episode import open_episode_resources
from gym_adapters.items import assistant_message, function_call
from gym_adapters.registry import load_environment
from gym_adapters.task import read_rows

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures" / "nemo_gym"
KEY = "s3cret-key"


def task(answer: str = "B") -> GoogleSearchTask:
    params = {"instructions": "Box it.", "input": "Which?"}
    return GoogleSearchTask.from_row({"responses_create_params": params, "expected_answer": answer})


async def verdict(text: str) -> tuple[float, dict[str, Any]]:
    async with Episode(GoogleSearch, task()) as episode:
        await episode.start()
        step = await episode.advance([assistant_message(text)])
    assert step.outcome is not None
    assert step.outcome.reward is not None
    return step.outcome.reward.value, dict(step.outcome.reward.info)


async def test_the_first_box_counts_and_none_is_a_reason() -> None:
    assert await verdict(r"\boxed{B} or \boxed{C}") == (1.0, {"answer": "B"})
    assert await verdict(r"\boxed{C} or \boxed{B}") == (0.0, {"answer": "C"})
    assert await verdict("B") == (0.0, {"reason": "no box"})


async def test_recorded_rollouts_score_as_recorded() -> None:
    path = FIXTURES / "google_search.jsonl"
    if not path.exists():
        pytest.skip(f"the recorded rollouts are not here: {path}")
    for _, rollout in read_rows(path):
        asked = GoogleSearchTask.from_row(rollout["task"])
        async with Episode(GoogleSearch, asked) as episode:
            await episode.start()
            step = await episode.advance([rollout["response"]["output"][-1]])
        assert step.outcome is not None
        assert step.outcome.reward is not None
        assert step.outcome.reward.value == rollout["recorded_reward"]


async def test_the_rows_instructions_come_first() -> None:
    async with Episode(GoogleSearch, task()) as episode:
        await episode.start()
    assert [(item["role"], item["content"]) for item in episode.prompt] == [
        ("system", "Box it."),
        ("user", "Which?"),
    ]


async def test_the_tools_search_and_read_the_almanac() -> None:
    async with (
        open_episode_resources(GoogleSearch) as resources,
        Episode(GoogleSearch, task(), resources=resources) as episode,
    ):
        await episode.start()
        step = await episode.advance(
            [function_call("search", '{"query": "who climbed Candle Fell?"}', "c0")]
        )
        found = json.loads(json.loads(step.items[0]["output"])["search_results"])
        assert found["items"][0]["title"] == "Candle Fell"
        url = json.dumps({"url": found["items"][0]["link"]})
        step = await episode.advance([function_call("browse", url, "c1")])
        assert "is a mountain of the Ossel Islands" in step.items[0]["output"]
        step = await episode.advance([function_call("browse", '{"url": "x"}', "c2")])
        assert json.loads(step.items[0]["output"])["error"]["type"] == "tool_error"


async def test_without_a_provider_a_search_leaves_the_rollout_unscored() -> None:
    async with Episode(GoogleSearch, task()) as episode:
        await episode.start()
        step = await episode.advance([function_call("search", '{"query": "x"}', "c0")])
    assert step.outcome is not None
    assert step.outcome.failure is not None
    assert step.outcome.failure.boundary == "tool"


@pytest.mark.parametrize(
    "query", ["", '" OR 1=1 --', "NEAR(", "title:x AND *", "a" * 100_000, "\0"]
)
async def test_any_query_is_only_words(query: str) -> None:
    index = EmbeddedSearch([Page("u", "Ardmouth", "a town")])
    assert all(hit.link == "u" for hit in await index.search(query))
    index.close()


async def test_titles_weigh_more_than_texts_and_ten_results_are_the_most() -> None:
    index = EmbeddedSearch([Page(f"u{n}", f"Page {n}", "about bells") for n in range(20)])
    assert len(await index.search("bells")) == 10
    index.close()
    index = EmbeddedSearch(
        [Page("a", "Other", "bells bells"), Page("b", "Bells", "nothing much here")]
    )
    assert [hit.link for hit in await index.search("bells")] == ["b", "a"]
    index.close()


def test_a_corpus_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_text('{"url": "u", "title": "t", "text": "x"}\n{"url": "u", "title": 1}\n')
    with pytest.raises(InvalidRow, match=r"pages\.jsonl:2: field 'title'"):
        read_pages(path)


def test_almanac_pages_are_all_different() -> None:
    assert len({page.url for page in pages()}) == len(pages()) == 37


@asynccontextmanager
async def served(
    search_status: int = 200, search_body: str = '{"items": []}'
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server with a search API and pages, and the queries it was asked."""
    asked: list[str] = []

    async def search(request: web.Request) -> web.Response:
        assert request.query["key"] == KEY
        asked.append(request.query["q"])
        return web.Response(status=search_status, text=search_body)

    async def page(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="<p>hello</p>", content_type="text/html")

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("/page")

    app = web.Application()
    app.router.add_get("/api", search)
    app.router.add_get("/page", page)
    app.router.add_get("/away", away)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = runner.addresses[0]
    try:
        yield f"http://127.0.0.1:{address[1]}", asked
    finally:
        await runner.cleanup()


def web_search(base: str, *, allow_private: bool = True) -> WebSearch:
    return WebSearch(
        aiohttp.ClientSession(),
        key=KEY,
        engine="cx",
        text_of=lambda html: html.removeprefix("<p>").removesuffix("</p>"),
        api=f"{base}/api",
        allow_private=allow_private,
    )


async def test_the_web_provider_asks_once_and_follows_redirects() -> None:
    body = '{"items": [{"title": "t", "link": "l", "snippet": "s"}, {"title": "u", "link": "m"}]}'
    async with served(search_body=body) as (base, asked), web_search(base) as provider:
        hits = await asyncio.gather(provider.search("q"), provider.search("q"))
        assert [hit.title for hit in hits[0]] == ["t", "u"]
        assert hits[0] == hits[1]
        assert await provider.browse(f"{base}/away") == "hello"
        assert asked == ["q", "/page"]


async def test_an_api_that_fails_is_no_fault_of_the_model_and_never_tells_the_key() -> None:
    async with served(search_status=403) as (base, _), web_search(base) as provider:
        with pytest.raises(ToolInfrastructureError, match="status 403"):
            await provider.search("q")
    async with web_search("http://127.0.0.1:1") as provider:
        with pytest.raises(ToolInfrastructureError) as caught:
            await provider.search("q")
    assert KEY not in str(caught.value)
    async with served(search_body="[]") as (base, _), web_search(base) as provider:
        with pytest.raises(ToolInfrastructureError, match="not readable"):
            await provider.search("q")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:8000/x",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "no address",
        "http://",
    ],
)
async def test_addresses_off_the_public_web_are_refused(url: str) -> None:
    async with web_search("http://127.0.0.1:1", allow_private=False) as provider:
        with pytest.raises(ToolError):
            await provider.browse(url)


async def test_a_missing_page_is_a_result_the_model_reads() -> None:
    async with served() as (base, _), web_search(base) as provider:
        with pytest.raises(ToolError, match="status 404"):
            await provider.browse(f"{base}/absent")


def test_the_web_provider_names_the_variable_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trafilatura")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with pytest.raises(UsageError, match="GOOGLE_API_KEY"):
        open_web_search(key_variable="GOOGLE_API_KEY", engine_variable="GOOGLE_CSE_ID")


def test_the_examples_are_the_generators_own() -> None:
    entry = load_environment("google_search")
    rows = [asked.to_row() for asked in entry.example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in GoogleSearch.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made
    assert entry.config(["provider=web"]) == GoogleSearchConfig(provider="web")
