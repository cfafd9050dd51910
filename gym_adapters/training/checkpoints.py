"""Checkpoints that trainers number by the step after which they wrote them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["numbered_checkpoints"]


def numbered_checkpoints(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in `folder`, by step.

    Args:
        folder: Where the trainer writes them; it need not be there yet.
        prefix: What stands before the number in their names.
    """
    return sorted(
        (int(number), path)
        for path in folder.glob(f"{prefix}*")
        if (number := path.name.removeprefix(prefix)).isdigit()
    )
