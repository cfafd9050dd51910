"""What can be known to go wrong before GPU time is spent. See docs/doctor.md."""

from __future__ import annotations

from gym_adapters.doctor.examination import Asked, examine
from gym_adapters.doctor.finding import Finding, Level, worst

__all__ = ["Asked", "Finding", "Level", "examine", "worst"]
