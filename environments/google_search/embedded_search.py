"""Full-text search over pages in memory: SQLite's FTS5, ranked by BM25. No network, no account."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gym_adapters import InvalidRow, ToolError, ToolInfrastructureError
from gym_adapters.task import read_rows

from .search_provider import SearchHit

__all__ = ["EmbeddedSearch", "Page", "read_pages"]

MOST_HITS = 10
MOST_WORDS = 32
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its address, its title, its text."""

    url: str
    title: str
    text: str


class EmbeddedSearch:
    """A `SearchProvider` over pages given once; close it with `close`.

    Args:
        pages: The pages; of two with one address the later counts.
    """

    def __init__(self, pages: Iterable[Page]) -> None:
        self._pages = {page.url: page for page in pages}
        # SQLite blocks, and a connection wants one user at a time: one thread has both.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("create virtual table pages using fts5(url unindexed, title, text)")
        self._index.executemany(
            "insert into pages values (?, ?, ?)",
            [(page.url, page.title, page.text) for page in self._pages.values()],
        )

    async def search(self, query: str) -> list[SearchHit]:
        """At most ten pages that hold any word of `query`; a title counts five times its text."""
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:MOST_WORDS]
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._matching, match)
        except sqlite3.Error as error:
            raise ToolInfrastructureError(f"the search index failed: {error}") from error

    async def browse(self, url: str) -> str:
        """The text of the page at `url`.

        Raises:
            ToolError: If no page has the address.
        """
        page = self._pages.get(url)
        if page is None:
            raise ToolError("there is no page at this address; take one from a search result")
        return f"{page.title}\n\n{page.text}"

    def close(self) -> None:
        """Free the index."""
        self._thread.shutdown()
        self._index.close()

    def _matching(self, match: str) -> list[SearchHit]:
        found = self._index.execute(
            "select title, url, snippet(pages, 2, '', '', ' ... ', 24) from pages"
            " where pages match ? order by bm25(pages, 0, 5, 1), rowid limit ?",
            (match, MOST_HITS),
        )
        with closing(found):
            return [SearchHit(*row) for row in found]


def read_pages(path: Path) -> list[Page]:
    """The pages of a JSONL file with ``url``, ``title`` and ``text``.

    Raises:
        InvalidRow: Naming the line and the field.
    """
    pages = []
    for line, row in read_rows(path):
        for field in ("url", "title", "text"):
            if not isinstance(row.get(field), str):
                raise InvalidRow(
                    "a page needs this field as text.",
                    field=field,
                    fix='write {"url": "...", "title": "...", "text": "..."}.',
                    source=str(path),
                    line=line,
                )
        pages.append(Page(row["url"], row["title"], row["text"]))
    return pages
