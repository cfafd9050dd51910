"""Exports hold what trainers read, leave out what they must, and say so in a card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gym_adapters import Rollout, Segment, StopReason, Unsupported, UsageError
from gym_adapters.items import (
    Item,
    assistant_message,
    function_call,
    function_call_output,
    message,
    reasoning,
    user_message,
)
from gym_adapters.training_data.chat_rows import Dialect
from gym_adapters.training_data.export import (
    Export,
    export_grpo,
    export_kto,
    export_pairs,
    export_sft,
)
from gym_adapters.training_data.preferences import PairFormat, PairRule
from gym_adapters.training_data.selection import Selection
from gym_adapters.training_data.sft import SftShape
from gym_adapters.training_data.written_file import WrittenFile, card_path

MakeRun = Callable[..., Path]
MakeRollout = Callable[..., Rollout]
Turns = Callable[..., list[Item]]
Read = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "data" / "out.jsonl"


def card_of(path: Path) -> dict[str, Any]:
    card: dict[str, Any] = orjson.loads(card_path(path).read_bytes())
    return card


def test_the_card_accounts_for_every_rollout(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    run = make_run(
        make_rollout("a", 0),
        make_rollout("a", 1, 0.0),
        make_rollout("a", 2, None),
        make_rollout("a", 3, stop=StopReason.LENGTH),
        make_rollout("b", 0, output=[]),
    )
    report = export_sft(Export(run, out, Selection(min_reward=1.0), licence="CC0-1.0"))
    card = card_of(out)
    assert report.rows == card["rows"] == 1
    assert card["counts"]["rollouts_read"] == 5
    assert card["counts"]["left_out"] == {
        "empty output": 1,
        "reward below the least": 1,
        "truncated": 1,
        "unscored: model": 1,
    }
    assert card["licence"] == "CC0-1.0"
    assert card["source"]["environment"] == "nowhere"
    assert card["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_the_prompt_the_tools_and_their_results_are_kept(
    make_run: MakeRun,
    make_rollout: MakeRollout,
    turns: Turns,
    tool: dict[str, Any],
    out: Path,
    read_lines: Read,
) -> None:
    prompt = [message("developer", "Be brief."), user_message("1+1?")]
    run = make_run(make_rollout(output=turns("2"), prompt=prompt, tools=[tool]))
    function = {key: tool[key] for key in ("name", "description", "parameters")}
    export_sft(Export(run, out))
    (row,) = read_lines(out)
    call = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]
    assert row["completion"] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "call_0", "name": "add"},
        {"role": "assistant", "content": "2"},
    ]
    assert orjson.loads(row["tools"]) == [{"type": "function", "function": function}]


def test_openai_rows_have_arguments_as_text_and_no_thinking(
    make_run: MakeRun, make_rollout: MakeRollout, turns: Turns, out: Path, read_lines: Read
) -> None:
    run = make_run(make_rollout(output=[reasoning("hm"), *turns("2", '{"a":  1}')]))
    report = export_sft(Export(run, out), dialect=Dialect.OPENAI)
    (row,) = read_lines(out)
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":  1}'
    assert set(row["messages"][1]) == {"role", "content", "tool_calls"}
    assert report.tally.notes["thinking dropped"] == 1


def test_nemo_customizer_rows_hold_its_keys_and_no_others(
    make_run: MakeRun,
    make_rollout: MakeRollout,
    turns: Turns,
    tool: dict[str, Any],
    out: Path,
    read_lines: Read,
) -> None:
    bare = {**tool, "parameters": {}}
    run = make_run(make_rollout(output=[reasoning("hm"), *turns("2")], tools=[bare]))
    export_sft(Export(run, out), dialect=Dialect.NEMO_CUSTOMIZER)
    (row,) = read_lines(out)
    _, thinking, result, answer = row["messages"]
    assert thinking == {
        "role": "assistant",
        "thinking": "hm",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
    }
    assert result == {"role": "tool", "content": "2"}
    assert answer == {"role": "assistant", "content": "2"}
    assert row["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_what_nemo_customizer_cannot_hold_is_left_out_with_the_reason(
    make_run: MakeRun, make_rollout: MakeRollout, turns: Turns, out: Path
) -> None:
    run = make_run(
        make_rollout("a", output=[reasoning("hm"), assistant_message("2")]),
        make_rollout("b", output=turns("2", "{")),
    )
    with pytest.raises(UsageError, match=r"both thinking and content: 1, call with arguments"):
        export_sft(Export(run, out), dialect=Dialect.NEMO_CUSTOMIZER)
    assert not list(out.parent.glob("*"))
    dropped = Export(run, out, drop_thinking=True)
    assert export_sft(dropped, dialect=Dialect.NEMO_CUSTOMIZER).rows == 1


def test_tokens_need_tokens_and_every_segment_is_a_row(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path, read_lines: Read
) -> None:
    segments = (
        Segment([1, 2], [3, 9, 4], [1, 0, 1], [-0.5, 0.0, -0.5]),
        Segment([7], [8], [1], [-0.5]),
    )
    run = make_run(make_rollout("a", segments=segments), make_rollout("b"))
    report = export_sft(Export(run, out), tokens=True)
    assert read_lines(out) == [
        {"input_ids": [1, 2, 3, 9, 4], "labels": [-100, -100, 3, -100, 4]},
        {"input_ids": [7, 8], "labels": [-100, 8]},
    ]
    assert report.tally.left_out == {"no token ids: the model gave none": 1}
    with pytest.raises(Unsupported, match="--tokens"):
        export_sft(Export(run, out), tokens=True, dialect=Dialect.OPENAI)


def test_the_best_is_paired_with_the_worst_after_what_they_share(
    make_run: MakeRun, make_rollout: MakeRollout, turns: Turns, out: Path, read_lines: Read
) -> None:
    run = make_run(
        make_rollout("a", 0, 0.5, turns("so-so")),
        make_rollout("a", 1, 0.0, turns("bad", call_id="other_id")),
        make_rollout("a", 2, 1.0, turns("good")),
        make_rollout("b", 0, 1.0),
        make_rollout("b", 1, None),
    )
    report = export_pairs(Export(run, out))
    (row,) = read_lines(out)
    assert [each["role"] for each in row["prompt"]] == ["user", "assistant", "tool"]
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["rejected"] == [{"role": "assistant", "content": "bad"}]
    assert sum(report.tally.left_out.values()) == 2


def test_a_shared_reply_is_prompt_and_a_shared_beginning_of_a_turn_is_not(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path, read_lines: Read
) -> None:
    first = [assistant_message("hi"), user_message("and?")]
    run = make_run(
        make_rollout("a", 0, 1.0, [*first, assistant_message("yes")]),
        make_rollout("a", 1, 0.0, [*first, assistant_message("yes"), user_message("no")]),
    )
    export_pairs(Export(run, out))
    (row,) = read_lines(out)
    assert [each["content"] for each in row["prompt"]] == ["task a", "hi", "and?"]
    assert [each["content"] for each in row["rejected"]] == ["yes", "no"]


def test_attempts_that_are_identical_make_no_pair(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    run = make_run(make_rollout("a", 0, 1.0), make_rollout("a", 1, 0.0))
    with pytest.raises(UsageError, match="identical"):
        export_pairs(Export(run, out))


@pytest.mark.parametrize(
    "target", [PairFormat.NEMO_CUSTOMIZER, PairFormat.NEMO_CUSTOMIZER_TULU3, PairFormat.NEMO_RL]
)
def test_tool_trajectories_are_refused_where_messages_are_role_and_content(
    target: PairFormat, make_run: MakeRun, make_rollout: MakeRollout, turns: Turns, out: Path
) -> None:
    run = make_run(
        make_rollout("a", 0, 1.0, turns("good")), make_rollout("a", 1, 0.0, turns("bad"))
    )
    with pytest.raises(UsageError, match="tool trajectory"):
        export_pairs(Export(run, out), target=target)
    assert not out.exists()


@pytest.mark.parametrize(
    ("target", "row"),
    [
        (
            PairFormat.NEMO_CUSTOMIZER,
            {"prompt": [{"role": "user", "content": "task a"}], "chosen": "yes", "rejected": "no"},
        ),
        (
            PairFormat.NEMO_CUSTOMIZER_TULU3,
            {
                "chosen": [
                    {"role": "user", "content": "task a"},
                    {"role": "assistant", "content": "yes"},
                ],
                "rejected": [
                    {"role": "user", "content": "task a"},
                    {"role": "assistant", "content": "no"},
                ],
            },
        ),
        (
            PairFormat.NEMO_RL,
            {
                "context": [{"role": "user", "content": "task a"}],
                "completions": [
                    {"rank": 0, "completion": [{"role": "assistant", "content": "yes"}]},
                    {"rank": 1, "completion": [{"role": "assistant", "content": "no"}]},
                ],
            },
        ),
        (
            PairFormat.OPENAI,
            {
                "input": {"messages": [{"role": "user", "content": "task a"}]},
                "preferred_output": [{"role": "assistant", "content": "yes"}],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            },
        ),
    ],
)
def test_each_format_of_a_pair(
    target: PairFormat,
    row: dict[str, Any],
    make_run: MakeRun,
    make_rollout: MakeRollout,
    out: Path,
    read_lines: Read,
) -> None:
    run = make_run(make_rollout("a", 0, 1.0, "yes"), make_rollout("a", 1, 0.0, "no"))
    export_pairs(Export(run, out), target=target)
    assert read_lines(out) == [row]


def test_pairs_keep_to_margin_number_and_length(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path, read_lines: Read
) -> None:
    run = make_run(
        make_rollout("a", 0, 1.0, "x" * 10),
        make_rollout("a", 1, 0.8, "y" * 11),
        make_rollout("a", 2, 0.0, "z" * 30),
        make_rollout("a", 3, 0.5, "w" * 12),
    )

    def contents(rule: PairRule) -> list[str]:
        export_pairs(Export(run, out, overwrite=True), rule=rule)
        return [
            row["chosen"][0]["content"][0] + row["rejected"][0]["content"][0]
            for row in read_lines(out)
        ]

    assert contents(PairRule()) == ["xz"]
    assert contents(PairRule(2)) == ["xz", "yz"]
    assert contents(PairRule(None)) == ["xz", "yz", "xw", "wz", "yw", "xy"]
    assert contents(PairRule(None, min_margin=0.5)) == ["xz", "yz", "xw", "wz"]
    assert contents(PairRule(length_ratio=1.2)) == ["xw"]


def test_kto_leaves_out_what_lies_between(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path, read_lines: Read
) -> None:
    rewards = (1.0, 0.9, 0.6, None)
    run = make_run(*(make_rollout("a", at, reward) for at, reward in enumerate(rewards)))
    export_kto(Export(run, out), min_margin=0.4)
    assert [row["label"] for row in read_lines(out)] == [True, False]


def test_grpo_rows_are_task_rows_with_their_pass_rate(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path, read_lines: Read
) -> None:
    run = make_run(
        make_rollout("a", 0, 1.0),
        make_rollout("a", 1, 0.0),
        make_rollout("b", 0, 1.0),
        make_rollout("c", 0, None),
    )
    export_grpo(Export(run, out), only_mixed=True)
    (row,) = read_lines(out)
    assert row["responses_create_params"] == {"input": "task a"}
    assert row["_ng_profile"]["pass_rate"] == 0.5
    again = Export(run, out, overwrite=True)
    with pytest.raises(UsageError, match="--agent"):
        export_grpo(again, dialect=Dialect.NEMO_CUSTOMIZER)
    export_grpo(again, dialect=Dialect.NEMO_CUSTOMIZER, agent="tool_agent")
    assert [row["agent_ref"]["name"] for row in read_lines(out)] == ["tool_agent"] * 2


def test_selection_by_tokens_tool_errors_and_number(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    error = '{"error":{"type":"tool_error","message":"no"}}'
    failing = [
        function_call("add", "{}", "c"),
        function_call_output("c", error),
        assistant_message("sorry"),
    ]
    long = Segment([1], [2] * 9, [1] * 9, [-1.0] * 9)
    run = make_run(
        make_rollout("a", 0, output=failing),
        make_rollout("a", 1, segments=[long]),
        make_rollout("a", 2),
        make_rollout("a", 3),
    )
    selection = Selection(max_tokens=8, tool_errors=False, per_task=1)
    assert export_sft(Export(run, out, selection)).tally.left_out == {
        "tool error": 1,
        "too many tokens": 1,
        "enough of its task": 1,
    }


def test_near_duplicates_are_those_of_the_same_task(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    words = [f"word{number}" for number in range(200)]
    nearly = [*words[:-1], "other"]
    run = make_run(
        make_rollout("a", 0, output=" ".join(words)),
        make_rollout("a", 1, output=" ".join(nearly)),
        make_rollout("a", 2, output=" ".join(reversed(words))),
        make_rollout("b", 0, output=" ".join(words)),
    )
    report = export_sft(Export(run, out, Selection(near_duplicates=0.9)))
    assert report.rows == 3
    assert report.tally.left_out == {"near duplicate": 1}


def test_tools_and_files_of_another_kind_are_told(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    run = make_run(make_rollout(tools=[{"type": "web_search"}]))
    with pytest.raises(UsageError, match="tool that is no function: 1"):
        export_sft(Export(run, out))
    with pytest.raises(UsageError, match=r"name it \.jsonl"):
        export_sft(Export(run, out.with_suffix(".parquet")))


def test_the_record_itself_is_never_replaced(make_run: MakeRun, make_rollout: MakeRollout) -> None:
    run = make_run(make_rollout())
    with pytest.raises(UsageError, match="the rollouts themselves"):
        export_sft(Export(run, run / "rollouts.jsonl", overwrite=True))


def test_a_file_is_replaced_only_when_asked_and_never_by_a_failure(
    make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    run = make_run(make_rollout())
    export_sft(Export(run, out))
    before = out.read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        export_sft(Export(run, out))
    nothing = Export(run, out, Selection(min_reward=2.0), overwrite=True)
    with pytest.raises(UsageError, match="no row is left"):
        export_sft(nothing)
    assert out.read_bytes() == before
    with pytest.raises(ZeroDivisionError), WrittenFile(out, overwrite=True) as file:
        file.write({"x": 1 / (file.rows * 0)})
    assert out.read_bytes() == before
    assert len(list(out.parent.iterdir())) == 2
    export_sft(replace(nothing, selection=Selection()), shape=SftShape.MESSAGES)
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    "call",
    [
        lambda export: export_sft(export, dialect=Dialect.NEMO_RL),
        lambda export: export_grpo(export, dialect=Dialect.OPENAI),
        lambda export: export_pairs(export, target=PairFormat.OPENAI, kind="reward-model"),
    ],
)
def test_formats_that_do_not_exist_are_refused(
    call: Callable[[Export], object], make_run: MakeRun, make_rollout: MakeRollout, out: Path
) -> None:
    with pytest.raises(Unsupported, match="Fix: --format"):
        call(Export(make_run(make_rollout()), out))
