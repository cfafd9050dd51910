from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from gym_adapters.doctor.finding import Finding, Level, fine, worst
from gym_adapters.doctor.machine import GIB, Machine, machine_findings, this_machine


def found(machine: Machine) -> dict[str, Finding]:
    return {finding.subject: finding for finding in machine_findings(machine)}


def test_a_good_machine_has_nothing_to_say(machine: Machine) -> None:
    findings = found(machine)
    assert worst(findings.values()) is Level.OK
    assert findings["GPU"].what == "a GPU (80 GiB)"
    assert findings["memory"].what == "64 GiB of RAM"


@pytest.mark.skipif(sys.platform != "linux", reason="pip brings CUDA builds on Linux")
def test_companions_of_another_torch_fail_with_the_command_that_helps(machine: Machine) -> None:
    alien = replace(
        machine,
        torch="2.13.0+cpu",
        torch_is_for_cpu=True,
        companions={"torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"},
    )
    finding = found(alien)["torch's companions"]
    assert finding.level is Level.FAIL
    assert finding.fix == "pip uninstall -y torchvision"
    same = replace(alien, companions={"torchvision": "0.28.0+cpu"})
    assert "torch's companions" not in found(same)
    assert "torch's companions" not in found(replace(alien, torch_is_for_cpu=False))


def test_what_is_missing_is_warned_of(machine: Machine) -> None:
    bare = replace(machine, gpus=(), memory=4 * GIB, torch=None)
    findings = found(bare)
    assert {s: f.level.value for s, f in findings.items()} == {
        "torch": "warn",
        "GPU": "warn",
        "memory": "warn",
        "threads": "warn",
    }
    assert all(finding.fix for finding in findings.values())
    assert "threads" not in found(replace(bare, threads="1"))


def test_this_machine_is_looked_at_without_an_error() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.torch is not None
    assert list(machine_findings(machine))


def test_the_worst_of_nothing_is_ok() -> None:
    assert worst([]) is Level.OK
    assert worst([fine("a", "b", "c"), Finding("a", "b", Level.WARN, "c")]) is Level.WARN
