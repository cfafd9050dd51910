"""The command line: ``gym-adapters``."""

from __future__ import annotations

import sys

from gym_adapters.cli.streams import standard_streams
from gym_adapters.errors import UsageError

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrongly asked, 130 interrupted."""
    standard_streams()
    try:
        from gym_adapters.cli.failing import app_or_missing_extra

        app_or_missing_extra()()
    except UsageError as error:
        from gym_adapters.cli.failing import tell

        tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        # Before the command heeds signals itself there is nothing to tell.
        sys.exit(130)
    except OSError as error:
        from gym_adapters.cli.failing import tell
        from gym_adapters.cli.streams import discard_stdout

        # A disk that is full, a folder that can't be written: for the user to mend, not a bug.
        tell(error)
        discard_stdout()
        sys.exit(1)
