"""Files of lines compressed with Zstandard: one frame for each append, so that none needs the next.

A frame that its writer could not finish is told by its length alone, as RFC 8878 lays frames out,
and cut away; whatever the byte at which a process died, the lines before it can be read.
"""

from __future__ import annotations

import io
import mmap
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from gym_adapters.errors import InvalidRow
from gym_adapters.extras import require

__all__ = [
    "SUFFIX",
    "Compression",
    "compressed",
    "cut_torn_frame",
    "is_compressed",
    "open_seekable",
    "open_stored",
    "stored",
]

SUFFIX = ".zst"
_MAGIC = b"\x28\xb5\x2f\xfd"
_NEEDED_FOR = "a file compressed with Zstandard"
_BLOCK_HEADER, _CHECKSUM, _RUN_LENGTH = 3, 4, 1


class Compression(StrEnum):
    """How the rollouts of a run are compressed."""

    ZSTD = "zstd"


def stored(path: Path) -> Path:
    """Where the lines of `path` are: there, or under the same name with ``.zst``."""
    other = path.with_name(path.name + SUFFIX)
    return other if other.exists() else path


def is_compressed(path: Path) -> bool:
    """Whether it is, by its name."""
    return path.suffix == SUFFIX


def compressed(lines: bytes) -> bytes:
    """`lines` as one frame, with a checksum.

    Raises:
        MissingExtra: If the package is not installed.
    """
    zstandard = require("zstandard", "zstd", _NEEDED_FOR)
    return cast("bytes", zstandard.ZstdCompressor(write_checksum=True).compress(lines))


def open_stored(path: Path) -> BinaryIO:
    """`path` open to read its lines, compressed or not. A torn frame ends it.

    Raises:
        MissingExtra: If it is compressed and the package is not installed.
    """
    file = path.open("rb")
    if not is_compressed(path):
        return file
    try:
        zstandard = require("zstandard", "zstd", _NEEDED_FOR)
        raw = zstandard.ZstdDecompressor().stream_reader(
            file, read_across_frames=True, closefd=True
        )
    except BaseException:
        file.close()
        raise
    return io.BufferedReader(_Frames(raw, path, zstandard.ZstdError), 1 << 17)


def open_seekable(path: Path) -> BinaryIO:
    """The same, to be read at any place: a compressed file is unpacked to a temporary one."""
    if not is_compressed(path):
        return path.open("rb")
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with open_stored(path) as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.seek(0)
    except BaseException:
        plain.close()
        raise
    return cast("BinaryIO", plain)


def cut_torn_frame(path: Path) -> int:
    """Cut what stands after the last whole frame of `path`: one whose writer died.

    Returns:
        Number of bytes cut; 0 also where there is no such file.

    Raises:
        InvalidRow: If something else than a frame stands there: that is no crash of a writer.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, io.SEEK_END)
            whole = _end_of_last_frame(file, size, path)
            if whole < size:
                file.truncate(whole)
            return size - whole
    except FileNotFoundError:
        return 0


def _end_of_last_frame(file: BinaryIO, size: int, path: Path) -> int:
    if not size:
        return 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        end = 0
        while end < size:
            begin = data[end : end + len(_MAGIC)]
            if not _MAGIC.startswith(begin) and any(data[end:]):
                raise _damaged(path, f"byte {end} begins no frame")
            after = _end_of_frame(data, end) if begin == _MAGIC else None
            if after is None or after > size:
                break
            end = after
        return end


def _end_of_frame(data: mmap.mmap, start: int) -> int | None:
    """Where the frame at `start` ends; ``None`` where too little of it is there to tell."""
    zstandard = require("zstandard", "zstd", _NEEDED_FOR)
    try:
        head = data[start : start + 18]  # the longest header
        at = start + int(zstandard.frame_header_size(head))
        has_checksum = bool(zstandard.get_frame_parameters(head).has_checksum)
    except zstandard.ZstdError:
        return None
    while True:
        block = data[at : at + _BLOCK_HEADER]
        if len(block) < _BLOCK_HEADER:
            return None
        number = int.from_bytes(block, "little")
        last, kind, size = number & 1, (number >> 1) & 3, number >> 3
        at += _BLOCK_HEADER + (1 if kind == _RUN_LENGTH else size)
        if last:
            return at + (_CHECKSUM if has_checksum else 0)


class _Frames(io.RawIOBase):
    """What a decompressor gives; damage names the file."""

    def __init__(self, raw: BinaryIO, path: Path, damage: type[Exception]) -> None:
        self._raw, self._path, self._damage = raw, path, damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            return int(self._raw.readinto(buffer))  # type: ignore[attr-defined]
        except self._damage as error:
            raise _damaged(self._path, str(error)) from error

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _damaged(path: Path, what: str) -> InvalidRow:
    return InvalidRow(
        f"the file is damaged: {what}.",
        fix="restore it from a copy, or collect again.",
        source=str(path),
    )
