"""The quickstart: a small policy, made in place, that visibly learns to use a tool."""

from __future__ import annotations

from gym_adapters.quickstart.lesson import (
    QuickstartObserver,
    QuickstartResult,
    QuickstartSettings,
    quickstart,
)

__all__ = ["QuickstartObserver", "QuickstartResult", "QuickstartSettings", "quickstart"]
