"""What to do after a run that did not do all it should: told on stderr."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gym_adapters.rollouts.metrics import Metrics
    from gym_adapters.rollouts.run import RunSettings

__all__ = ["resuming_command", "tell_failures", "tell_how_to_resume"]

REPLAY = "replay:"

# What to look at first, by the boundary that failed.
NEXT_STEPS = {
    "model": "see that the endpoint answers, and what it says in its own log",
    "environment": "it is a bug of the environment, or of the row: the traceback is in {failures}",
    "tool": "see that what the tool needs is there; the traceback is in {failures}",
    "verifier": "it is a bug of verify, or of the row: the traceback is in {failures}; once it is "
    "mended, gym-adapters reverify scores the same attempts",
    "judge": "see that the judge answers; gym-adapters reverify --failed-only asks it again",
    "sandbox": "see that the sandbox is there: bubblewrap, docker, memory, processes",
    "timeout": "give it longer (--time-limit, and --group-deadline for a group), or less to do at "
    "once (--concurrency)",
    "cancelled": "something in the environment was cancelled: the traceback is in {failures}",
}


def tell_failures(metrics: Metrics, settings: RunSettings) -> None:
    """Why rollouts have no reward, on stderr, with what to do."""
    from gym_adapters.rollouts.compressed import stored
    from gym_adapters.rollouts.recorded import FAILURES

    kept = settings.output
    failures = "failures.jsonl (--output keeps it)" if kept is None else stored(kept / FAILURES)
    for boundary, count in sorted(metrics.failures.items()):
        said = metrics.failure_examples.get(boundary, "")
        print(f"{count:,} without a reward ({boundary}). The first: {said}", file=sys.stderr)
        step = _next_step(boundary, settings.model)
        if step:
            print(f"  {step.format(failures=failures)}", file=sys.stderr)
    # A replay says the same again; what it lacks is not there the next time either.
    if settings.model.startswith(REPLAY) and set(metrics.failures) == {"model"}:
        return
    # A group that was compared is whole, whatever failed in it, and is never run again.
    if kept is not None and not all(part.compares for part in settings.parts):
        print(f"try the failed ones again with: {resuming_command()}", file=sys.stderr)


def _next_step(boundary: str, model: str) -> str:
    if boundary == "model" and model.startswith(REPLAY):
        return "replay the same tasks, with as many attempts as were recorded, and no more"
    return NEXT_STEPS.get(boundary, "")


def tell_how_to_resume(what: str, kept: Path | None) -> None:
    """How to go on with a run that ended early, on stderr.

    Args:
        what: How it ended.
        kept: The folder of the run, if any.
    """
    if kept is None:
        print(f"{what}; nothing was kept: give --output to keep rollouts", file=sys.stderr)
    else:
        print(f"{what}; go on with: {resuming_command()}", file=sys.stderr)


def resuming_command() -> str:
    """What goes on with the run of this command."""
    arguments = [each for each in sys.argv[1:] if each not in ("--resume", "--overwrite")]
    return shlex.join(["gym-adapters", *arguments, "--resume"])
