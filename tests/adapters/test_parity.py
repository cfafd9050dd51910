"""Every shape and every environment in every trainer: the same tokens, masks and rewards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")

from gym_adapters.adapters.capabilities import CARRIES, Adapter
from gym_adapters.registry import environment_names
from gym_adapters.testing.parity import (
    TRAINERS,
    Cell,
    ParityCase,
    ParityDriver,
    Verdict,
    check_case,
    environment_cases,
    parity_driver,
    parity_shapes,
)

SHAPES = {case.name: case for case in parity_shapes()}
MIXED = "mixed group, one fails"
# A checkout of NeMo RL changes the process that imports it: only where that is asked for.
WHERE = [
    pytest.param(trainer, marks=pytest.mark.full if trainer == "nemo-rl" else ())
    for trainer in TRAINERS
]
# Their verdicts take processes, sandboxes or large imports: seconds for each of several runs.
SLOW = {"code_debugging", "code_gen", "math_with_judge", "reasoning_gym", "swe"}
REFUSED = {
    ("several segments", "trl"),
    ("several segments", "nemo-rl"),
    *(("images", trainer) for trainer in TRAINERS),
}

pytestmark = [
    pytest.mark.timeout(300),
    # Trainers' own, as they are imported and as a training run of one step begins.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Trainers log each rollout that fails, and most of these are made to."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(before)


@pytest.fixture
def driver(trainer: str, monkeypatch: pytest.MonkeyPatch) -> ParityDriver:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    made = parity_driver(trainer)
    absent = made.unavailable()
    if absent is not None:
        pytest.skip(absent)
    return made


def told(cell: Cell) -> str:
    return "\n".join([cell.detail, *map(str, cell.differences)])


@pytest.mark.parametrize("trainer", WHERE)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_received_as_it_was_or_refused(
    driver: ParityDriver, trainer: str, shape: str
) -> None:
    cell = check_case(SHAPES[shape], driver)
    expected = Verdict.REFUSED if (shape, trainer) in REFUSED else Verdict.SAME
    assert cell.verdict is expected, told(cell)
    assert (cell.rollouts > 0) is (expected is Verdict.SAME)


@pytest.mark.parametrize("trainer", ["trl", "verl"])
@pytest.mark.parametrize("name", sorted(set(environment_names()) - SLOW))
def test_an_environments_good_bad_and_failed_attempts_are_received_as_they_were(
    driver: ParityDriver, trainer: str, name: str
) -> None:
    (case,) = [case for case in environment_cases(name, at_most=1) if case.name == MIXED]
    cell = check_case(case, driver)
    assert cell.verdict is Verdict.SAME, told(cell)
    assert cell.rollouts == 4
    assert cell.samples >= 2


@pytest.mark.full
@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", environment_names())
def test_every_attempt_at_every_environment_is_received_as_it_was(
    driver: ParityDriver, trainer: str, name: str
) -> None:
    cells = [check_case(case, driver) for case in environment_cases(name)]
    assert len(cells) >= 5
    for cell in cells:
        assert cell.verdict is Verdict.SAME, f"{cell.case}: {told(cell)}"


def sabotaged_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains on what the environment wrote, as a mask that gets lost would."""
    from gym_adapters.adapters.trl import rollouts

    made = rollouts.rollout_columns

    def columns(*args: Any, **options: Any) -> dict[str, list[Any]]:
        told = made(*args, **options)
        return {**told, "env_mask": [[1] * len(mask) for mask in told["env_mask"]]}

    monkeypatch.setattr(rollouts, "rollout_columns", columns)


def sabotaged_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities one place late."""
    from dataclasses import replace

    from gym_adapters.adapters.verl import agent_loop

    made = agent_loop.sample_fields

    def fields(*args: Any, **options: Any) -> list[Any]:
        return [
            replace(sample, response_logprobs=[0.0, *sample.response_logprobs[:-1]])
            for sample in made(*args, **options)
        ]

    monkeypatch.setattr(agent_loop, "sample_fields", fields)


def sabotaged_nemo_rl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed rollouts that are not marked."""
    from gym_adapters.adapters.nemo_rl import rollouts

    made = rollouts.nemo_result

    def result(*args: Any, **options: Any) -> dict[str, Any]:
        told = made(*args, **options)
        told["full_result"]["instance_config"]["mask_sample"] = False
        return told

    monkeypatch.setattr(rollouts, "nemo_result", result)


@pytest.mark.parametrize(
    ("trainer", "sabotage", "shape", "what"),
    [
        ("trl", sabotaged_trl, "parallel tool calls", "mask"),
        ("trl", sabotaged_trl, "verifier error", "number of training samples"),
        ("verl", sabotaged_verl, "single turn", "logprobs"),
        pytest.param(
            "nemo-rl", sabotaged_nemo_rl, "verifier error", "reward", marks=pytest.mark.full
        ),
    ],
)
def test_a_fault_of_an_adapter_shows(
    driver: ParityDriver,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[pytest.MonkeyPatch], None],
    shape: str,
    what: str,
) -> None:
    sabotage(monkeypatch)
    cell = check_case(SHAPES[shape], driver)
    assert cell.verdict is Verdict.DIFFERENT
    assert what in {difference.what for difference in cell.differences}


def test_the_shapes_ask_for_all_that_the_matrix_speaks_of() -> None:
    """Several policies can't be asked for by an environment; the matrix says so in words alone."""
    from gym_adapters.adapters.capabilities import Feature, needed_features
    from gym_adapters.registry import load_environment

    asked: set[Feature] = set()
    for case in SHAPES.values():
        asked |= needed_features(load_environment(case.environment).environment, case.tasks)
        asked |= {Feature.SEVERAL_SEGMENTS} if case.several_segments else set()
    assert set(Feature) - asked == {Feature.SEVERAL_POLICIES, Feature.SEVERAL_ENVIRONMENTS}


def _trl(way: str) -> Callable[[ParityCase], object]:
    def entrance(case: ParityCase) -> object:
        from gym_adapters.adapters.trl import trl_spec

        return trl_spec(case.environment, tasks=case.tasks, way=way)  # type: ignore[arg-type]

    return entrance


def _verl(case: ParityCase) -> object:
    from gym_adapters.adapters.verl import verl_rows

    return verl_rows(case.environment, case.tasks)


def _nemo_rl(case: ParityCase) -> object:
    from gym_adapters.adapters.nemo_rl import nemo_rl_rows

    return nemo_rl_rows(case.environment, case.tasks)


def _nemo_rl_native(case: ParityCase) -> object:
    from gym_adapters.adapters.nemo_rl import nemo_rl_rows

    return nemo_rl_rows(case.environment, case.tasks, native=True)


ENTRANCES: dict[Adapter, Callable[[ParityCase], object]] = {
    Adapter.TRL_ROLLOUT: _trl("rollout"),
    Adapter.TRL_ASYNC: _trl("async"),
    Adapter.TRL_ENVIRONMENT_FACTORY: _trl("environment_factory"),
    Adapter.TRL_REWARD: _trl("reward"),
    Adapter.VERL: _verl,
    Adapter.NEMO_RL: _nemo_rl,
    Adapter.NEMO_RL_NATIVE: _nemo_rl_native,
}


@pytest.mark.parametrize("adapter", list(ENTRANCES))
def test_what_the_matrix_refuses_is_refused_at_the_entrance(adapter: Adapter) -> None:
    """Of every way into a trainer, with the shapes that ask for it."""
    from gym_adapters.adapters.capabilities import Feature, needed_features
    from gym_adapters.errors import Unsupported
    from gym_adapters.registry import load_environment

    entrance = ENTRANCES[adapter]
    refused: set[Feature] = set()
    for case in SHAPES.values():
        environment = load_environment(case.environment).environment
        needs = needed_features(environment, case.tasks)
        lacking = {each for each in needs if not CARRIES[adapter].features[each].carried}
        if not lacking:
            continue
        with pytest.raises(Unsupported) as refusal:
            entrance(case)
        for feature in lacking:
            assert feature.value in str(refusal.value)
        refused |= lacking
    # Segments are refused by the first rollout that has several: above, where a driver plays one.
    told = {f for f, c in CARRIES[adapter].features.items() if not c.carried}
    beyond = {Feature.SEVERAL_SEGMENTS, Feature.SEVERAL_POLICIES, Feature.SEVERAL_ENVIRONMENTS}
    assert told - refused <= beyond
