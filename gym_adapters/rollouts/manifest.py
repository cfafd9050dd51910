"""What a run was made of, so that it can be told, repeated and resumed. Holds no secrets."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import orjson

from gym_adapters import __version__
from gym_adapters.errors import InvalidConfig

__all__ = ["IDENTITY", "Manifest", "git_state", "without_secrets"]

FORMAT_VERSION = 1

IDENTITY = (
    "environment",
    "environment_version",
    "environment_config",
    "model",
    "template_hash",
    "seed",
    "sampling",
    "limits",
    "blend",
)
"""What must be the same for two sessions to add to one run."""

_SECRET = re.compile(
    r"(api_?key|token|secret|password|passwd|credential|authorization)s?$", re.IGNORECASE
)
REDACTED = "<not recorded>"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is made of; the keys of `IDENTITY` say whether two runs may be one.

    Attributes:
        environment: Its name.
        environment_version: Its version.
        environment_config: Its settings; values whose names speak of secrets are left out.
        model: The model spec, without passwords in addresses.
        template_hash: Chat template and tokenizer; ``None`` where no tokens are kept.
        seed: Seed of the run.
        sampling: How each turn is sampled; ``None`` for what each row asks.
        limits: Budgets of episode and agent.
        num_repeats: Attempts at each task.
        input: Where the tasks came from.
        blend: Weights of the environments of a run of several; its names, versions, settings,
            sampling and limits are then those of all of them.
        git: Commit of the working directory, and whether files differed from it.
        sessions: When the run was begun and resumed, in UTC.
    """

    environment: str
    environment_version: str
    model: str
    template_hash: str | None
    seed: int
    environment_config: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    num_repeats: int = 1
    input: str = ""
    blend: Mapping[str, float] | None = None
    git: Mapping[str, Any] | None = None
    library_version: str = __version__
    python_version: str = field(default_factory=platform.python_version)
    sessions: tuple[str, ...] = field(
        default_factory=lambda: (datetime.now(UTC).isoformat(timespec="seconds"),)
    )
    format: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The manifest as one JSON-serialisable object, free of secrets."""
        data: dict[str, Any] = without_secrets(asdict(self))
        return data

    @classmethod
    def read(cls, path: Path) -> Self:
        """The manifest in `path`.

        Raises:
            InvalidConfig: If it is absent, or not one of this version.
        """
        try:
            data = orjson.loads(path.read_bytes())
            return cls(**{**data, "sessions": tuple(data["sessions"])})
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidConfig(
                f"{path} is absent: {path.parent} is not the folder of a run"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidConfig(
                f"{path} is not a manifest of this version: {error}. "
                "Fix: give another folder with --output, or start over with --overwrite"
            ) from error

    def check_resumable_from(self, other: Manifest, folder: Path) -> None:
        """Refuse to add to a run that was made of something else.

        Raises:
            InvalidConfig: Naming every key of `IDENTITY` that differs, with both values.
        """
        mine, theirs = _as_read_back(self), _as_read_back(other)
        # Of other environments all the rest differs too, and says nothing more.
        others = mine["environment"] != theirs["environment"]
        different = [
            f"{path} was {_short(then)}, and is {_short(now)} now"
            for key in (("environment",) if others else IDENTITY)
            for path, then, now in _differences(key, theirs.get(key), mine.get(key))
        ]
        if different:
            raise InvalidConfig(
                f"{folder} holds a run that was made differently: {'; '.join(different)}. "
                "Fix: use the same settings, or give another folder with --output"
            )


def without_secrets(value: Any, key: str = "") -> Any:
    """`value` without passwords in addresses and without values that are named as secrets."""
    if isinstance(value, Mapping):
        return {name: without_secrets(each, str(name)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each, key) for each in value]
    if isinstance(value, str):
        return REDACTED if value and _SECRET.search(key) else _without_password(value)
    return value


def _without_password(text: str) -> str:
    scheme_at = text.find("://")
    if scheme_at < 0 or "@" not in text[scheme_at:]:
        return text
    # A spec may put something before the address, as openai:NAME@https://host/v1 does.
    begin = max(text.rfind(mark, 0, scheme_at) for mark in "@= ,;(") + 1
    try:
        parts = urlsplit(text[begin:])
    except ValueError:
        return REDACTED
    if "@" not in parts.netloc:
        return text
    return text[:begin] + urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _differences(key: str, then: Any, now: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            found
            for name in sorted({*then, *now})
            for found in _differences(f"{key}.{name}", then.get(name), now.get(name))
        ]
    return [] if then == now else [(key, then, now)]


def _as_read_back(manifest: Manifest) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(orjson.dumps(manifest.to_json(), default=str))
    return data


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of `folder` and whether tracked files differ from it; ``None`` outside of git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
