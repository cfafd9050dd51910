from __future__ import annotations

from pathlib import Path

import pytest

from gym_adapters import Environment, Task, Tool, Transcript, Unsupported, tool
from gym_adapters.adapters.capabilities import (
    CARRIES,
    Adapter,
    Feature,
    markdown_table,
    needed_features,
    refuse_unsupported,
)

TRL = (
    Adapter.TRL_ROLLOUT,
    Adapter.TRL_ASYNC,
    Adapter.TRL_ENVIRONMENT_FACTORY,
    Adapter.TRL_REWARD,
)


class Plain(Environment[Task]):
    async def verify(self, transcript: Transcript) -> float:
        return 1.0


class Replies(Plain):
    async def reply(self, message: str) -> str | None:
        return None


class OwnPrompt(Plain):
    async def prompt(self):  # type: ignore[no-untyped-def]
        return self.task.input


class OwnTools(Plain):
    def available_tools(self) -> list[Tool]:
        return []


class Compares(Plain):
    @classmethod
    async def compare(cls, rollouts, **_):  # type: ignore[no-untyped-def]
        return [1.0 for _ in rollouts]


class Tools(Plain):
    @tool
    async def look(self) -> str:
        """Look around."""
        return "nothing"


def task(**params: object) -> Task:
    return Task.from_row({"responses_create_params": {"input": "hi", **params}})


def declared(name: str) -> dict[str, object]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("adapter", list(Adapter))
def test_every_adapter_says_something_of_every_feature(adapter: Adapter) -> None:
    assert set(CARRIES[adapter].features) == set(Feature)
    assert CARRIES[adapter].failed_rollout


@pytest.mark.parametrize("adapter", list(Adapter))
def test_every_refusal_has_a_reason(adapter: Adapter) -> None:
    refused = [c for c in CARRIES[adapter].features.values() if not c.carried]
    assert all(len(carriage.note) > 20 for carriage in refused)


@pytest.mark.parametrize(
    ("environment", "features"),
    [
        (Plain, set()),
        (Replies, {Feature.REPLY}),
        (OwnPrompt, {Feature.OWN_PROMPT}),
        (OwnTools, {Feature.ROW_TOOLS, Feature.TOOLS}),
        (Compares, {Feature.GROUP_COMPARE}),
        (Tools, {Feature.TOOLS}),
    ],
)
def test_needs_are_read_off_the_hooks(
    environment: type[Environment[Task]], features: set[Feature]
) -> None:
    assert needed_features(environment, [task()]) == features


def test_rows_that_declare_the_same_tools_are_no_need_and_other_tools_are() -> None:
    alike = [task(tools=[declared("look")]), task(tools=[declared("look")])]
    assert needed_features(Tools, alike) == {Feature.TOOLS}
    assert Feature.ROW_TOOLS in needed_features(Tools, [*alike, task()])


def test_images_and_earlier_tool_turns_are_read_off_the_rows() -> None:
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]
    called = [{"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}]
    assert needed_features(Plain, [task(input=image)]) == {Feature.IMAGES}
    assert needed_features(Plain, [task(input=called)]) == {Feature.PRIOR_TURNS}


def test_a_refusal_names_adapter_environment_feature_and_alternative() -> None:
    with pytest.raises(Unsupported) as refusal:
        refuse_unsupported(Adapter.TRL_ENVIRONMENT_FACTORY, Replies)
    text = str(refusal.value)
    assert "TRL environment_factory can't carry Replies" in text
    assert "replies of the environment" in text
    assert "use rollout_function" in text


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(Unsupported) as refusal:
        refuse_unsupported(
            Adapter.TRL_REWARD, Tools, also=[Feature.SEVERAL_POLICIES, Feature.SEVERAL_SEGMENTS]
        )
    assert all(word in str(refusal.value) for word in ("tools:", "policies:", "segments"))


def test_what_is_carried_or_excepted_is_not_refused() -> None:
    for environment in (Plain, Replies, OwnPrompt, OwnTools, Compares, Tools):
        refuse_unsupported(Adapter.TRL_ROLLOUT, environment, [task()])
    refuse_unsupported(Adapter.TRL_REWARD, Tools, except_for=[Feature.TOOLS])


def test_the_table_of_the_docs_is_the_matrix() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "trl.md"
    assert markdown_table(TRL) in page.read_text(encoding="utf-8")
