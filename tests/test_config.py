"""Cards and overrides: typed, and refused with the field's name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from gym_adapters import InvalidConfig
from gym_adapters.config import Budget, apply_overrides, load_card, parsed_yaml, validated

CARD = """
domain: math
description: Add.
teaches: Adding.
licence: Apache-2.0
reward_range: [0, 2]
config: {lenient: true}
"""


def folder_with(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_card_is_read_with_its_defaults(tmp_path: Path) -> None:
    card = load_card(folder_with(tmp_path, CARD))
    assert card.domain == "math"
    assert card.reward_range == (0.0, 2.0)
    assert card.config == {"lenient": True}
    assert card.budget == Budget()
    assert not card.final_text
    assert not card.constant_reward


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("domain: [", "not valid YAML"),
        ("domain: !!int x", "not valid YAML"),
        ("- a", "the whole: Input should be a valid dictionary"),
        ("", "licence: Field required"),
        (CARD + "colour: red", "colour: Extra inputs are not permitted"),
        (CARD + "budget: {max_turns: 0}", "budget.max_turns: Input should be greater than"),
    ],
)
def test_a_bad_card_is_refused_by_file_and_field(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidConfig, match=problem) as caught:
        load_card(folder_with(tmp_path, text))
    assert "config.yaml" in str(caught.value)


def test_an_absent_card_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="absent"):
        load_card(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"a": {"b": 1}}),
        (["a.b=2"], {"a": {"b": 2}}),
        (["a.c=x=y"], {"a": {"b": 1, "c": "x=y"}}),
        (["d=true", "e=null", "f=[1, 2]"], {"a": {"b": 1}, "d": True, "e": None, "f": [1, 2]}),
        (["a=5"], {"a": 5}),
        (["x.y.z=1.5"], {"a": {"b": 1}, "x": {"y": {"z": 1.5}}}),
        (["d="], {"a": {"b": 1}, "d": None}),
        (["a.b=2", "a.b=3"], {"a": {"b": 3}}),
    ],
)
def test_overrides_set_values_and_leave_the_data_alone(
    overrides: list[str], expected: dict[str, Any]
) -> None:
    data = {"a": {"b": 1}}
    assert apply_overrides(data, overrides) == expected
    assert data == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("010", 10),
        ("-7", -7),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1e-5", 1e-5),
        ("+.5", 0.5),
        ("-.inf", -math.inf),
        ("trueish", "trueish"),
        ("1.2.3", "1.2.3"),
        ("{mode: on, size: 1e3}", {"mode": "on", "size": 1000.0}),
    ],
)
def test_values_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    read = parsed_yaml(text)
    assert read == value
    assert type(read) is type(value)
    assert apply_overrides({}, [f"a={text}"]) == {"a": value}


class Switch(BaseModel):
    mode: str | None = None
    lenient: bool = False


def test_off_is_the_word_for_a_text_and_false_for_a_switch() -> None:
    settings = validated(Switch, apply_overrides({}, ["mode=off", "lenient=on"]), "here")
    assert settings == Switch(mode="off", lenient=True)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("lenient", "write it as key=value"),
        ("=1", "write it as key=value"),
        ("a.b.c=1", "b holds a value, not keys"),
        ("a=[1", "not valid YAML"),
    ],
)
def test_a_bad_override_is_quoted_with_the_fix(override: str, problem: str) -> None:
    with pytest.raises(InvalidConfig, match=problem) as caught:
        apply_overrides({"a": {"b": 1}}, [override])
    assert repr(override) in str(caught.value)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int = 1


def test_validation_names_the_source_the_field_and_the_known_fields() -> None:
    assert validated(Settings, None, "here") == Settings()
    assert validated(Settings, {"size": 2}, "here").size == 2
    with pytest.raises(InvalidConfig, match=r"here: sise: .*Fields are: size"):
        validated(Settings, {"sise": 2}, "here")
    with pytest.raises(InvalidConfig, match="here: size: Input should be a valid integer"):
        validated(Settings, {"size": "big"}, "here")
