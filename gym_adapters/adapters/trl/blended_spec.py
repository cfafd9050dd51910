"""Several environments in one run of TRL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gym_adapters.adapters.trl.environments import EnvironmentFactory, EnvironmentReward
from gym_adapters.adapters.trl.reward import (
    RewardFunction,
    RolloutReward,
    SingleTurnReward,
    survivors_only,
)
from gym_adapters.adapters.trl.spec import TrlSpec
from gym_adapters.errors import InvalidConfig, Unsupported

__all__ = ["blended_spec"]


def blended_spec(*specs: TrlSpec, reward_funcs: Sequence[RewardFunction] = ()) -> TrlSpec:
    """One spec of several, each made with `trl_spec` for its environment.

    ::

        spec = blended_spec(
            trl_spec("arithmetic_tools", tasks="sums.jsonl"),
            trl_spec("mcqa", tasks="questions.jsonl", max_tokens_per_turn=256),
        )

    Every task is a row; rows of all environments are mixed in proportion to their number. A group
    is of one row, so no two environments share a baseline. The rewards of each are logged under its
    name, and its other metrics under ``gym/<environment>/``. The given specs become part of the new
    one: don't use them any more.

    Args:
        *specs: Of the same way, each for another environment.
        reward_funcs: Further reward functions, which see the rows of all environments.

    Raises:
        InvalidConfig: If the specs can't be one.
        Unsupported: If there are reward functions, and the trainer is not GRPOTrainer.
    """
    if len(specs) < 2:
        raise InvalidConfig("blended_spec needs two specs at least.")
    ways = {spec.way for spec in specs}
    if len(ways) > 1:
        raise InvalidConfig(f"specs of one run have one way, not {', '.join(sorted(ways))}.")
    parts = [part for spec in specs for part in spec.parts]
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        raise InvalidConfig(
            f"each environment of a run is named once, not {', '.join(names)}. Fix: give one spec "
            "all tasks of an environment."
        )
    for spec in specs:
        if len(spec.reward_funcs) > len(spec.parts):
            raise InvalidConfig(
                f"the spec of {spec.parts[0].name} has reward functions of its own, which would "
                "see all rows. Fix: give them to blended_spec."
            )
    blend = TrlSpec(specs[0].way, parts, facts=specs[0].facts)
    _MAKERS[blend.way](blend, specs)
    if reward_funcs and blend.way == "async":
        raise Unsupported(
            "AsyncGRPOTrainer takes the rewards that its rollout worker gives. Fix: score in the "
            "environments."
        )
    further = map(survivors_only, reward_funcs) if blend.way == "rollout" else reward_funcs
    blend.reward_funcs += further
    return blend


def _rollout(blend: TrlSpec, specs: Sequence[TrlSpec]) -> None:
    functions = [spec.rollout_func for spec in specs if spec.rollout_func is not None]
    function = functions[0].with_others(functions[1:])
    blend.rollout_func, blend.close = function, function.close
    for part in blend.parts:
        reward = RolloutReward(part.name, blend.facts)
        reward.others = tuple(other.name for other in blend.parts if other is not part)
        blend.reward_funcs.append(reward)


def _environment_factory(blend: TrlSpec, specs: Sequence[TrlSpec]) -> None:
    factories: dict[str, EnvironmentFactory] = {}
    for spec in specs:
        made = spec.environment_factory
        if isinstance(made, EnvironmentFactory):
            made = {spec.parts[0].name: made}
        factories |= made or {}
    for factory in factories.values():
        factory.facts = blend.facts
        reward = EnvironmentReward(factory)
        reward.among_others = True
        blend.reward_funcs.append(reward)
    blend.environment_factory, blend.close = factories, _all(specs)


def _reward(blend: TrlSpec, specs: Sequence[TrlSpec]) -> None:
    for spec in specs:
        for reward in spec.reward_funcs:
            if isinstance(reward, SingleTurnReward):
                reward.facts, reward.among_others = blend.facts, True
            blend.reward_funcs.append(reward)
    blend.close = _all(specs)


def _async(blend: TrlSpec, specs: Sequence[TrlSpec]) -> None:
    workers = [spec.rollout_worker for spec in specs if spec.rollout_worker is not None]
    worker = workers[0].with_others(workers[1:], blend.rows())
    blend.rollout_worker, blend.close = worker, worker.close


def _all(specs: Sequence[TrlSpec]) -> Callable[[], None]:
    def close() -> None:
        for spec in specs:
            spec.close()

    return close


_MAKERS: dict[str, Callable[[TrlSpec, Sequence[TrlSpec]], None]] = {
    "rollout": _rollout,
    "environment_factory": _environment_factory,
    "reward": _reward,
    "async": _async,
}
