"""verl: train on an environment with verl's V1 trainer. See docs/verl.md.

Nothing here imports verl, which takes seconds: the modules that do (`agent_loop`, `manager`) are
imported by verl's own processes.
"""

from __future__ import annotations

from gym_adapters.adapters.verl.overrides import verl_overrides
from gym_adapters.adapters.verl.reward import compute_score
from gym_adapters.adapters.verl.rows import verl_rows, write_verl_rows

__all__ = ["compute_score", "verl_overrides", "verl_rows", "write_verl_rows"]
