"""Files of lines that appear whole or not at all, each with a card next to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import orjson

from gym_adapters import __version__
from gym_adapters.errors import UsageError
from gym_adapters.rollouts.json_line import json_line
from gym_adapters.rollouts.manifest import without_secrets

__all__ = ["WrittenFile", "card_path"]


def card_path(path: Path) -> Path:
    """Where the card of the file `path` stands."""
    return path.with_name(path.name + ".card.json")


class WrittenFile:
    """A JSONL file that takes its name when the block ends well; else it leaves nothing behind.

    Args:
        path: The file; its folder is made where absent.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        UsageError: If there is such a file and `overwrite` is false, or its name is another
            format's.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        self.rows = 0
        self._overwrite = overwrite
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        self._card: dict[str, Any] | None = None
        self._hash = hashlib.sha256()
        self._file: IO[bytes] | None = None
        if path.suffix == ".parquet":
            raise UsageError(f"{path} would hold JSON lines. Fix: name it .jsonl")
        self._refuse_existing()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        if self._file is None:
            raise UsageError(f"{self.path} is not open for writing")
        line = json_line(row)
        self._file.write(line)
        self._hash.update(line)
        self.rows += 1

    def describe(self, card: Mapping[str, Any]) -> None:
        """Say what the file is; written next to it, with its row count and hash."""
        self._card = dict(card)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with file:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())
            if kind is None:
                self._refuse_existing()
                self._write_card()
                self._draft.replace(self.path)
        finally:
            self._draft.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self._overwrite:
            raise UsageError(
                f"{self.path} is there already. Fix: name another file, or --overwrite"
            )

    def _write_card(self) -> None:
        if self._card is None:
            return
        facts = {
            "file": self.path.name,
            **without_secrets(self._card),
            "rows": self.rows,
            "sha256": self._hash.hexdigest(),
            "library_version": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        target = card_path(self.path)
        draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        draft.write_bytes(orjson.dumps(facts, option=options))
        draft.replace(target)
