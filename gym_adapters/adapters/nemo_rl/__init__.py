"""NeMo RL: train on an environment with its GRPO. See docs/nemo_rl.md."""

from __future__ import annotations

from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows, write_nemo_rl_rows
from gym_adapters.adapters.nemo_rl.survivors import use_survivors

__all__ = ["nemo_rl_rows", "use_survivors", "write_nemo_rl_rows"]
