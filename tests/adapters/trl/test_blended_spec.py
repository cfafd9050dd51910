"""Several environments in one run: their rows mixed, their groups and their logs apart."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from gym_adapters import (
    Environment,
    InvalidConfig,
    InvalidRow,
    JudgeError,
    Reward,
    RolloutError,
    Task,
    Transcript,
    Unsupported,
    UsageError,
    load_environment,
    tool,
)
from gym_adapters.adapters.trl import RolloutReward, TrlSpec, blended_spec, rollouts, trl_spec
from gym_adapters.adapters.trl.rows import environment_of_prompt, row_of_prompt
from gym_adapters.items import item_text
from gym_adapters.rollout import Rollout
from gym_adapters.testing.tiny_model import TinyPolicy

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    name = "graded"

    async def verify(self, transcript: Transcript) -> Reward:
        text = "".join(item_text(i) + str(i.get("arguments", "")) for i in transcript.output)
        value = sum(map(ord, text)) % 7 / 6
        return Reward(value, {"grade": value})


class Doubled(Graded):
    """The same, twice as high; a tool of its own beside the calculator."""

    name = "doubled"

    @tool
    async def forget(self, word: str) -> str:
        """Forget a word.

        Args:
            word: Which.
        """
        return "gone"

    async def verify(self, transcript: Transcript) -> Reward:
        reward = await super().verify(transcript)
        return Reward(2 * reward.value, {"grade": 2 * reward.value})


class Ranked(Graded):
    """The place in the group, upside down."""

    name = "ranked"

    @classmethod
    async def compare(cls, rollouts, **_):  # type: ignore[no-untyped-def]
        return [-float(place) for place, _ in enumerate(rollouts)]


class Broken(Graded):
    """Is never scored."""

    name = "broken"

    async def verify(self, transcript: Transcript) -> Reward:
        raise JudgeError("no such host")


class Quiz(Environment[Task]):
    """One turn without tools."""

    name = "quiz"

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(len(transcript.final_text) % 5 / 4, {"length": 1.0})


class Riddle(Quiz):
    name = "riddle"

    async def verify(self, transcript: Transcript) -> Reward:
        return Reward(3.0 + len(transcript.final_text) % 5 / 4, {"length": 2.0})


Way = Literal["rollout", "environment_factory", "reward", "async"]


def blend(
    sums: list[Task], first: Any = Graded, second: Any = Doubled, way: Way = "rollout"
) -> TrlSpec:
    return blended_spec(
        trl_spec(first, tasks=sums[:6], eval_tasks=sums[:2], way=way),
        trl_spec(second, tasks=sums[6:9], eval_tasks=sums[6:8], way=way),
    )


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[list[Rollout]]:
    batches: list[list[Rollout]] = []
    original = rollouts.rollout_columns

    def kept(batch: Any, **options: Any) -> Any:
        batches.append(list(batch))
        return original(batch, **options)

    monkeypatch.setattr(rollouts, "rollout_columns", kept)
    return batches


def test_rows_are_mixed_in_proportion_and_name_their_environment(sums: list[Task]) -> None:
    spec = blend(sums)
    assert spec.train_dataset["environment"] == ["graded", "graded", "doubled"] * 3
    prompts = spec.train_dataset["prompt"]
    assert [environment_of_prompt(p) for p in prompts] == list(spec.train_dataset["environment"])
    questions = [row_of_prompt(p) for p in prompts]
    assert sorted(map(str, questions)) == sorted(str(task.to_row()) for task in sums[:9])
    assert [t.to_row() for t in spec.tasks] == questions
    assert len(spec.eval_dataset) == 4


def test_grpo_trains_on_two_environments_and_logs_each_under_its_name(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    finished: list[list[Rollout]],
) -> None:
    spec = blend(sums)
    trainer = make_trainer(policy, spec.trainer_arguments(), log_completions=True)
    monkey = trainer._logs["extra"]
    recorder = record(trainer)
    trainer.train()
    seen = set()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    for step, batch in enumerate(finished):
        groups = [batch[:4], batch[4:]]
        assert all(len({r.task_id for r in group}) == 1 for group in groups)
        names = {r.provenance.environment for r in batch}
        seen |= names
        for name in names:
            own = [r.reward for r in batch if r.provenance.environment == name]
            mean = sum(own) / len(own)
            assert history[step][f"rewards/{name}/mean"] == pytest.approx(mean, abs=1e-5)
            assert history[step][f"gym/{name}/components/grade"] == pytest.approx(mean, abs=1e-5)
            assert history[step][f"gym/{name}/failed"] == 0.0
        assert history[step]["reward"] == pytest.approx(sum(r.reward for r in batch) / 8, abs=1e-5)
        assert "gym/failed" not in history[step]
        rewards = [[r.reward for r in group] for group in groups]
        expected = [r - sum(group) / 4 for group in rewards for r in group]
        advantages = recorder.batches[step]["advantages"].tolist()
        # Those of the mean itself are 0 but for rounding.
        assert [a > 1e-3 for a in advantages] == [e > 1e-6 for e in expected]
    assert seen == {"graded", "doubled"}
    # One entry a completion, though two functions log.
    assert len(monkey["gym_stop_reason"]) == len(trainer._logs["prompt"]) > 0


def test_evaluation_takes_the_rows_of_all_environments(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    spec = blend(sums)
    trainer = make_trainer(
        policy,
        spec.trainer_arguments(),
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        num_generations_eval=2,
        per_device_eval_batch_size=8,
    )
    trainer.train()
    (evaluated,) = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    tested = [r for batch in finished if len(batch) == 8 for r in batch][-8:]
    assert [r.provenance.environment for r in tested].count("graded") == 4
    assert evaluated["eval_reward"] == pytest.approx(sum(r.reward for r in tested) / 8, abs=1e-5)
    assert {"eval_rewards/graded/mean", "eval_gym/doubled/components/grade"} < set(evaluated)


def test_only_the_groups_of_environments_that_compare_are_compared(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    spec = blend(sums, Graded, Ranked)
    make_trainer(policy, spec.trainer_arguments(), max_steps=4).train()
    groups = [batch[start : start + 4] for batch in finished for start in (0, 4)]
    ranked = [g for g in groups if g[0].provenance.environment == "ranked"]
    graded = [g for g in groups if g[0].provenance.environment == "graded"]
    assert ranked
    assert graded
    assert all([r.reward for r in group] == [0.0, -1.0, -2.0, -3.0] for group in ranked)
    assert all(r.reward >= 0 for group in graded for r in group)


def test_trls_own_loop_takes_several_environments_with_their_own_tools(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = blend(sums, way="environment_factory")
    assert set(spec.trainer_arguments()["environment_factory"]) == {"graded", "doubled"}
    trainer = make_trainer(policy, spec.trainer_arguments(), max_steps=3)
    trainer.train()
    shown = {name: len(tools) for name, tools in trainer._env_tools.items()}
    assert shown == {"graded": 1, "doubled": 2}
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    seen = set()
    for entry in history:
        for name in ("graded", "doubled"):
            mean = entry.get(f"rewards/{name}/mean")
            if f"gym/{name}/failed" in entry:
                seen.add(name)
                grade = entry[f"gym/{name}/components/grade"]
                assert mean == pytest.approx(grade, abs=1e-5)
    assert seen == {"graded", "doubled"}


def test_single_turn_rewards_score_the_rows_of_their_environment_alone(
    make_trainer: Any, raw_policy: TinyPolicy
) -> None:
    rows = [Task.from_row({"responses_create_params": {"input": f"q{n}"}}) for n in range(4)]
    spec = blended_spec(
        trl_spec(Quiz, tasks=rows, way="reward"), trl_spec(Riddle, tasks=rows, way="reward")
    )
    trainer = make_trainer(
        raw_policy, spec.trainer_arguments(), max_completion_length=6, max_steps=3
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    quiz = [e["gym/quiz/components/length"] for e in history if "gym/quiz/failed" in e]
    riddle = [e["gym/riddle/components/length"] for e in history if "gym/riddle/failed" in e]
    assert set(quiz) == {1.0}
    assert set(riddle) == {2.0}
    for entry in history:
        if "gym/riddle/failed" in entry:
            assert 3.0 <= entry["rewards/riddle/mean"] <= 4.0
        if "gym/quiz/failed" in entry:
            assert 0.0 <= entry["rewards/quiz/mean"] <= 1.0


def test_further_rewards_see_all_rows_and_leave_failed_rollouts_out(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task], finished: list[list[Rollout]]
) -> None:
    def one(completions: list[Any], **_: object) -> list[float]:
        return [1.0 for _ in completions]

    spec = blended_spec(
        trl_spec(Graded, tasks=sums[:4]), trl_spec(Broken, tasks=sums[4:8]), reward_funcs=[one]
    )
    trainer = make_trainer(policy, spec.trainer_arguments(), max_steps=3)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    for entry, batch in zip(history, finished, strict=True):
        rewards = [r.reward for r in batch if r.reward is not None]
        if rewards:
            mean = 1.0 + sum(rewards) / len(rewards)
            assert entry["reward"] == pytest.approx(mean, abs=1e-5)
    assert any(r.reward is None for batch in finished for r in batch)


def test_rewards_of_two_specs_put_together_by_hand_are_refused(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task]
) -> None:
    one, other = trl_spec(Graded, tasks=sums[:4]), trl_spec(Doubled, tasks=sums[4:8])
    for rewards in ([*one.reward_funcs, *other.reward_funcs], one.reward_funcs * 2):
        arguments = {**one.trainer_arguments(), "reward_funcs": rewards}
        with pytest.raises(UsageError, match="blended_spec"):
            make_trainer(policy, arguments).train()
    one.close()


def test_a_row_of_an_environment_that_is_not_part_is_refused(
    make_trainer: Any, policy: TinyPolicy, sums: list[Task]
) -> None:
    spec, other = blend(sums), blend(sums, Ranked, Graded)
    arguments = {**spec.trainer_arguments(), "train_dataset": other.train_dataset}
    with pytest.raises(InvalidRow, match="ranked"):
        make_trainer(policy, arguments).train()
    spec.close()


def test_what_can_not_be_one_run_is_refused(sums: list[Task]) -> None:
    def spec(environment: Any = Graded, **options: Any) -> TrlSpec:
        return trl_spec(environment, tasks=sums[:2], **options)

    with pytest.raises(InvalidConfig, match="two specs"):
        blended_spec(spec())
    with pytest.raises(InvalidConfig, match="named once"):
        blended_spec(spec(), spec())
    with pytest.raises(InvalidConfig, match="one way"):
        blended_spec(spec(), spec(Doubled, way="environment_factory"))
    with pytest.raises(InvalidConfig, match="give them to blended_spec"):
        blended_spec(spec(reward_funcs=[len]), spec(Doubled))
    with pytest.raises(InvalidConfig, match="another generator"):
        blended_spec(spec(), spec(Doubled, generator=print))
    with pytest.raises(InvalidConfig, match="different generators"):
        blended_spec(spec(way="async"), spec(Doubled, way="async", generator=object()))
    with pytest.raises(InvalidConfig, match="chat_format"):
        blended_spec(spec(), spec(Doubled, chat_format="hermes"))
    with pytest.raises(Unsupported, match="score in the environments"):
        blended_spec(spec(way="async"), spec(Doubled, way="async"), reward_funcs=[len])
    with pytest.raises(InvalidConfig, match="blended_spec"):
        trl_spec([Graded, Doubled], tasks=sums)  # type: ignore[arg-type]


def test_a_blend_can_be_blended_further(sums: list[Task]) -> None:
    spec = blended_spec(blend(sums), trl_spec(Ranked, tasks=sums[9:12]))
    assert set(spec.train_dataset["environment"]) == {"graded", "doubled", "ranked"}
    names = [f.__name__ for f in spec.reward_funcs if isinstance(f, RolloutReward)]
    assert names == ["graded", "doubled", "ranked"]
    assert spec.rollout_func is not None
    assert len({id(p.run.loop) for p in spec.rollout_func.blend.parts.values()}) == 1


def test_a_run_in_which_nothing_is_ever_scored_ends_with_the_first_problem(
    make_trainer: Any, raw_policy: TinyPolicy, sums: list[Task]
) -> None:
    spec = trl_spec(Broken, tasks=sums)
    trainer = make_trainer(
        raw_policy, spec.trainer_arguments(), max_steps=100, max_completion_length=4
    )
    with pytest.raises(RolloutError, match=r"64 prompts in a row.*no such host"):
        trainer.train()
    # Two prompts a step.
    assert trainer.state.global_step == 31
    spec.close()
