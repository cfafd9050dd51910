"""What ``import gym_adapters`` costs beyond a bare interpreter, in CPU seconds and modules.

    python benchmarks/import_cost.py [RUNS]

Each run is a fresh interpreter; bare and importing ones alternate, so that both meet the same
machine. The least of all runs is the cost: everything above it is other processes' doing.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

STATEMENTS = {
    "bare interpreter": "pass",
    "import asyncio": "import asyncio",
    "import pydantic": "import pydantic",
    "import gym_adapters": "import gym_adapters",
    "every public name": "from gym_adapters import *",
}
FRAMEWORKS = {"fastapi", "numpy", "openai", "ray", "torch", "transformers"}


def cpu_seconds(statement: str) -> float:
    """User and system seconds of a fresh interpreter that runs `statement`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def modules(statement: str) -> set[str]:
    """Names of all modules in a fresh interpreter that ran `statement`."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def main(runs: int) -> None:
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for name, statement in STATEMENTS.items():
        cpu_seconds(statement)  # writes the byte code
        samples[name].clear()
    for _ in range(runs):
        for name, statement in STATEMENTS.items():
            samples[name].append(cpu_seconds(statement))
    bare = min(samples["bare interpreter"])
    bare_modules = len(modules("pass"))
    print(f"CPU seconds over {runs} runs, beyond the bare interpreter's {bare:.3f}")
    print(f"{'':24}{'least':>8}{'median':>8}{'modules':>9}")
    for name, statement in STATEMENTS.items():
        loaded = modules(statement)
        print(
            f"{name:24}{min(samples[name]) - bare:8.3f}{median(samples[name]) - bare:8.3f}"
            f"{len(loaded) - bare_modules:9d}"
        )
    heavy = {name.partition(".")[0] for name in modules("from gym_adapters import *")} & FRAMEWORKS
    print(f"frameworks loaded: {', '.join(sorted(heavy)) or 'none'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
