"""A file of lines that a crash can't spoil: written through at once, torn tails cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import SEEK_END, RawIOBase
from pathlib import Path
from typing import BinaryIO, Self

__all__ = ["AppendFile", "cut_torn_line"]

_BLOCK = 65_536


class AppendFile:
    """Appends lines to a file.

    Each call of `append` writes its lines and returns when the operating system has them, so that
    they survive the end of the process, however it comes. If the disk refuses part of them, that
    part is cut away again, and the error raised.

    Args:
        path: The file; made where absent.
        opener: Opens it unbuffered, for tests that want a disk that fails.
        packed: What stands in the file for lines, e.g. a compressed frame; by default themselves.
    """

    def __init__(
        self,
        path: Path,
        *,
        opener: Callable[[Path], RawIOBase] | None = None,
        packed: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.path = path
        self._packed = packed
        self._file = (opener if opener is not None else _open)(path)
        self._end = self._file.seek(0, SEEK_END)

    def append(self, lines: bytes) -> None:
        """Write `lines`, each with its newline.

        Raises:
            OSError: If they can't be written; the file is then as it was before.
        """
        data = lines if self._packed is None else self._packed(lines)
        left = memoryview(data)
        try:
            while left:
                written = self._file.write(left)
                if not written:
                    raise OSError(f"{self.path} took no more bytes")
                left = left[written:]
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._end += len(data)

    def close(self) -> None:
        """Ask the disk itself to keep what was written, and close."""
        if self._file.closed:
            return
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _open(path: Path) -> RawIOBase:
    return open(path, "ab", buffering=0)


def cut_torn_line(path: Path) -> int:
    """Cut what stands after the last newline of `path`: a line whose writer died.

    Returns:
        Number of bytes cut; 0 also where there is no such file.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, SEEK_END)
            whole = _end_of_last_line(file, size)
            if whole < size:
                file.truncate(whole)
            return size - whole
    except FileNotFoundError:
        return 0


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
