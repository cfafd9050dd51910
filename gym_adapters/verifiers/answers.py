r"""Finding the answer in a final text: numbers, ``\boxed{...}``, ``Answer: ...``, ``<answer>``.

Each goes over the text a fixed number of times; where several answers stand, the last one counts.
"""

from __future__ import annotations

import re

__all__ = ["after_marker", "boxed", "integer_answer", "last_boxed", "last_integer", "tagged"]

# A run of digits, dots and commas, taken whole (possessive), so that nothing is read twice. A sign
# is one only where nothing ends right before it: "3-5" holds 3 and 5.
_NUMBER = re.compile(r"(?:(?<![\w)\]}.])[-\u2212])?+(?<!\w)[0-9][0-9.,]*+")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})++")
_WHOLE = re.compile(r"([0-9]++)(?:\.0*+)?")
_LONGEST_NUMBER = 1000
_BOX = re.compile(r"\\boxed\s*+\{")
_BRACE = re.compile(r"\\?[{}]")


def last_integer(text: str) -> int | None:
    """The last whole number in `text`; ``None`` if there is none.

    Thousands separators (``1,234``), a zero fraction (``5.0``) and the minus sign U+2212 are
    understood; numbers with a fraction, and those longer than 1,000 characters, are passed over.
    """
    found = _integers(text)
    return found[-1] if found else None


def _integers(text: str) -> list[int]:
    """The whole numbers of `text` in order."""
    found: list[int] = []
    for match in _NUMBER.finditer(text):
        end = match.end()
        part_of_word = end < len(text) and (text[end].isalnum() or text[end] == "_")
        if part_of_word or len(match[0]) > _LONGEST_NUMBER:
            continue
        sign = -1 if match[0][0] in "-\u2212" else 1
        run = match[0].lstrip("-\u2212").rstrip(".,")
        integer, dot, fraction = run.partition(".")
        if _GROUPED.fullmatch(integer):
            run = integer.replace(",", "") + dot + fraction
        for position, part in enumerate(run.split(",")):
            whole = _WHOLE.fullmatch(part)
            if whole:
                found.append((sign if position == 0 else 1) * int(whole[1]))
    return found


def after_marker(text: str, marker: str = "answer:") -> str | None:
    """What follows the last `marker` on its line, stripped; ``None`` without a marker.

    Args:
        text: Where to look.
        marker: What to look for; upper and lower case are the same.
    """
    found: re.Match[str] | None = None
    for match in re.finditer(re.escape(marker), text, re.IGNORECASE):
        found = match
    return None if found is None else text[found.end() :].partition("\n")[0].strip()


def integer_answer(text: str) -> int | None:
    """The first whole number after the last ``Answer:``, else the last whole number of `text`."""
    marked = after_marker(text)
    after = _integers(marked) if marked is not None else []
    return after[0] if after else last_integer(text)


def boxed(text: str) -> list[str]:
    r"""What stands in each outermost ``\boxed{...}``, in order.

    Braces are matched; ``\{`` is not one. A box that never closes is left out, a complete one
    inside it is not.
    """
    openings = [match.end() - 1 for match in _BOX.finditer(text)]
    if not openings:
        return []
    closing_of = _matching_braces(text)
    contents: list[str] = []
    past = 0
    for opening in openings:
        closing = closing_of.get(opening)
        if closing is not None and opening >= past:
            contents.append(text[opening + 1 : closing])
            past = closing
    return contents


def last_boxed(text: str) -> str | None:
    r"""What stands in the ``\boxed{...}`` that opens last; ``None`` if there is none or it is open.

    Of nested boxes that is the innermost.
    """
    opening: re.Match[str] | None = None
    for match in _BOX.finditer(text):
        opening = match
    if opening is None:
        return None
    inside = text[opening.end() - 1 :]
    closing = _matching_braces(inside).get(0)
    return None if closing is None else inside[1:closing]


def _matching_braces(text: str) -> dict[int, int]:
    closing_of: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            closing_of[open_braces.pop()] = match.start()
    return closing_of


def tagged(text: str, tag: str = "answer") -> str | None:
    """What stands in the last ``<tag>...</tag>``, stripped; ``None`` without one."""
    closing = text.rfind(f"</{tag}>")
    opening = text.rfind(f"<{tag}>", 0, closing) if closing != -1 else -1
    return None if opening == -1 else text[opening + len(tag) + 2 : closing].strip()
