"""Signals sent to a process that runs some work, as a shell or a terminal sends them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

RUN = """
import asyncio, os, signal, sys
from gym_adapters.cli.signals import Stopped, run_until_signal

# Whoever runs this may be run by nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)


async def work():
    try:
        print("up", flush=True)
        await asyncio.sleep(0.5 if sys.argv[1] == "nohup" else 600)
    finally:
        print("cleaning", flush=True)
        if sys.argv[1] == "slow":
            await asyncio.sleep(600)


try:
    run_until_signal(work(), at_once=lambda: print("at once", flush=True))
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


def begun(kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, kind], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_cleans_up(number: signal.Signals) -> None:
    with begun("quick") as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("cleaning\n", 128 + number)


def test_a_second_signal_ends_it_and_what_it_would_leave_behind() -> None:
    with begun("slow") as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("at once\n", 130)


def test_what_nohup_started_outlives_its_terminal() -> None:
    with begun("nohup") as process:
        process.send_signal(signal.SIGHUP)
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("cleaning\n", 0)
