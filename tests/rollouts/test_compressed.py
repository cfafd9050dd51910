"""Compressed rollouts: whatever the byte at which a writer dies, what was written can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from gym_adapters import InvalidRow
from gym_adapters.rollouts.append_file import AppendFile

pytest.importorskip("zstandard", reason="needs the extra zstd")

from gym_adapters.rollouts.compressed import (
    compressed,
    cut_torn_frame,
    open_seekable,
    open_stored,
    stored,
)

LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        # One block of a single repeated byte, and more than one block.
        st.just(b"a" * 5000),
        st.integers(0, 2**32).map(lambda seed: noise(seed, 150_000)),
    ).map(lambda line: line.replace(b"\n", b" ") + b"\n"),
    min_size=1,
    max_size=4,
)


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not get shorter."""
    from random import Random

    return Random(seed).randbytes(size)


def written(path: Path, lines: list[bytes]) -> list[int]:
    """Append the lines; where each frame ends."""
    ends = []
    with AppendFile(path, packed=compressed) as file:
        for line in lines:
            file.append(line)
            ends.append(path.stat().st_size)
    return ends


@settings(max_examples=40, deadline=None)
@given(LINES, st.data())
def test_whatever_byte_the_writer_died_at_only_whole_frames_stay(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "rollouts.jsonl.zst"
    ends = written(path, lines)
    size = data.draw(st.integers(0, ends[-1]))
    with path.open("r+b") as file:
        file.truncate(size)
    whole = [end for end in ends if end <= size]
    assert cut_torn_frame(path) == size - (whole[-1] if whole else 0)
    assert path.stat().st_size == (whole[-1] if whole else 0)
    with open_stored(path) as file:
        assert file.readlines() == lines[: len(whole)]
    with AppendFile(path, packed=compressed) as file:
        file.append(b"more\n")
    with open_stored(path) as file:
        assert file.readlines() == [*lines[: len(whole)], b"more\n"]


def test_every_byte_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    lines = [b'{"a": 1}\n', b'{"b": "' + b"x" * 300 + b'"}\n', b"{}\n"]
    ends = written(path, lines)
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        cut_torn_frame(path)
        whole = sum(end <= size for end in ends)
        with open_stored(path) as file:
            assert file.readlines() == lines[:whole], size


def test_a_torn_frame_that_nobody_cut_yet_hides_no_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    ends = written(path, [b"one\n", b"two\n"])
    path.write_bytes(path.read_bytes()[: ends[0] + 9])
    with open_stored(path) as file:
        assert file.readline() == b"one\n"


def test_an_absent_or_empty_file_has_no_torn_frame(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    assert cut_torn_frame(path) == 0
    path.touch()
    assert cut_torn_frame(path) == 0


def test_damage_is_told_and_never_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    written(path, [b"one\n", b"two\n"])
    content = path.read_bytes()
    path.write_bytes(b"?" + content[1:])
    with pytest.raises(InvalidRow, match=r"rollouts\.jsonl\.zst: the file is damaged: byte 0"):
        cut_torn_frame(path)
    assert path.stat().st_size == len(content)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the checksum of the last frame
    with (
        open_stored(path) as file,
        pytest.raises(InvalidRow, match="restore it from a copy"),
    ):
        file.read()


def test_both_names_are_found(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    assert stored(path) == path
    written(tmp_path / "rollouts.jsonl.zst", [b"one\n"])
    assert stored(path) == tmp_path / "rollouts.jsonl.zst"


def test_a_compressed_file_can_be_read_at_any_place(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.zst"
    written(path, [b"one\n", b"two\n", b"three\n"])
    with open_seekable(path) as file:
        file.seek(4)
        assert file.readline() == b"two\n"
        file.seek(0)
        assert file.readline() == b"one\n"
