"""Several addresses of one model: balanced, and left alone while they are down."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gym_adapters.errors import InvalidConfig

__all__ = ["Address", "Addresses", "check_address", "check_key"]

FAILURES_TO_OPEN = 5
PATIENCE = 180.0
# An address that never answered is more likely a wrong one than one that is starting again.
PATIENCE_AT_FIRST = 30.0


@dataclass(slots=True)
class Address:
    """One address and its circuit: after failures in a row, one request at a time tries it again.

    Attributes:
        url: Up to and with ``/v1``.
        in_flight: Requests under way.
        failures: Failures in a row, of whatever conversation.
        down_since: When the first of those came; ``None`` where the last request was answered.
        ever_answered: Whether it has answered at all.
    """

    url: str
    clock: Callable[[], float] = time.monotonic
    in_flight: int = 0
    failures: int = 0
    down_since: float | None = None
    ever_answered: bool = False
    _retry_at: float = 0.0
    _failed_tries: int = 0
    _trying: bool = False
    _rests_until: float = 0.0

    @property
    def trusted(self) -> bool:
        """Whether it is asked as if nothing were wrong."""
        return self.failures < FAILURES_TO_OPEN

    @property
    def ready(self) -> bool:
        """Whether it may be asked now."""
        if self.trusted:
            return True
        return not self._trying and self.clock() >= self._retry_at

    @property
    def free(self) -> bool:
        """Whether it may be asked now, and has not asked to be left alone."""
        return self.ready and self.clock() >= self._rests_until

    @property
    def given_up(self) -> bool:
        """Whether it has been down for so long that waiting has no more sense."""
        patience = PATIENCE if self.ever_answered else PATIENCE_AT_FIRST
        return (
            self.failures >= FAILURES_TO_OPEN
            and self.down_since is not None
            and self.clock() - self.down_since >= patience
        )

    def asked(self) -> bool:
        """Count a request that begins; whether it is the one that tries an address again."""
        tries = not self.trusted
        self._trying = self._trying or tries
        self.in_flight += 1
        return tries

    def done(self, tries: bool) -> None:
        """Count a request that ended; `tries` is what `asked` gave for it."""
        self.in_flight -= 1
        if tries:
            self._trying = False

    def rest(self, seconds: float) -> None:
        """It asks to be left alone for so long; conversations go to others, where there are any."""
        self._rests_until = self.clock() + seconds

    def answered(self) -> None:
        """It is there: whatever it said, short of a server's error."""
        self.failures, self.down_since, self.ever_answered = 0, None, True
        self._failed_tries = 0

    def failed(self, longest_pause: float, *, tries: bool = False) -> None:
        """It gave no answer, or a server's error; it is tried again after a growing pause.

        Args:
            longest_pause: Seconds.
            tries: What `asked` gave for the request.
        """
        self.failures += 1
        if self.down_since is None:
            self.down_since = self.clock()
        # Requests that were under way when it went down fail together, and say so but once.
        if tries:
            self._failed_tries += 1
        if tries or self.failures == FAILURES_TO_OPEN:
            pause = min(2.0 ** min(self._failed_tries, 30), longest_pause)
            self._retry_at = self.clock() + pause


@dataclass(slots=True)
class Addresses:
    """Where requests go: a conversation stays at its address while that is up."""

    all: Sequence[Address] = field(default_factory=list)
    _next: int = 0

    def choose(self, last: Address | None) -> Address | None:
        """The address to ask: `last`, else the one with the least to do; ``None`` if all are down.

        Args:
            last: Where the conversation was answered before, and its beginning may be cached.
        """
        if last is not None and last.free:
            return last
        ready = [address for address in self.all if address.free]
        if not ready and last is not None and last.ready:
            return last
        ready = ready or [address for address in self.all if address.ready]
        if not ready:
            return None
        if len(ready) == 1:
            return ready[0]
        # In turns among equals: a first wave of requests must not all go to the first address.
        self._next += 1
        order = self._next
        rank = {id(address): place for place, address in enumerate(self.all)}
        return min(
            ready,
            key=lambda each: (each.in_flight, (rank[id(each)] - order) % len(self.all)),
        )

    def another(self, last: Address) -> bool:
        """Whether another address than `last` may be asked at once."""
        return any(address is not last and address.free for address in self.all)

    @property
    def given_up(self) -> bool:
        """Whether all of them are."""
        return all(address.given_up for address in self.all)


def check_address(model: str, url: str) -> None:
    """Refuse what no request can be sent to.

    Raises:
        InvalidConfig: If `url` is no address, or holds a secret, or `model` no name.
    """
    wrong = InvalidConfig(
        f"an endpoint needs a model's name and an address like http://localhost:8000/v1, "
        f"not {model!r} and {url!r}"
    )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if not usable or not model:
        raise wrong
    if parts.query or parts.fragment:
        # What stands there may be a key, and addresses are recorded.
        raise InvalidConfig(
            f"an endpoint's address ends with its path, so nothing may follow a ? or # in "
            f"{url.partition('?')[0].partition('#')[0]}; a key goes into OPENAI_API_KEY"
        )
    if parts.username or parts.password:
        raise InvalidConfig("an endpoint's address must hold no password; use OPENAI_API_KEY")


def check_key(key: str) -> None:
    """Refuse a key that no request can carry.

    Raises:
        InvalidConfig: If it holds a control character.
    """
    if not key.isprintable():
        raise InvalidConfig(
            "the endpoint's key holds a line break or another control character, "
            "which no request can carry. Fix: set OPENAI_API_KEY to the key alone"
        )
