"""The system call filter, read as the kernel reads it."""

from __future__ import annotations

import pytest

from gym_adapters.sandbox.confinement import _CALLS, SystemCalls, _filter

ALLOWED, KILLED, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
CLONE_NEWUSER, CLONE_VM = 0x10000000, 0x100


def verdict(calls: SystemCalls, number: int, first: int = 0, arch: int | None = None) -> int:
    """What the filter returns for one system call."""
    data = {0: number, 4: calls.audit_arch if arch is None else arch, 16: first}
    program, at, value = _filter(calls), 0, 0
    while True:
        operation, if_true, if_false, operand = program[at]
        at += 1
        if operation == 0x20:
            value = data[operand]
        elif operation == 0x06:
            return operand
        else:
            holds = {
                0x15: value == operand,
                0x35: value >= operand,
                0x45: bool(value & operand),
            }[operation]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", list(_CALLS))
def test_ordinary_calls_pass_and_those_that_lead_outside_do_not(machine: str) -> None:
    calls = _CALLS[machine]
    for number in calls.refused:
        assert verdict(calls, number) == EPERM
    for number in set(range(460)) - {*calls.refused, 435}:
        assert verdict(calls, number) == ALLOWED
    assert verdict(calls, 435) == ENOSYS
    assert verdict(calls, calls.clone, CLONE_VM) == ALLOWED
    assert verdict(calls, calls.clone, CLONE_NEWUSER | CLONE_VM) == EPERM
    assert verdict(calls, 0x40000000) == EPERM
    assert verdict(calls, 0, arch=0x40000003) == KILLED
