"""Lines survive what a disk and a crash can do to them."""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gym_adapters.rollouts.append_file import AppendFile, cut_torn_line


class FullDisk(FileIO):
    """A file on a disk with room for `room` more bytes."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path, "ab")
        self.room = room

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(bytes(data)[: self.room])
        self.room -= written
        return written


class SlowDisk(FileIO):
    """A file that takes three bytes a call."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return super().write(bytes(data)[:3])


def test_lines_are_in_the_file_as_soon_as_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with AppendFile(path) as file:
        file.append(b"one\n")
        assert path.read_bytes() == b"one\n"
        file.append(b"two\nthree\n")
        assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_line_that_a_full_disk_takes_in_part_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    file = AppendFile(path, opener=lambda path: FullDisk(path, room=6))
    file.append(b"one\n")
    with pytest.raises(OSError, match="No space left"):
        file.append(b"two\n")
    assert path.read_bytes() == b"one\n"
    file.close()


def test_a_full_disk_is_told_with_the_file_that_it_has_no_room_for(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with (
        AppendFile(path, opener=lambda path: FullDisk(path, room=0)) as file,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        file.append(b"one\n")
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.ENOSPC


def test_it_goes_on_once_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    disk = FullDisk(path, room=2)
    with AppendFile(path, opener=lambda _: disk) as file:
        with pytest.raises(OSError, match="No space left"):
            file.append(b"one\n")
        disk.room = 100
        file.append(b"two\n")
    assert path.read_bytes() == b"two\n"


def test_short_writes_are_continued(tmp_path: Path) -> None:
    with AppendFile(tmp_path / "lines", opener=lambda path: SlowDisk(path, "ab")) as file:
        file.append(b"a longer line\n")
    assert (tmp_path / "lines").read_bytes() == b"a longer line\n"


def test_an_absent_file_has_no_torn_line(tmp_path: Path) -> None:
    assert cut_torn_line(tmp_path / "absent") == 0
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"torn", b""),
        (b"whole\n", b"whole\n"),
        (b"whole\ntorn", b"whole\n"),
        (b"whole\n" + b"x" * 200_000, b"whole\n"),
        (b"x" * 100_000 + b"\n" + b"y" * 65_536, b"x" * 100_000 + b"\n"),
    ],
)
def test_a_torn_line_is_cut_and_whole_ones_are_kept(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    assert cut_torn_line(path) == len(before) - len(after)
    assert path.read_bytes() == after


@given(st.lists(st.binary().map(lambda b: b.replace(b"\n", b"")), max_size=5), st.integers(0, 40))
def test_whatever_byte_the_writer_died_at_only_whole_lines_stay(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], died_at: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "lines"
    text = b"".join(line + b"\n" for line in lines)[:died_at]
    path.write_bytes(text)
    cut_torn_line(path)
    assert path.read_bytes() == text[: text.rfind(b"\n") + 1]
