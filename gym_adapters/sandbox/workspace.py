"""The folder of one attempt: all that its commands may write to."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gym_adapters.errors import SandboxError, ToolError
from gym_adapters.sandbox.confinement import may_change_users

__all__ = ["Workspace", "sandbox_user"]

# Far above the users of any distribution, so that no one else's processes count against a limit.
_FIRST_USER, _USERS = 200_000, 1_000_000


# What no command of a policy can be blamed for; a full disk is not its wrong answer.
_OF_THE_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS, errno.ENOMEM}
)


def sandbox_user() -> int | None:
    """A user nobody else is, for one sandbox, where the caller may change users."""
    if not may_change_users():
        return None
    return _FIRST_USER + secrets.randbelow(_USERS)


@dataclass(slots=True)
class Workspace:
    """A temporary folder, removed at the end of the ``async with`` block.

    Attributes:
        path: The folder; absolute.
        uid: The user its commands run as, where the caller may change users; else ``None``.
    """

    path: Path
    uid: int | None

    @classmethod
    async def create(cls, *, parent: Path | None = None) -> Workspace:
        """A fresh, empty workspace."""
        return await asyncio.to_thread(cls._create, parent)

    @classmethod
    def _create(cls, parent: Path | None) -> Workspace:
        try:
            path = Path(tempfile.mkdtemp(prefix="workspace-", dir=parent)).resolve()
        except OSError as error:
            raise SandboxError(f"no workspace could be made: {error}") from error
        workspace = cls(path, sandbox_user())
        workspace._give_away(path)
        return workspace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.remove()

    async def remove(self) -> None:
        """Delete the folder; more than once does nothing."""
        await asyncio.to_thread(_remove, self.path)

    def resolve(self, name: str) -> Path:
        """The path of the file `name`, which must lie in the workspace once links are followed.

        Raises:
            ToolError: If it leads out of the workspace.
        """
        found = (self.path / name).resolve()
        if not found.is_relative_to(self.path):
            raise ToolError(f"{name} is outside the workspace")
        return found

    async def write(self, name: str, text: str) -> None:
        """Write a file, and the folders it needs.

        Raises:
            ToolError: If `name` leads out of the workspace, or is a folder.
        """
        await asyncio.to_thread(self._write, name, text)

    async def read(self, name: str, *, most: int = 1024 * 1024) -> str:
        """The first `most` bytes of a file as text; undecodable bytes are replaced.

        Raises:
            ToolError: If `name` leads out of the workspace, or is not a file.
        """
        return await asyncio.to_thread(self._read, name, most)

    async def extract(self, archive: Path) -> None:
        """Unpack a tar archive. Links and members that lead outside are refused.

        Raises:
            SandboxError: If the archive can't be unpacked.
        """
        await asyncio.to_thread(self._extract, archive)

    def _write(self, name: str, text: str) -> None:
        path = self.resolve(name)
        try:
            new = [folder for folder in path.parents if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            if error.errno in _OF_THE_MACHINE:
                raise SandboxError(f"the workspace can't be written: {error.strerror}") from error
            raise ToolError(f"{name} can't be written: {error.strerror}") from error
        for made in (*new, path):
            self._give_away(made)

    def _read(self, name: str, most: int) -> str:
        path = self.resolve(name)
        if not path.is_file():
            raise ToolError(f"there is no file {name}")
        with path.open("rb") as file:
            return file.read(most).decode(errors="replace")

    def _extract(self, archive: Path) -> None:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(self.path, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise SandboxError(f"{archive} can't be unpacked: {error}") from error
        for folder, _, files in os.walk(self.path):
            self._give_away(Path(folder))
            for name in files:
                self._give_away(Path(folder, name))

    def _give_away(self, path: Path) -> None:
        if self.uid is not None:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)


def _remove(folder: Path) -> None:
    """Delete a folder, also where commands took the right to look into it away from its owner."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    with suppress(OSError):
        folder.chmod(0o700)
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            # A link may lead anywhere.
            if not path.is_symlink():
                with suppress(OSError):
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
