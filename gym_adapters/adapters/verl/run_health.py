"""When a run of failures is the run's own failure."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gym_adapters.adapters.failure_streak import MOST_IN_A_ROW
from gym_adapters.adapters.verl.rollout_group import RolloutGroup
from gym_adapters.errors import InvalidRow, RolloutError, Unsupported, UsageError

__all__ = ["RunHealth"]

log = logging.getLogger(__name__)

_TEMPLATE_ERRORS = ("TemplateRewritesHistory", "TemplateRefuses", "Unsupported")


@dataclass(slots=True)
class RunHealth:
    """What one worker has seen. verl replaces a prompt that is left out by another one, for ever.

    Attributes:
        dropped: Prompts left out since the last that was not.
        why: The newest problem.
        set_up_problem: What is wrong with the run itself, where something is.
    """

    dropped: int = 0
    why: str = ""
    set_up_problem: str | None = None

    def note(self, group: RolloutGroup) -> None:
        """Count a group that has ended, and tell of its failures."""
        failures = group.failures()
        if failures:
            self.why = failures[0]
            log.warning(
                "%d of %d rollouts of a prompt train nothing; the first: %s",
                len(failures),
                group.policy.size,
                self.why,
            )
        for rollout in group.rollouts.values():
            failure = rollout.outcome.failure
            if failure is not None and failure.error in _TEMPLATE_ERRORS:
                self.set_up_problem = failure.message
        for error in group.errors:
            # One bad row is one prompt less; anything else would be the same for every row.
            if isinstance(error, UsageError) and not isinstance(error, InvalidRow):
                self.set_up_problem = str(error)
        self.dropped = self.dropped + 1 if group.was_dropped else 0

    def check(self) -> None:
        """End the run where going on is of no use.

        Raises:
            RolloutError: If too many prompts in a row were left out.
            Unsupported: If the chat template can't be trained on, an environment is unknown or
                the like.
        """
        if self.set_up_problem is not None:
            raise Unsupported(self.set_up_problem)
        if self.dropped >= MOST_IN_A_ROW:
            raise RolloutError(
                f"{self.dropped} prompts in a row gave too few rollouts with a reward. The newest "
                f"problem: {self.why or 'see the errors logged before this'}"
            )
