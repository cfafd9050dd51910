"""What a run's folder holds however the run ends, with small commands in the trainers' place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import yaml

from gym_adapters.errors import UsageError
from gym_adapters.rollouts.run_folder import OnExisting
from gym_adapters.training import load_recipe
from gym_adapters.training.running import RunResult, recipe_text, run_plan
from gym_adapters.training.step_processes import end_groups
from gym_adapters.training.steps import Plan, RunPaths, Step

Planned = Callable[..., Plan]


def python(name: str, code: str, **options: object) -> Step:
    return Step(name, (sys.executable, "-c", code), **options)  # type: ignore[arg-type]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    def plan(*steps: Step, trainer_metrics: Path | None = None) -> Plan:
        paths = RunPaths(tmp_path / "run")
        found = paths.policy
        return Plan(
            load_recipe("trl/grpo", ["launch.variables.WANDB_API_KEY=hidden"]),
            paths,
            steps,
            lambda: found if found.is_dir() else None,
            trainer_metrics,
        )

    return plan


class Shown:
    """Keeps what is shown, and which commands began."""

    def __init__(self) -> None:
        self.text = b""
        self.began: list[str] = []

    def show(self, block: bytes) -> None:
        self.text += block

    def step(self, step: Step) -> None:
        self.began.append(step.name)


async def ran(plan: Plan, on_existing: OnExisting = OnExisting.REFUSE) -> tuple[RunResult, Shown]:
    shown = Shown()
    result = await run_plan(plan, on_existing=on_existing, show=shown.show, began=shown.step)
    return result, shown


async def test_a_run_leaves_recipe_commands_log_and_result(planned: Planned) -> None:
    folder = planned().paths.policy
    plan = planned(
        python("tasks", "print('three tasks')"),
        python(
            "training",
            f"import os; os.makedirs({str(folder)!r}); print(os.environ['COLOUR'])",
            variables={"COLOUR": "green"},
        ),
    )
    result, shown = await ran(plan)
    assert (result.status, result.failed) == ("finished", None)
    assert result.checkpoint == str(folder)
    assert shown.text == b"three tasks\ngreen\n"
    assert shown.began == ["tasks", "training"]
    log = plan.paths.log.read_text()
    assert log.index("three tasks") < log.index("COLOUR=green") < log.index("green\n")
    written = orjson.loads(plan.paths.result.read_bytes())
    assert written["status"] == "finished"
    assert [step["exit_code"] for step in written["steps"]] == [0, 0]
    text = plan.paths.recipe.read_text()
    assert yaml.safe_load(text)["arguments"] == plan.recipe.arguments
    assert "hidden" not in text
    again = await asyncio.to_thread(
        subprocess.run, [plan.paths.commands], capture_output=True, text=True, check=False
    )
    # The folder is there by now; the command itself is the same.
    assert "three tasks" in again.stdout
    assert "FileExistsError" in again.stderr


async def test_what_fails_ends_the_run_and_is_told(planned: Planned) -> None:
    plan = planned(
        python("tasks", "import sys; sys.exit('no tasks')"), python("training", "print('never')")
    )
    result, shown = await ran(plan)
    assert result.status == "failed"
    assert result.failed is not None
    assert (result.failed.name, result.failed.exit_code) == ("tasks", 1)
    assert result.checkpoint is None
    assert shown.began == ["tasks"]
    assert b"no tasks" in shown.text


async def test_resuming_skips_what_was_done_and_trains_again(
    planned: Planned, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    add = f"open({str(count)!r}, 'a').write('x')"
    plan = planned(python("tasks", add), python("training", "import sys; sys.exit(3)"))
    await ran(plan)
    result, shown = await ran(plan, OnExisting.RESUME)
    assert count.read_text() == "x"
    assert shown.began == ["training"]
    assert [step.name for step in result.steps] == ["tasks", "training"]
    changed = planned(python("tasks", add + "; 1"), python("training", "pass"))
    result, shown = await ran(changed, OnExisting.RESUME)
    assert shown.began == ["tasks", "training"]
    assert result.status == "finished"


async def test_a_folder_that_holds_something_is_not_written_over_unasked(
    planned: Planned,
) -> None:
    plan = planned(python("training", "pass"))
    await ran(plan)
    (plan.paths.folder / "rollouts").mkdir()
    (plan.paths.folder / "rollouts" / "rollouts.jsonl").write_text("old\n")
    with pytest.raises(UsageError, match="--resume"):
        await ran(plan)
    await ran(plan, OnExisting.OVERWRITE)
    assert not (plan.paths.folder / "rollouts").exists()


async def test_a_folder_of_something_else_is_never_emptied(planned: Planned) -> None:
    plan = planned(python("training", "pass"))
    plan.paths.folder.mkdir()
    (plan.paths.folder / "thesis.tex").write_text("years of work")
    for on_existing in OnExisting:
        with pytest.raises(UsageError, match=r"holds no training, but thesis\.tex"):
            await ran(plan, on_existing)
    assert (plan.paths.folder / "thesis.tex").read_text() == "years of work"


def runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_stopping_ends_the_command_and_what_it_started(
    planned: Planned, tmp_path: Path
) -> None:
    told = tmp_path / "children"
    code = (
        "import os, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(told)!r} + '.new', 'w').write(f'{{os.getpid()}} {{child.pid}}');"
        f"os.rename({str(told)!r} + '.new', {str(told)!r});"
        "time.sleep(600)"
    )
    running = asyncio.create_task(ran(planned(python("training", code))))
    while not told.exists():
        assert not running.done()
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    processes = [int(text) for text in told.read_text().split()]
    # The kernel may take a moment to bury what was killed.
    for _ in range(1500):
        if not any(map(runs, processes)):
            break
        await asyncio.sleep(0.02)
    assert not any(map(runs, processes))
    written = orjson.loads(planned().paths.result.read_bytes())
    assert written["status"] == "stopped"


async def test_a_server_runs_beside_the_training_and_ends_with_it(
    planned: Planned, tmp_path: Path
) -> None:
    told = tmp_path / "server"
    serve = (
        "import os, time;"
        f"open({str(told)!r} + '.new', 'w').write(str(os.getpid()));"
        f"os.rename({str(told)!r} + '.new', {str(told)!r});"
        "time.sleep(600)"
    )
    train = f"import os, time\nwhile not os.path.exists({str(told)!r}): time.sleep(0.02)"
    plan = planned(python("server", serve, background=True), python("training", train))
    result, shown = await ran(plan)
    assert result.status == "finished"
    assert shown.began == ["server", "training"]
    assert not runs(int(told.read_text()))


async def test_a_folder_belongs_to_one_run_at_a_time(planned: Planned, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = (
        "import os, time\nprint('up', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.02)"
    )
    plan = planned(python("training", wait))
    up = asyncio.Event()
    running = asyncio.create_task(run_plan(plan, show=lambda _: up.set()))
    await up.wait()
    assert orjson.loads(plan.paths.result.read_bytes())["status"] == "running"
    with pytest.raises(UsageError, match="another training writes"):
        await ran(plan, OnExisting.OVERWRITE)
    go.touch()
    assert (await running).status == "finished"


async def test_a_trainers_own_metrics_are_made_flat(planned: Planned, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    line = '{"step": 1, "data": {"critic/score/mean": 0.5}}'
    plan = planned(
        python("training", f"open({str(own)!r}, 'w').write({line!r})"), trainer_metrics=own
    )
    await ran(plan)
    entry = orjson.loads(plan.paths.metrics.read_bytes())
    assert entry == {"step": 1, "critic/score/mean": 0.5}


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Step("vLLM server", ("no-such-program-here",)), "no such program is on the PATH"),
        (
            Step("training", (sys.executable,), folder="$NO_SUCH_CHECKOUT"),
            "NO_SUCH_CHECKOUT names no folder, where the training must run",
        ),
    ],
)
async def test_a_program_or_folder_that_is_not_there_is_told_before_anything_is_written(
    planned: Planned, step: Step, told: str
) -> None:
    plan = planned(python("tasks", "pass"), step)
    with pytest.raises(UsageError, match=told):
        await ran(plan)
    assert not plan.paths.folder.exists()


async def test_the_cause_of_a_failure_is_found_below_the_launchers_noise(
    planned: Planned,
) -> None:
    noise = "\\n".join(f"subprocess.CalledProcessError: line {n}" for n in range(200))
    code = (
        "import sys, traceback\n"
        "try: raise ValueError('the batch of 7 is odd')\n"
        f"except ValueError: traceback.print_exc(); print('{noise}'); sys.exit(1)"
    )
    result, _ = await ran(planned(python("training", code)))
    assert result.failed is not None
    assert result.failed.cause == "ValueError: the batch of 7 is odd"
    silent, _ = await ran(planned(python("training", "raise SystemExit(4)")), OnExisting.OVERWRITE)
    assert silent.failed is not None
    assert (silent.failed.exit_code, silent.failed.cause) == (4, None)


async def test_a_server_that_dies_ends_the_training_that_waits_for_it(planned: Planned) -> None:
    plan = planned(
        python("vLLM server", "raise MemoryError('no room')", background=True),
        python("training", "import time; time.sleep(600)"),
    )
    result, _ = await ran(plan)
    assert result.status == "failed"
    assert result.failed is not None
    assert (result.failed.name, result.failed.exit_code) == ("vLLM server", 1)
    assert result.failed.cause == "MemoryError: no room"


async def test_what_a_server_said_before_the_training_began_is_the_cause_too(
    planned: Planned,
) -> None:
    plan = planned(
        python("vLLM server", "raise MemoryError('no room')", background=True),
        python("training", "import time; time.sleep(600)"),
    )

    def began(step: Step) -> None:
        while step.name == "training" and b"no room" not in plan.paths.log.read_bytes():
            time.sleep(0.01)

    result = await run_plan(plan, show=lambda _: None, began=began)
    assert result.failed is not None
    assert result.failed.cause == "MemoryError: no room"


async def test_a_child_that_holds_the_output_open_does_not_hold_up_the_run(
    planned: Planned,
) -> None:
    code = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('done')"
    )
    result, shown = await ran(planned(python("training", code)))
    assert (result.status, shown.text) == ("finished", b"done\n")


async def test_resuming_rewinds_and_beginning_does_not(planned: Planned) -> None:
    rewound: list[str] = []
    plan = replace(planned(python("training", "pass")), rewind=lambda: rewound.append("rewound"))
    await ran(plan)
    await ran(plan, OnExisting.OVERWRITE)
    assert rewound == []
    await ran(plan, OnExisting.RESUME)
    assert rewound == ["rewound"]


@pytest.mark.parametrize("change", ["model=./other", "seed=3", "environments.mcqa={}"])
async def test_a_run_does_not_go_on_from_the_checkpoints_of_another(
    planned: Planned, change: str
) -> None:
    plan = planned(python("training", "pass"))
    await ran(plan)
    other = replace(plan, recipe=load_recipe("trl/grpo", [change]))
    with pytest.raises(UsageError, match=rf"holds a training with {change.partition('=')[0][:12]}"):
        await ran(other, OnExisting.RESUME)
    longer = replace(plan, recipe=load_recipe("trl/grpo", ["steps=900", "save_every=10"]))
    assert (await ran(longer, OnExisting.RESUME))[0].status == "finished"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "trl/grpo",
            {"processes", "nodes", "accelerate", "variables"},
        ),
        ("nemo_rl/grpo", {"processes", "nodes", "script", "base", "variables"}),
        ("verl/grpo", {"processes", "nodes", "variables"}),
    ],
)
def test_the_recipe_told_holds_only_what_its_trainer_takes(
    planned: Planned, name: str, keys: set[str]
) -> None:
    told = yaml.safe_load(recipe_text(replace(planned(), recipe=load_recipe(name))))
    assert set(told["launch"]) == keys
    assert load_recipe(name).model_dump()["arguments"] == told["arguments"]


async def test_what_runs_can_be_ended_at_once(planned: Planned, tmp_path: Path) -> None:
    told = tmp_path / "process"
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(told)!r} + '.new', 'w').write(str(os.getpid()));"
        f"os.rename({str(told)!r} + '.new', {str(told)!r}); time.sleep(600)"
    )
    groups: set[int] = set()
    plan = planned(python("training", code))
    running = asyncio.create_task(run_plan(plan, show=lambda _: None, groups=groups))
    while not told.exists():
        assert not running.done()
        await asyncio.sleep(0.02)
    assert groups == {int(told.read_text())}
    end_groups(groups)
    result = await running
    assert result.failed is not None
    assert result.failed.exit_code == -9
    assert groups == set()
