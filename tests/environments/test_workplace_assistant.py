"""Recorded calls give recorded outputs, and the end state of the office is the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gym_adapters.environments.workplace_assistant.environment import (
    WorkplaceAssistant,
    WorkplaceConfig,
    WorkplaceTask,
)
from gym_adapters.environments.workplace_assistant.generated_office import generated_database
from gym_adapters.environments.workplace_assistant.tables import Database, load_database

from gym_adapters import Episode, InvalidConfig
from gym_adapters.items import Item, assistant_message, function_call
from gym_adapters.registry import load_environment
from gym_adapters.task import read_rows

FIXTURES = Path(__file__).parents[2].parent / "shared" / "fixtures" / "nemo_gym"


def recorded(name: str) -> Path:
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"the recorded rollouts are not here: {path}")
    return path


def task(*ground_truth: tuple[str, dict[str, Any]]) -> WorkplaceTask:
    return WorkplaceTask.from_row(
        {
            "responses_create_params": {"input": "do it"},
            "ground_truth": [{"name": n, "arguments": json.dumps(a)} for n, a in ground_truth],
        }
    )


async def play(asked: WorkplaceTask, *calls: tuple[str, dict[str, Any]], **kwargs: Any) -> Episode:
    """The finished episode of an attempt that makes `calls`, one a turn."""
    async with Episode(WorkplaceAssistant, asked, **kwargs) as episode:
        await episode.start()
        for number, (name, arguments) in enumerate(calls):
            await episode.advance([function_call(name, json.dumps(arguments), f"c{number}")])
        await episode.advance([assistant_message("Done.")])
    return episode


def outputs(items: Sequence[Item]) -> list[str]:
    return [item["output"] for item in items if item["type"] == "function_call_output"]


def reward(episode: Episode) -> float:
    assert episode.outcome is not None
    assert episode.outcome.reward is not None, episode.outcome.failure
    return episode.outcome.reward.value


@pytest.fixture
def published() -> Database:
    return load_database(recorded("workplace_assistant_db"))


def test_there_are_the_27_tools_that_nemo_gym_declares_with_the_same_parameters() -> None:
    _, row = next(read_rows(recorded("workplace_assistant.tasks.jsonl")))
    declared = row["responses_create_params"]["tools"]
    own = [tool.declaration() for tool in WorkplaceAssistant.class_tools.values()]
    assert [tool["name"] for tool in own] == [tool["name"] for tool in declared]
    for ours, theirs in zip(own, declared, strict=True):
        assert list(ours["parameters"]["properties"]) == list(theirs["parameters"]["properties"])


async def test_recorded_calls_give_the_recorded_outputs(published: Database) -> None:
    for _, rollout in read_rows(recorded("workplace_assistant.jsonl")):
        row = {"responses_create_params": rollout["responses_create_params"], "ground_truth": []}
        episode = Episode(WorkplaceAssistant, WorkplaceTask.from_row(row), resources=published)
        async with episode:
            await episode.start()
            for item in rollout["response"]["output"]:
                if item["type"] == "function_call":
                    await episode.advance([item])
            assert outputs(episode.output) == outputs(rollout["response"]["output"])


async def test_the_ground_truth_of_published_rows_scores_1_and_doing_nothing_0(
    published: Database,
) -> None:
    for _, row in read_rows(recorded("workplace_assistant.tasks.jsonl")):
        asked = WorkplaceTask.from_row(row)
        calls = [(c.name, json.loads(c.arguments)) for c in asked.ground_truth]
        assert reward(await play(asked, *calls, resources=published)) == 1.0
        assert reward(await play(asked, resources=published)) == 0.0


async def test_generated_requests_are_solved_by_their_gold_turns_only() -> None:
    for asked in WorkplaceAssistant.generate_tasks(30, seed=3, difficulty=0.8):
        async with Episode(WorkplaceAssistant, asked) as episode:
            await episode.start()
            for turn in WorkplaceAssistant.gold_turns(asked):
                await episode.advance(turn)
        assert reward(episode) == 1.0, asked.input[1]
        assert not any("not found" in text for text in outputs(episode.output)), asked.input[1]
        assert reward(await play(asked)) == 0.0


async def test_case_matters_in_status_list_and_board_alone() -> None:
    update = "customer_relationship_manager_update_customer"
    note = {"customer_id": "00000001", "field": "notes", "new_value": "Call back"}
    asked = task((update, note))
    assert reward(await play(asked, (update, {**note, "new_value": "CALL BACK"}))) == 1.0
    add = "customer_relationship_manager_add_customer"
    who = {"customer_name": "Ada", "assigned_to_email": "a@b.com", "status": "Lead"}
    assert reward(await play(task((add, who)), (add, {**who, "status": "lead"}))) == 0.0
    assert reward(await play(task((add, who)), (add, {**who, "customer_name": "ADA"}))) == 1.0


async def test_a_needless_change_costs_the_reward_and_the_info_says_which() -> None:
    delete = ("email_delete_email", {"email_id": "00000003"})
    plot = (
        "analytics_create_plot",
        {
            "time_min": "2023-11-01",
            "time_max": "2023-11-30",
            "value_to_plot": "total_visits",
            "plot_type": "bar",
        },
    )
    episode = await play(task(delete), delete, plot)
    assert reward(episode) == 0.0
    assert episode.outcome is not None
    assert episode.outcome.reward is not None
    path = "plots/2023-11-01_2023-11-30_total_visits_bar.png"
    assert episode.outcome.reward.info["differences"] == [
        "plots: 1 rows, not 0",
        f"plots: an extra row {{'file_path': '{path}'}}",
    ]


async def test_a_change_that_is_taken_back_leaves_the_right_state() -> None:
    tell = {"task_id": "00000004", "field": "task_name"}
    name = generated_database().tasks["00000004"]["task_name"]
    update = "project_management_update_task"
    calls = [(update, {**tell, "new_value": "X"}), (update, {**tell, "new_value": name})]
    assert reward(await play(task(), *calls)) == 1.0
    assert reward(await play(task(), calls[0])) == 0.0


async def test_attempts_do_not_see_each_other_and_the_shared_base_stays_as_it_was() -> None:
    base = generated_database()
    before = len(base.emails)
    delete = ("email_delete_email", {"email_id": "00000003"})
    first = await play(task(delete), delete, resources=base)
    again = await play(task(delete), delete, resources=base)
    assert outputs(first.output) == outputs(again.output)
    assert outputs(again.output) == ['{"output":"Email deleted successfully."}']
    assert len(base.emails) == before


async def test_bad_arguments_come_back_as_results_and_leave_the_state_alone() -> None:
    episode = await play(
        task(),
        ("email_search_emails", {"page_size": 0}),
        ("email_search_emails", {"date_min": "soon"}),
        ("calendar_create_event", {"event_name": "x", "duration": 30}),
        ("email_send_email", {"recipient": "nobody", "subject": "s", "body": "b"}),
    )
    texts = outputs(episode.output)
    assert "page_size must be at least 1" in texts[0]
    assert texts[1] == '{"output":"Error searching emails: date_min is not a date: soon"}'
    assert json.loads(texts[2])["error"]["type"] == "invalid_arguments"
    assert texts[3] == '{"output":"Invalid recipient email address."}'
    assert reward(episode) == 1.0


async def test_searches_page_from_the_latest_and_a_page_past_the_end_is_the_last() -> None:
    episode = await play(
        task(),
        ("email_search_emails", {"page_size": 50}),
        ("email_search_emails", {"page_size": 50, "page": 99}),
    )
    first, last = (json.loads(text)["output"] for text in outputs(episode.output))
    moments = [email["sent_datetime"] for email in first["emails"]]
    assert moments == sorted(moments, reverse=True)
    assert last["pagination"] == {
        "total_emails": 160,
        "page": 4,
        "page_size": 50,
        "total_pages": 4,
    }
    assert len(last["emails"]) == 10


def test_the_examples_are_the_generators_own() -> None:
    entry = load_environment("workplace_assistant")
    rows = [asked.to_row() for asked in entry.example_tasks()]
    made = [
        asked.to_row()
        for seed, difficulty in enumerate((0.0, 0.5, 1.0))
        for asked in WorkplaceAssistant.generate_tasks(2, seed=seed, difficulty=difficulty)
    ]
    assert rows == made


def test_a_database_without_its_tables_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"email_addresses\.csv is absent"):
        load_database(tmp_path)
    (tmp_path / "email_addresses.csv").write_text("a@b.com\n")
    (tmp_path / "emails.csv").write_text("email_id,subject\n1,x\n")
    with pytest.raises(InvalidConfig, match="has no column inbox/outbox"):
        load_database(tmp_path)


def test_the_config_takes_a_path() -> None:
    config = load_environment("workplace_assistant").config(["database=/somewhere"])
    assert isinstance(config, WorkplaceConfig)
    assert config.database == Path("/somewhere")
