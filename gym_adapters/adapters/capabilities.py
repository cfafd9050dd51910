"""What each trainer can carry, checked before its first step.

`CARRIES` is the one matrix that every adapter asks. A feature is carried, carried with a limit that
is told in its note, or refused with the reason and the alternative. Nothing degrades silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from gym_adapters.environment import Environment
from gym_adapters.errors import Unsupported
from gym_adapters.task import Task

__all__ = [
    "CARRIES",
    "Adapter",
    "AdapterLimits",
    "Carriage",
    "Feature",
    "markdown_table",
    "needed_features",
    "refuse_unsupported",
]


class Adapter(StrEnum):
    """Every way of handing an environment to a trainer."""

    TRL_ROLLOUT = "TRL rollout_function"
    TRL_ASYNC = "TRL async rollout worker"
    TRL_ENVIRONMENT_FACTORY = "TRL environment_factory"
    TRL_REWARD = "TRL reward_function"
    VERL = "verl agent loop"
    VERL_REWARD = "verl compute_score"
    NEMO_RL = "NeMo RL actor"
    NEMO_RL_NATIVE = "NeMo RL EnvironmentInterface"
    OFFLINE = "stored rollouts"


class Feature(StrEnum):
    """What an environment, a row or a template may ask of a trainer."""

    TOOLS = "tools"
    ROW_TOOLS = "tools that differ from row to row"
    REPLY = "replies of the environment"
    OWN_PROMPT = "a prompt made at the start"
    PRIOR_TURNS = "tool turns in a row's input"
    GROUP_COMPARE = "rewards relative to the group"
    SEVERAL_SEGMENTS = "several segments in a rollout"
    SEVERAL_ENVIRONMENTS = "several environments in a run"
    SEVERAL_POLICIES = "several policies"
    IMAGES = "images"


@dataclass(frozen=True, slots=True)
class Carriage:
    """Whether one adapter carries one feature.

    Attributes:
        carried: Whether it does.
        note: Where it does not, why, and what does; else a limit worth knowing, or nothing.
    """

    carried: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """One row of the matrix.

    Attributes:
        features: What is carried, by feature; all of them are named.
        failed_rollout: What happens to a rollout that has no reward.
    """

    features: Mapping[Feature, Carriage]
    failed_rollout: str


YES = Carriage(True)


def _no(note: str) -> Carriage:
    return Carriage(False, note)


_NO_IMAGES = _no("its generators and renderer take text only")
_ONE_POLICY = _no("it trains one model, which writes every assistant turn")
_ONE_SEGMENT = _no(
    "it takes one training sample per rollout; use a chat template that leaves history as it is"
)
_USE_ROLLOUT = "use rollout_function"
_BY_SPEC = Carriage(True, "blended_spec")
_BY_ROW = Carriage(True, "each row names its own")

CARRIES: Mapping[Adapter, AdapterLimits] = {
    Adapter.TRL_ROLLOUT: AdapterLimits(
        features={
            Feature.TOOLS: YES,
            Feature.ROW_TOOLS: YES,
            Feature.REPLY: YES,
            Feature.OWN_PROMPT: YES,
            Feature.PRIOR_TURNS: YES,
            Feature.GROUP_COMPARE: Carriage(True, "each process must hold whole groups"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_SPEC,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="mask 0, reward None: outside the loss and the group's baseline",
    ),
    Adapter.TRL_ASYNC: AdapterLimits(
        features={
            Feature.TOOLS: YES,
            Feature.ROW_TOOLS: YES,
            Feature.REPLY: YES,
            Feature.OWN_PROMPT: YES,
            Feature.PRIOR_TURNS: YES,
            Feature.GROUP_COMPARE: YES,
            Feature.SEVERAL_SEGMENTS: Carriage(
                True, "each is a sample with the rollout's advantage"
            ),
            Feature.SEVERAL_ENVIRONMENTS: _BY_SPEC,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="no sample: outside the loss and the group's baseline",
    ),
    Adapter.TRL_ENVIRONMENT_FACTORY: AdapterLimits(
        features={
            Feature.TOOLS: YES,
            Feature.ROW_TOOLS: _no(f"TRL fixes the tools before the first row; {_USE_ROLLOUT}"),
            Feature.REPLY: _no(f"TRL's loop ends at a turn without tool calls; {_USE_ROLLOUT}"),
            Feature.OWN_PROMPT: _no(f"TRL takes the prompt from the dataset; {_USE_ROLLOUT}"),
            Feature.PRIOR_TURNS: _no(f"TRL renders messages of text only here; {_USE_ROLLOUT}"),
            Feature.GROUP_COMPARE: _no(f"rewards are made one rollout at a time; {_USE_ROLLOUT}"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_SPEC,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="reward None: outside the baseline, advantage 0; its tokens still count in "
        "the loss's denominator and in KL",
    ),
    Adapter.TRL_REWARD: AdapterLimits(
        features={
            Feature.TOOLS: _no(
                "TRL shows tools to the model only where it runs them; use environment_factory, or "
                "rollout_function"
            ),
            Feature.ROW_TOOLS: _no(f"a prompt of the dataset shows no tools; {_USE_ROLLOUT}"),
            Feature.REPLY: _no(f"there is one turn; {_USE_ROLLOUT}"),
            Feature.OWN_PROMPT: _no(f"TRL takes the prompt from the dataset; {_USE_ROLLOUT}"),
            Feature.PRIOR_TURNS: _no(f"TRL renders messages of text only here; {_USE_ROLLOUT}"),
            Feature.GROUP_COMPARE: _no(f"rewards are made one rollout at a time; {_USE_ROLLOUT}"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_SPEC,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="reward None: outside the baseline, advantage 0; its tokens still count in "
        "the loss's denominator and in KL",
    ),
    Adapter.VERL: AdapterLimits(
        features={
            Feature.TOOLS: YES,
            Feature.ROW_TOOLS: YES,
            Feature.REPLY: YES,
            Feature.OWN_PROMPT: YES,
            Feature.PRIOR_TURNS: YES,
            Feature.GROUP_COMPARE: YES,
            Feature.SEVERAL_SEGMENTS: Carriage(True, "with adv_estimator=grpo; else the run ends"),
            Feature.SEVERAL_ENVIRONMENTS: _BY_ROW,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="no row: outside the loss and the group's baseline; with fewer than two "
        "survivors the whole prompt is left out, and replaced",
    ),
    Adapter.VERL_REWARD: AdapterLimits(
        features={
            Feature.TOOLS: _no("there is one turn, without tools; use the agent loop"),
            Feature.ROW_TOOLS: _no("there is one turn, without tools; use the agent loop"),
            Feature.REPLY: _no("there is one turn; use the agent loop"),
            Feature.OWN_PROMPT: _no("verl takes the prompt from the dataset; use the agent loop"),
            Feature.PRIOR_TURNS: _no("verl renders messages of text only here; use the agent loop"),
            Feature.GROUP_COMPARE: _no("it scores one answer at a time; use the agent loop"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_ROW,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="an error: verl leaves the rollout out, and a lone survivor is trained with "
        "a baseline of 0; use the agent loop",
    ),
    Adapter.NEMO_RL: AdapterLimits(
        features={
            Feature.TOOLS: YES,
            Feature.ROW_TOOLS: YES,
            Feature.REPLY: YES,
            Feature.OWN_PROMPT: YES,
            Feature.PRIOR_TURNS: YES,
            Feature.GROUP_COMPARE: Carriage(True, "the rows of a task in one call are its group"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_ROW,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="mask_sample: outside the loss; the launcher makes advantages without it",
    ),
    Adapter.NEMO_RL_NATIVE: AdapterLimits(
        features={
            Feature.TOOLS: Carriage(True, "read back from decoded text; no parity is claimed"),
            Feature.ROW_TOOLS: _no("the prompt is made before the episode starts; use the actor"),
            Feature.REPLY: YES,
            Feature.OWN_PROMPT: _no("the prompt comes from the dataset; use the actor"),
            Feature.PRIOR_TURNS: YES,
            Feature.GROUP_COMPARE: _no("step sees one rollout at a time; score in verify"),
            Feature.SEVERAL_SEGMENTS: _ONE_SEGMENT,
            Feature.SEVERAL_ENVIRONMENTS: _BY_ROW,
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="outside the loss and the baseline, by the launcher",
    ),
    Adapter.OFFLINE: AdapterLimits(
        features={
            **dict.fromkeys(Feature, YES),
            Feature.SEVERAL_SEGMENTS: Carriage(True, "each is a row"),
            Feature.SEVERAL_ENVIRONMENTS: Carriage(True, "each collected by itself"),
            Feature.SEVERAL_POLICIES: _ONE_POLICY,
            Feature.IMAGES: _NO_IMAGES,
        },
        failed_rollout="no row",
    ),
}


def needed_features(
    environment: type[Environment[Any]], tasks: Iterable[Task] = ()
) -> frozenset[Feature]:
    """What `environment`, run on `tasks`, asks of a trainer."""
    asked = environment.capabilities()
    needs = {
        Feature.TOOLS: asked.uses_tools,
        Feature.ROW_TOOLS: asked.own_tools,
        Feature.REPLY: asked.replies,
        Feature.OWN_PROMPT: asked.own_prompt,
        Feature.GROUP_COMPARE: asked.compares,
    }
    declared: set[bytes] = set()
    for task in tasks:
        declared.add(orjson.dumps(task.tools, option=orjson.OPT_SORT_KEYS))
        for item in task.input:
            if item["type"] != "message":
                needs[Feature.PRIOR_TURNS] = True
            elif not isinstance(content := item["content"], str):
                images = any(part["type"] == "input_image" for part in content)
                needs[Feature.IMAGES] = needs.get(Feature.IMAGES, False) or images
    if len(declared) > 1:
        needs[Feature.ROW_TOOLS] = True
    return frozenset(feature for feature, needed in needs.items() if needed)


def refuse_unsupported(
    adapter: Adapter,
    environment: type[Environment[Any]],
    tasks: Iterable[Task] = (),
    *,
    also: Collection[Feature] = (),
    except_for: Collection[Feature] = (),
) -> None:
    """Raise unless `adapter` carries all that `environment` and `tasks` need.

    Args:
        adapter: How the environment is handed to the trainer.
        environment: Its class.
        tasks: Rows it will see, where they are known.
        also: Features needed besides those that can be read off class and rows.
        except_for: Features the caller takes care of.

    Raises:
        Unsupported: Naming every feature that can't be carried, with reason and alternative.
    """
    needs = (needed_features(environment, tasks) | set(also)) - set(except_for)
    carries = CARRIES[adapter].features
    problems = [
        f"{feature.value}: {carries[feature].note}"
        for feature in Feature
        if feature in needs and not carries[feature].carried
    ]
    if problems:
        raise Unsupported(
            f"{adapter.value} can't carry {environment.name}. " + ". ".join(problems) + "."
        )


def markdown_table(adapters: Sequence[Adapter]) -> str:
    """The matrix's rows of `adapters` as a Markdown table, one column an adapter."""
    lines = [
        "| | " + " | ".join(adapter.value for adapter in adapters) + " |",
        "|---" * (len(adapters) + 1) + "|",
    ]
    for feature in Feature:
        cells = [_cell(CARRIES[adapter].features[feature]) for adapter in adapters]
        lines.append(f"| {feature.value} | " + " | ".join(cells) + " |")
    failed = [CARRIES[adapter].failed_rollout for adapter in adapters]
    lines.append("| a failed rollout | " + " | ".join(failed) + " |")
    return "\n".join(lines)


def _cell(carriage: Carriage) -> str:
    if not carriage.carried:
        return f"refused: {carriage.note}"
    return f"yes; {carriage.note}" if carriage.note else "yes"
