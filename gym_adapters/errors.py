"""Every error of the library, and what each means for a rollout.

The tree::

    GymAdaptersError
    ├── UsageError                  before a run: the caller must change something; nothing ran
    │   ├── InvalidRow              a dataset row: names file, line, field and fix
    │   ├── InvalidConfig           a config file or override: names the field
    │   ├── InvalidEnvironment      an Environment class that breaks the contract
    │   ├── UnknownEnvironment      a name the registry can't resolve
    │   ├── MissingExtra            an optional dependency: names the command to install it
    │   └── Unsupported             a trainer can't carry what an environment needs
    ├── ToolError                   a tool says no: the model reads it as a result and goes on
    ├── LedgerError                 tokens that don't line up: never repaired
    └── RolloutError                the rollout can't be scored; carries the boundary at fault
        ├── ModelError              generation failed                            (model)
        ├── EnvironmentFailure      start, prompt or reply raised                (environment)
        ├── ToolInfrastructureError a tool could not be run at all               (tool)
        ├── VerifierError           verify or compare raised                     (verifier)
        ├── JudgeError              a judge model failed or was unreadable       (judge)
        ├── SandboxError            the place where code runs failed             (sandbox)
        ├── RolloutTimeout          a deadline passed                            (timeout)
        └── RolloutCancelled        somebody stopped the rollout                 (cancelled)

What happens next:

* `UsageError` ends the command, before anything was sampled.
* `ToolError`, bad arguments, an unknown tool and any plain exception in a tool are *results*: the
  model sees ``{"error": {"type": ..., "message": ...}}`` and the episode goes on.
* `RolloutError`, and any other exception that leaves an environment's hooks, ends *that* rollout as
  ``unscored`` with a `Failure`. The run goes on. No reward is recorded, and trainers leave the
  rollout out of the loss and out of its group's baseline.
* `LedgerError` inside a rollout ends it as a failure of the ``model`` boundary.
* `asyncio.CancelledError` is never swallowed: the episode closes and the exception travels on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType
from typing import ClassVar

__all__ = [
    "Boundary",
    "EnvironmentFailure",
    "GymAdaptersError",
    "InvalidConfig",
    "InvalidEnvironment",
    "InvalidRow",
    "JudgeError",
    "LedgerError",
    "MissingExtra",
    "ModelError",
    "RolloutCancelled",
    "RolloutError",
    "RolloutTimeout",
    "SandboxError",
    "ToolError",
    "ToolInfrastructureError",
    "UnknownEnvironment",
    "Unsupported",
    "UsageError",
    "VerifierError",
    "boundary",
    "is_stray_cancellation",
]


class Boundary(StrEnum):
    """Whose fault a failed rollout is."""

    MODEL = "model"
    ENVIRONMENT = "environment"
    TOOL = "tool"
    VERIFIER = "verifier"
    JUDGE = "judge"
    SANDBOX = "sandbox"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


class GymAdaptersError(Exception):
    """Base of everything this library raises on purpose."""


class UsageError(GymAdaptersError):
    """Something the caller must change; raised before anything ran."""


class InvalidRow(UsageError):
    """A dataset row that can't be used.

    Args:
        problem: What is wrong, in words.
        field: Dotted path of the field, ``""`` for the row itself.
        fix: What to do about it.
        source: File the row came from, if any.
        line: Its 1-based line in that file, if any.
    """

    def __init__(
        self,
        problem: str,
        *,
        field: str = "",
        fix: str = "",
        source: str | None = None,
        line: int | None = None,
    ) -> None:
        self.problem, self.field, self.fix, self.source, self.line = (
            problem,
            field,
            fix,
            source,
            line,
        )
        place = ""
        if source is not None:
            place = f"{source}:{line}: " if line is not None else f"{source}: "
        elif line is not None:
            place = f"row {line}: "
        where = f"field {field!r}: " if field else ""
        super().__init__(f"{place}{where}{problem}" + (f" Fix: {fix}" if fix else ""))

    def at(self, source: str | None, line: int | None) -> InvalidRow:
        """The same error, told to stand at `line` of `source`."""
        return InvalidRow(self.problem, field=self.field, fix=self.fix, source=source, line=line)


class InvalidConfig(UsageError):
    """A config file, override or option that can't be used."""


class InvalidEnvironment(UsageError):
    """An `Environment` class, or a tool on it, that breaks the contract."""


class UnknownEnvironment(UsageError):
    """A name that no registered environment, module or folder answers to."""


class MissingExtra(UsageError, ImportError):
    """An optional dependency is absent; the message names the command that installs it."""

    def __init__(self, extra: str, *, package: str, needed_for: str) -> None:
        self.extra, self.package = extra, package
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'gym-adapters[{extra}]'"
        )


class Unsupported(UsageError):
    """A trainer or an engine can't carry what the environment asks for; says which and why."""


class ToolError(GymAdaptersError):
    """Raised inside a tool to tell the model that the call can't be done, and why."""


class LedgerError(GymAdaptersError):
    """Token ids, masks or log-probabilities that do not line up."""


class RolloutError(GymAdaptersError):
    """The rollout can't be scored; `boundary` says whose fault that is."""

    boundary: ClassVar[Boundary] = Boundary.ENVIRONMENT


class ModelError(RolloutError):
    """Generation failed."""

    boundary = Boundary.MODEL


class EnvironmentFailure(RolloutError):
    """One of the environment's own hooks failed."""

    boundary = Boundary.ENVIRONMENT


class ToolInfrastructureError(RolloutError):
    """A tool could not be run at all (a service is down, say): not the model's doing."""

    boundary = Boundary.TOOL


class VerifierError(RolloutError):
    """The verifier could not reach a verdict."""

    boundary = Boundary.VERIFIER


class JudgeError(RolloutError):
    """A judge model failed or gave no readable verdict."""

    boundary = Boundary.JUDGE


class SandboxError(RolloutError):
    """The sandbox that runs model-written code failed."""

    boundary = Boundary.SANDBOX


class RolloutTimeout(RolloutError):
    """A deadline passed."""

    boundary = Boundary.TIMEOUT


class RolloutCancelled(RolloutError):
    """The rollout was stopped from outside."""

    boundary = Boundary.CANCELLED


_ERROR_OF: dict[Boundary, type[RolloutError]] = {
    error.boundary: error
    for error in (
        ModelError,
        EnvironmentFailure,
        ToolInfrastructureError,
        VerifierError,
        JudgeError,
        SandboxError,
        RolloutTimeout,
        RolloutCancelled,
    )
}


def boundary(at_fault: Boundary, doing: str) -> AbstractContextManager[None]:
    """Attribute whatever goes wrong inside the block to `at_fault`.

    A `RolloutError` keeps the boundary it already names. A `TimeoutError` becomes `RolloutTimeout`.
    `UsageError` and cancellation of the task itself pass through. Everything else becomes the
    `RolloutError` of `at_fault`, with the original as its cause.

    Args:
        at_fault: The boundary to blame.
        doing: What was being done, for the message, e.g. ``"verify of mcqa"``.
    """
    return _Blaming(at_fault, doing)


class _Blaming:
    # A class, since one of contextlib's costs several times as much and a turn enters many.
    __slots__ = ("_at_fault", "_doing")

    def __init__(self, at_fault: Boundary, doing: str) -> None:
        self._at_fault, self._doing = at_fault, doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._blame(error)

    def _blame(self, error: BaseException) -> None:
        """Raise what `error` means, unless it stays what it is.

        It is raised where it is made: a name for it would tie its traceback, and with that the
        whole rollout, into a cycle that only the garbage collector frees.
        """
        doing, of_boundary = self._doing, _ERROR_OF[self._at_fault]
        match error:
            case RolloutError() | UsageError():
                return
            case TimeoutError():
                raise RolloutTimeout(f"{doing}: {str(error) or 'timed out'}") from error
            case Exception():
                raise of_boundary(f"{doing}: {type(error).__name__}: {error}") from error
            case SystemExit():
                # argparse and exit() in somebody's code end that rollout, not the process of it.
                raise of_boundary(f"{doing}: it called exit({error.code})") from error
        if is_stray_cancellation(error):
            raise RolloutCancelled(f"{doing}: something it waited for was cancelled") from error


def is_stray_cancellation(error: BaseException) -> bool:
    """Whether `error` came from something awaited, and nobody cancelled the task that awaits it."""
    import asyncio  # costs more to import than the rest of the package; here it is loaded already

    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return False
    return task is not None and not task.cancelling()
