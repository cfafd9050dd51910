"""TRL's trainers, as Unsloth patched them, over a policy with LoRA."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from gym_adapters.adapters.environment_run import AnyEnvironment
from gym_adapters.adapters.trl.spec import TrlSpec, trl_spec
from gym_adapters.adapters.unsloth.policy import UnslothPolicy
from gym_adapters.adapters.unsloth.shared_engine import SharedEngine
from gym_adapters.errors import InvalidConfig, Unsupported

__all__ = ["check_trainer", "grpo_trainer", "sft_trainer", "unsloth_spec"]


def unsloth_spec(environment: AnyEnvironment, **options: Any) -> TrlSpec:
    """`trl_spec` for a model that Unsloth loaded: rollouts are sampled from its adapters.

    Args:
        environment: Class, registry entry or name.
        **options: Of `gym_adapters.adapters.trl.trl_spec`. In its other ways than ``rollout`` TRL's
            own loop samples, and Unsloth hands that the adapters itself.

    Raises:
        Unsupported: If TRL can't carry the environment or one of the rows.
        InvalidRow: If a row can't be read, or there is none.
    """
    if options.get("way", "rollout") == "rollout":
        batch = options.get("max_concurrency", 64)
        options = {"generator": SharedEngine(max_batch_size=batch), **options}
    return trl_spec(environment, **options)


def grpo_trainer(
    policy: UnslothPolicy, spec: TrlSpec, settings: Mapping[str, Any], **arguments: Any
) -> Any:
    """A ``GRPOTrainer`` that trains `policy` on the environment of `spec`; call its ``train()``.

    ::

        policy = load_policy(UnslothConfig(model="Qwen/Qwen3-4B", load_in_4bit=True))
        spec = unsloth_spec("arithmetic_tools", tasks="train.jsonl")
        trainer = grpo_trainer(policy, spec, {"output_dir": "out", "num_generations": 8})
        trainer.train()

    Args:
        policy: From `load_policy`.
        spec: From `unsloth_spec`.
        settings: Of ``GRPOConfig``.
        **arguments: Further arguments of ``GRPOTrainer``; callbacks are added to the spec's.

    Raises:
        InvalidConfig: If a setting contradicts the policy.
        Unsupported: If this Unsloth would train what must not be trained, or can't generate here.
    """
    _refuse_grpo(policy, spec)
    from trl import GRPOConfig, GRPOTrainer

    check_trainer(GRPOTrainer)
    own: dict[str, Any] = {}
    if policy.shares_engine:
        own = {"use_vllm": True, "vllm_mode": "colocate"}
        for name, value in own.items():
            if settings.get(name, value) != value:
                raise InvalidConfig(
                    f"{name}={settings[name]!r} contradicts the engine that was loaded with the "
                    "model. Fix: leave it out."
                )
    given = spec.trainer_arguments()
    callbacks = [*given.pop("callbacks"), *arguments.pop("callbacks", ())]
    return GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=GRPOConfig(**{**settings, **own}),
        callbacks=callbacks,
        **{**given, **arguments},
    )


def sft_trainer(
    policy: UnslothPolicy, dataset: Any, settings: Mapping[str, Any], **arguments: Any
) -> Any:
    """An ``SFTTrainer`` that trains `policy` on exported rollouts; call its ``train()``.

    Args:
        policy: From `load_policy`.
        dataset: A ``datasets.Dataset`` of ``input_ids`` and ``labels``, of ``prompt`` and
            ``completion``, or of ``messages``, as ``gym-adapters export sft`` writes them.
        settings: Of ``SFTConfig``; ``max_length`` is the policy's ``max_seq_length`` by default.
        **arguments: Further arguments of ``SFTTrainer``.
    """
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=SFTConfig(**{"max_length": policy.config.max_seq_length, **settings}),
        train_dataset=dataset,
        **arguments,
    )


def check_trainer(trainer: type[Any]) -> None:
    """Refuse a ``GRPOTrainer`` whose source, rewritten by Unsloth, loses what rollouts need.

    Versions of it dropped the mask of a rollout, and so trained on what tools had written.

    Raises:
        Unsupported: Naming what is missing.
    """
    # What wraps a constructor may show *args alone, and hand them to the class below.
    constructors = [vars(cls)["__init__"] for cls in trainer.__mro__ if "__init__" in vars(cls)]
    takes = any("rollout_func" in inspect.signature(made).parameters for made in constructors)
    lacks = [] if takes else ["it takes no rollout_func"]
    loss = getattr(trainer, "compute_loss", None)
    steps = [loss, getattr(trainer, "_compute_loss", None)]
    source = "".join(textwrap.dedent(inspect.getsource(step)) for step in steps if step is not None)
    if "tool_mask" not in source:
        lacks.append("its loss knows no mask of tool results")
    if lacks:
        raise Unsupported(
            f"{trainer.__module__}.{trainer.__name__} can't train on rollouts: {'; '.join(lacks)}. "
            "Fix: pip install --upgrade 'gym-adapters[unsloth]'."
        )


def _refuse_grpo(policy: UnslothPolicy, spec: TrlSpec) -> None:
    device = getattr(policy.model.device, "type", "cpu")
    own_loop = spec.rollout_func is not None
    if (
        own_loop
        and policy.config.loader == "unsloth"
        and device != "cpu"
        and not policy.shares_engine
    ):
        raise Unsupported(
            "Unsloth rewrites the forward pass on a GPU, and rollouts of several turns are not "
            "decoded with that. Fix: fast_inference=True, which samples with the shared vLLM."
        )
