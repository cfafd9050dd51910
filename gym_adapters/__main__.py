"""``python -m gym_adapters``."""

from __future__ import annotations

from gym_adapters.cli import main

if __name__ == "__main__":
    main()
