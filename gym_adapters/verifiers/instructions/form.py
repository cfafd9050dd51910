"""What a text must look like: marks, sections, repetitions, formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from gym_adapters.verifiers.instructions.registry import Arguments, Instruction
from gym_adapters.verifiers.instructions.text import sentences

__all__ = ["FORM"]

_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_SINGLE_STARS = re.compile(r"\*[^\n*]*+\*")
_DOUBLE_STARS = re.compile(r"\*\*[^\n*]*+\*\*")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
_FENCE_OPENINGS = ("```json", "```Json", "```JSON", "```")
_SIX_STARS = "******"


def _number_placeholders(text: str, given: Arguments) -> bool:
    found = 0
    for line in text.split("\n"):
        opening = line.find("[")
        while opening != -1:
            closing = line.find("]", opening)
            if closing == -1:
                break
            found += 1
            opening = line.find("[", closing)
    return bool(found >= given["num_placeholders"])


def _postscript(text: str, given: Arguments) -> bool:
    marker = given["postscript_marker"].strip()
    pattern = _POSTSCRIPTS.get(marker)
    lowered = text.lower()
    return bool(pattern.search(lowered)) if pattern else marker.lower() in lowered


def _number_bullet_lists(text: str, given: Arguments) -> bool:
    lines = [line.lstrip() for line in text.split("\n")]
    starred = sum(1 for line in lines if line[:1] == "*" and line[1:2] not in ("*", ""))
    dashed = sum(1 for line in lines if line[:1] == "-")
    return bool(starred + dashed == given["num_bullets"])


def _constrained_response(text: str, given: Arguments) -> bool:
    return any(option in text for option in _CONSTRAINED)


def _number_highlighted_sections(text: str, given: Arguments) -> bool:
    found = [*_SINGLE_STARS.findall(text), *_DOUBLE_STARS.findall(text)]
    return sum(1 for part in found if part.strip("*").strip()) >= int(given["num_highlights"])


def _multiple_sections(text: str, given: Arguments) -> bool:
    splitter = re.escape(given["section_spliter"].strip())
    found = len(re.findall(rf"{splitter}\s?\d", text))
    return bool(found >= given["num_sections"])


def _json_format(text: str, given: Arguments) -> bool:
    stripped = text.strip()
    for opening in _FENCE_OPENINGS:
        stripped = stripped.removeprefix(opening)
    try:
        json.loads(stripped.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, given: Arguments) -> bool:
    for line in text.split("\n"):
        opening, closing = line.find("<<"), line.rfind(">>")
        if opening != -1 and closing > opening + 2:
            title = line[opening : closing + 2]
            if title.lstrip("<").rstrip(">").strip():
                return True
    return False


def _sentence_hyphens(text: str, given: Arguments) -> bool:
    said = sentences(text.replace("-", " "))
    return all(part == said_ for part, said_ in zip(text.split("-"), said, strict=False))


def _square_brackets(text: str, given: Arguments) -> bool:
    return all(word.startswith("[") and word.endswith("]") for word in text.split())


def _bigram_wrapping(text: str, given: Arguments) -> bool:
    said = text.split()
    pairs = zip(said[::2], said[1::2], strict=False)
    return all(one.startswith("<<") and other.endswith(">>") for one, other in pairs)


def _two_responses(text: str, given: Arguments) -> bool:
    parts = text.split(_SIX_STARS)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    full = [part.strip() for part in parts if part.strip()]
    return len(full) == 2 and full[0] != full[1]


def _same(text: str, wanted: str) -> bool:
    return text.strip().lower() == wanted.strip().lower()


def _repeat_prompt(text: str, given: Arguments) -> bool:
    return text.strip().lower().startswith(given["prompt_to_repeat"].strip().lower())


def _copy(text: str, given: Arguments) -> bool:
    return _same(text, given["prompt_to_repeat"])


def _copying_multiple(text: str, given: Arguments) -> bool:
    copies = text.split(_SIX_STARS)
    wanted = given["prompt_to_repeat"]
    return len(copies) == given["N"] and all(_same(each, wanted) for each in copies)


def _copy_span_idx(text: str, given: Arguments) -> bool:
    return _same(text, given["prompt_to_repeat"][given["n_start"] : given["n_end"]])


def _phrases(text: str, first: str, last: str) -> Iterator[str]:
    """What runs from `first` to the next `last` on the same line, without overlaps."""
    for line in text.split("\n"):
        begin = line.find(f"{first} ")
        while begin != -1:
            end = line.find(f" {last}", begin + len(first) + 1)
            if end == -1:
                break
            end += len(last) + 1
            yield line[begin:end]
            begin = line.find(f"{first} ", end)


def _repeat_phrase(text: str, given: Arguments) -> bool:
    wanted = given["phrase"].split()
    if len(wanted) < 2:
        return False
    found = [phrase.split() for phrase in _phrases(text, wanted[0], wanted[-1])]
    if len(found) != given["small_n"] or any(len(each) != len(wanted) for each in found):
        return False
    changed = [sum(a != b for a, b in zip(each, wanted, strict=True)) for each in found]
    # As the original has it: none may differ in more than one word, and the last must in one.
    return max(changed, default=0) <= 1 and changed[-1:] == [1]


def _end_checker(text: str, given: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(given["end_phrase"].strip().lower())


def _quotation(text: str, given: Arguments) -> bool:
    stripped = text.strip()
    return len(stripped) > 1 and stripped[0] == '"' == stripped[-1]


def _no_comma(text: str, given: Arguments) -> bool:
    return "," not in text


def _no_dot(text: str, given: Arguments) -> bool:
    return "." not in text


def _no_exclamation(text: str, given: Arguments) -> bool:
    return "!" not in text


FORM: Mapping[str, Instruction] = {
    "detectable_content:number_placeholders": Instruction(
        _number_placeholders, {"num_placeholders": "number"}
    ),
    "detectable_content:postscript": Instruction(_postscript, {"postscript_marker": "text"}),
    "detectable_format:number_bullet_lists": Instruction(
        _number_bullet_lists, {"num_bullets": "number"}
    ),
    "detectable_format:constrained_response": Instruction(_constrained_response, {}),
    "detectable_format:number_highlighted_sections": Instruction(
        _number_highlighted_sections, {"num_highlights": "number"}
    ),
    "detectable_format:multiple_sections": Instruction(
        _multiple_sections, {"section_spliter": "text", "num_sections": "number"}
    ),
    "detectable_format:json_format": Instruction(_json_format, {}),
    "detectable_format:title": Instruction(_title, {}),
    "detectable_format:sentence_hyphens": Instruction(_sentence_hyphens, {}),
    "detectable_format:square_brackets": Instruction(_square_brackets, {}),
    "detectable_format:bigram_wrapping": Instruction(_bigram_wrapping, {}),
    "combination:two_responses": Instruction(_two_responses, {}),
    "combination:repeat_prompt": Instruction(_repeat_prompt, {"prompt_to_repeat": "text"}),
    "copy:copy": Instruction(_copy, {"prompt_to_repeat": "text"}),
    "copy:copying_simple": Instruction(_copy, {"prompt_to_repeat": "text"}),
    "copy:copying_multiple": Instruction(
        _copying_multiple, {"prompt_to_repeat": "text", "N": "number"}
    ),
    "copy:repeat_phrase": Instruction(_repeat_phrase, {"phrase": "text", "small_n": "number"}),
    "new:copy_span_idx": Instruction(
        _copy_span_idx, {"prompt_to_repeat": "text", "n_start": "number", "n_end": "number"}
    ),
    "startend:end_checker": Instruction(_end_checker, {"end_phrase": "text"}),
    "startend:quotation": Instruction(_quotation, {}),
    "punctuation:no_comma": Instruction(_no_comma, {}),
    "punctuation:punctuation_dot": Instruction(_no_dot, {}),
    "punctuation:punctuation_exclamation": Instruction(_no_exclamation, {}),
}
