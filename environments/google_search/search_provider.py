"""Where searches go: what every provider can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["SearchHit", "SearchProvider"]


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result: a page's title, its address, and a piece of its text."""

    title: str
    link: str
    snippet: str


class SearchProvider(Protocol):
    """Searches pages, and reads them."""

    async def search(self, query: str) -> list[SearchHit]:
        """At most ten results, the best first.

        Raises:
            ToolInfrastructureError: If the search itself can't be had.
        """
        ...

    async def browse(self, url: str) -> str:
        """The text of the page at `url`.

        Raises:
            ToolError: If there is no such page, or it may not be read: the model's to handle.
            ToolInfrastructureError: If pages can't be had at all.
        """
        ...
