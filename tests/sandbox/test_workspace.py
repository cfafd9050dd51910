"""A workspace's files stay inside it, and go with it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from gym_adapters import ToolError
from gym_adapters.errors import SandboxError
from gym_adapters.sandbox import Workspace


async def test_files_are_written_read_and_removed_with_the_folder() -> None:
    async with await Workspace.create() as workspace:
        await workspace.write("a/b.txt", "text")
        assert await workspace.read("a/b.txt") == "text"
        assert await workspace.read("a/b.txt", most=2) == "te"
        path = workspace.path
    assert not path.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x"])
async def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    async with await Workspace.create() as workspace:
        (workspace.path / "link").symlink_to(tmp_path)
        with pytest.raises(ToolError, match="outside the workspace"):
            await workspace.write(name, "text")
        with pytest.raises(ToolError, match="outside the workspace"):
            await workspace.read(name)


async def test_what_is_no_file_can_not_be_read() -> None:
    async with await Workspace.create() as workspace:
        with pytest.raises(ToolError, match="no file"):
            await workspace.read("absent")
        with pytest.raises(ToolError, match="can't be written"):
            await workspace.write(".", "text")


async def test_an_archive_is_unpacked_and_one_that_leads_outside_is_refused(
    tmp_path: Path,
) -> None:
    good, bad = tmp_path / "good.tar.gz", tmp_path / "bad.tar"
    for path, name in ((good, "src/a.py"), (bad, "../a.py")):
        with tarfile.open(path, "w:gz" if path is good else "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    async with await Workspace.create() as workspace:
        await workspace.extract(good)
        assert await workspace.read("src/a.py") == "1"
        with pytest.raises(SandboxError, match="can't be unpacked"):
            await workspace.extract(bad)
