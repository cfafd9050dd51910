"""Stored rollouts, ours and NeMo Gym's, read one at a time and found again by their place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from gym_adapters.errors import InvalidConfig, InvalidRow, JudgeError, RolloutError, VerifierError
from gym_adapters.items import check_items, input_items, message
from gym_adapters.reward import Outcome, Reward, StopReason
from gym_adapters.rollout import Provenance, Rollout, TokenUsage
from gym_adapters.rollouts.compressed import is_compressed, open_seekable, open_stored, stored
from gym_adapters.rollouts.manifest import Manifest
from gym_adapters.rollouts.recorded import FAILURES, MANIFEST, METRICS, ROLLOUTS
from gym_adapters.rollouts.replay import recorded_turns
from gym_adapters.segment import Segment

__all__ = ["Place", "StoredRollouts", "nemo_gym_rollout"]

_OURS = "gym_adapters"
_PROMPT_IDS, _IDS, _LOGPROBS = (
    "prompt_token_ids",
    "generation_token_ids",
    "generation_log_probs",
)


class Place(NamedTuple):
    """Where a rollout stands: which file of its source, at which byte and line."""

    file: int
    offset: int
    line: int


class StoredRollouts:
    """The rollouts of a run's folder or of a file, to go through as often as needed.

    A folder gives each rollout once: the scored ones, then the last failure of the others. A file
    may hold our rollouts or NeMo Gym's (``ng_collect_rollouts``), also mixed. Of NeMo Gym's, one
    that failed, or that its judge failed on, is unscored, whatever reward it bears.

    Args:
        path: Folder or file.

    Raises:
        InvalidConfig: If there is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self._unpacked: dict[Path, BinaryIO] = {}
        if path.is_dir():
            self.manifest = Manifest.read(path / MANIFEST)
            self._files: Sequence[Path] = (stored(path / ROLLOUTS), stored(path / FAILURES))
        elif path.is_file():
            self._files = (path,)
        else:
            raise InvalidConfig(f"{path} is neither the folder of a run nor a file of rollouts")

    def holds(self, path: Path) -> bool:
        """Whether `path` is one of its own files."""
        return path.resolve() in {file.resolve() for file in self._files}

    def __iter__(self) -> Iterator[tuple[Place, Rollout]]:
        """Places and rollouts, in order.

        Raises:
            InvalidRow: Naming file and line, if one is no rollout.
        """
        if self.manifest is None:
            yield from self._lines(0)
            return
        scored: set[tuple[str, int]] = set()
        for place, rollout in self._lines(0):
            scored.add((rollout.task_id, rollout.rollout_index))
            yield place, rollout
        last: dict[tuple[str, int], tuple[Place, Rollout]] = {}
        for place, rollout in self._lines(1):
            key = (rollout.task_id, rollout.rollout_index)
            if key not in scored:
                last[key] = (place, rollout)
        yield from last.values()

    def count(self, environment: str) -> int:
        """How many rollouts of an environment there are, for a bar.

        Of a folder, as many as its metrics told when they were last written; of a file, its lines.
        """
        if self.manifest is not None:
            try:
                metrics = orjson.loads((self.path / METRICS).read_bytes())
                part = metrics.get("environments", {}).get(environment, metrics)
                return int(part["rollouts"])
            except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
                pass  # a training's, or one that was killed
        files = [path for path in self._files if path.exists()]
        return sum(_lines_in(path) for path in files)

    def at(self, places: Sequence[Place]) -> list[Rollout]:
        """The rollouts at some places."""
        return [self._rollout(self._line(place), place) for place in places]

    def _line(self, place: Place) -> bytes:
        path = self._files[place.file]
        if not is_compressed(path):
            with path.open("rb") as file:
                file.seek(place.offset)
                return file.readline()
        if path not in self._unpacked:
            unpacked = self._unpacked[path] = open_seekable(path)
            weakref.finalize(self, unpacked.close)
        self._unpacked[path].seek(place.offset)
        return self._unpacked[path].readline()

    def _lines(self, number: int) -> Iterator[tuple[Place, Rollout]]:
        if not self._files[number].exists():
            return
        offset = 0
        with open_stored(self._files[number]) as file:
            for line_number, line in enumerate(file, start=1):
                if line.strip():
                    place = Place(number, offset, line_number)
                    yield place, self._rollout(line, place)
                offset += len(line)

    def _rollout(self, line: bytes, place: Place) -> Rollout:
        try:
            data = orjson.loads(line)
            if not isinstance(data, dict):
                raise InvalidRow("a rollout must be a JSON object.", fix="write one a line.")
            if _OURS in data:
                return Rollout.from_json(data)
            return nemo_gym_rollout(data, place.line - 1)
        except orjson.JSONDecodeError as error:
            problem = InvalidRow(f"not valid JSON: {error}.", fix="write one object a line.")
        except InvalidRow as error:
            problem = error
        raise problem.at(str(self._files[place.file]), place.line)


def _lines_in(path: Path) -> int:
    with open_stored(path) as file:
        return sum(1 for line in file if line.strip())


def nemo_gym_rollout(data: Mapping[str, Any], position: int = 0) -> Rollout:
    """A rollout from a line of NeMo Gym's rollout file.

    NeMo Gym names a task by its index in the run; without one, attempts with the same input and
    tools count as the same task. Token ids are kept where the model server recorded them.

    Args:
        data: The line.
        position: Stands in for the attempt's number where it has none.

    Raises:
        InvalidRow: If it has no input or no response.
    """
    params, response = data.get("responses_create_params"), data.get("response")
    if not isinstance(params, dict) or not isinstance(response, dict) or "input" not in params:
        raise InvalidRow(
            "a rollout has responses_create_params with an input, and a response.",
            fix="give a file that NeMo Gym's rollout collection or this library wrote.",
        )
    output = response.get("output") or []
    check_items(output, "response.output")
    if not isinstance(params["input"], str):
        check_items(params["input"], "responses_create_params.input")
    tools = params.get("tools") or response.get("tools") or []
    index = data.get("_ng_task_index")
    alike = orjson.dumps([params["input"], tools], option=orjson.OPT_SORT_KEYS)
    usage = response.get("usage") or {}
    attempt = data.get("_ng_rollout_index")
    instructions = params.get("instructions")
    rollout = Rollout(
        row={
            key: value
            for key, value in data.items()
            if key not in ("response", "reward") and not key.startswith("_ng_")
        },
        task_id=f"{index:016x}"
        if isinstance(index, int) and index >= 0
        else blake2b(alike, digest_size=8).hexdigest(),
        rollout_index=attempt if isinstance(attempt, int) else position,
        # As a task reads them: instructions come first, as the system.
        prompt=[
            *(
                [message("system", instructions)]
                if instructions and isinstance(instructions, str)
                else ()
            ),
            *input_items(params["input"]),
        ],
        output=[
            {k: v for k, v in item.items() if k not in (_PROMPT_IDS, _IDS, _LOGPROBS)}  # type: ignore[misc]
            for item in input_items(output)
        ],
        tools=tools,
        outcome=_outcome(data, response),
        segments=_segments(output),
        usage=TokenUsage(usage.get("input_tokens") or 0, usage.get("output_tokens") or 0, 0),
        provenance=Provenance(model=str(response.get("model") or "")),
        task_index=index,
    )
    # It tells no number of turns; where there is a response, the model was asked at least once.
    turns = max(len(recorded_turns(rollout)), 1)
    return replace(rollout, usage=replace(rollout.usage, turns=turns))


def _outcome(data: Mapping[str, Any], response: Mapping[str, Any]) -> Outcome:
    reward = data.get("reward")
    if data.get("judge_failed"):
        return Outcome.unscored(JudgeError("NeMo Gym's judge failed; its reward is not one"))
    if failure := data.get("_ng_failure_class"):
        return Outcome.unscored(RolloutError(f"NeMo Gym recorded a failure: {failure}"))
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        # It lacks nothing but its verdict, which reverify gives.
        return Outcome.unscored(VerifierError("there is no reward"))
    cut = response.get("status") == "incomplete"
    return Outcome.scored(Reward(reward), StopReason.LENGTH if cut else StopReason.ANSWERED)


def _segments(output: Sequence[Mapping[str, Any]]) -> tuple[Segment, ...]:
    """The exact tokens, where model calls are marked with them; a rewritten history begins anew."""
    segments: list[tuple[list[int], list[int], list[int], list[float]]] = []
    for item in output:
        if not item.get(_IDS) or not item.get(_PROMPT_IDS):
            continue
        read, sampled = list(item[_PROMPT_IDS]), list(item[_IDS])
        logprobs = list(item.get(_LOGPROBS) or ())
        if len(logprobs) != len(sampled):
            return ()
        seen = segments[-1][0] + segments[-1][1] if segments else None
        if seen is None or read[: len(seen)] != seen:
            segments.append((read, sampled, [1] * len(sampled), logprobs))
            continue
        between = read[len(seen) :]
        _, ids, mask, known = segments[-1]
        ids += between + sampled
        mask += [0] * len(between) + [1] * len(sampled)
        known += [0.0] * len(between) + logprobs
    return tuple(Segment(*parts) for parts in segments)
