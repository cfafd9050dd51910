"""Errors say what to change, and failures are blamed on the boundary at fault."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import weakref

import pytest

from gym_adapters import errors
from gym_adapters.errors import (
    Boundary,
    GymAdaptersError,
    InvalidConfig,
    InvalidRow,
    JudgeError,
    MissingExtra,
    RolloutError,
    RolloutTimeout,
    UsageError,
    boundary,
)


def test_every_error_of_the_module_is_public_and_in_the_documented_tree() -> None:
    classes = {
        name
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, GymAdaptersError)
    }
    assert classes <= set(errors.__all__)
    tree = (errors.__doc__ or "").partition("What happens next")[0]
    assert {name for name in classes if name not in tree} == set()


def test_each_boundary_has_one_error() -> None:
    found = {error.boundary for error in RolloutError.__subclasses__()}
    assert found == set(Boundary)


@pytest.mark.parametrize("at_fault", list(Boundary))
def test_a_plain_exception_becomes_the_error_of_the_boundary(at_fault: Boundary) -> None:
    with (
        pytest.raises(RolloutError, match="verify of x: KeyError: 'gone'") as caught,
        boundary(at_fault, "verify of x"),
    ):
        raise KeyError("gone")
    assert caught.value.boundary is at_fault
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_rollout_error_keeps_the_boundary_it_names() -> None:
    with pytest.raises(JudgeError, match=r"^unreadable$"), boundary(Boundary.VERIFIER, "verify"):
        raise JudgeError("unreadable")


def test_a_timeout_is_a_rollout_timeout() -> None:
    with (
        pytest.raises(RolloutTimeout, match="start of x: timed out"),
        boundary(Boundary.ENVIRONMENT, "start of x"),
    ):
        raise TimeoutError


@pytest.mark.parametrize("error", [UsageError("change it"), asyncio.CancelledError()])
def test_usage_errors_and_cancellation_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, boundary(Boundary.TOOL, "tool"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidRow("bad."), "bad."),
        (InvalidRow("bad.", line=3), "row 3: bad."),
        (InvalidRow("bad.", source="a.jsonl"), "a.jsonl: bad."),
        (
            InvalidRow("bad.", field="x.y", fix="do it.", source="a.jsonl", line=3),
            "a.jsonl:3: field 'x.y': bad. Fix: do it.",
        ),
        (
            InvalidRow("bad.", field="x").at("b.jsonl", 7),
            "b.jsonl:7: field 'x': bad.",
        ),
    ],
)
def test_an_invalid_row_says_where_and_how_to_fix_it(error: InvalidRow, message: str) -> None:
    assert str(error) == message


def test_a_missing_extra_names_the_command_and_is_an_import_error() -> None:
    error = MissingExtra("serve", package="fastapi", needed_for="serving")
    assert "pip install 'gym-adapters[serve]'" in str(error)
    assert "fastapi" in str(error)
    assert isinstance(error, ImportError)
    assert isinstance(error, UsageError)
    assert not issubclass(InvalidConfig, ImportError)


@pytest.mark.parametrize(
    "error",
    [KeyError("gone"), TimeoutError(), SystemExit(2), JudgeError("unreadable")],
    ids=lambda error: type(error).__name__,
)
def test_what_failed_is_freed_once_the_error_is_handled(error: BaseException) -> None:
    class Place:
        """What a frame names on the error's way."""

    def failing() -> weakref.ref[Place]:
        place = Place()
        with contextlib.suppress(RolloutError):
            blamed(place)
        return weakref.ref(place)

    def blamed(place: Place) -> None:
        with boundary(Boundary.VERIFIER, "verify"):
            raise type(error)(*error.args)

    gc.disable()
    try:
        assert failing()() is None
    finally:
        gc.enable()
