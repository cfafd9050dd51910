"""What the rollout worker takes from an ``AsyncGRPOConfig``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gym_adapters.adapters.trl.trainer_generation import sampling_params
from gym_adapters.errors import InvalidConfig
from gym_adapters.generation.protocol import SamplingParams

__all__ = ["AsyncSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncSettings:
    """Settings of one training.

    Attributes:
        group_size: Rollouts a task.
        seed: Of the run.
        sampling: How to sample each turn.
        max_completion: Most tokens after the prompt of a sample.
        max_context: Most tokens of a sample; a longer one TRL would drop.
        concurrency: Most rollouts at once.
        buffered: Most samples that wait for the trainer.
        staleness: How many versions of the weights a sample may be behind.
        per_version: Samples trained on between two versions.
        at_least: Whether that is the least: batches are filled up to a number of tokens.
        template_kwargs: Variables for the chat template.
        model: What to call the model.
        server_url: vLLM's.
        request_timeout: Seconds for one turn.
    """

    group_size: int
    seed: int
    sampling: SamplingParams
    max_completion: int
    max_context: int | None
    concurrency: int
    buffered: int
    staleness: int
    per_version: int
    at_least: bool
    template_kwargs: dict[str, Any]
    model: str
    server_url: str
    request_timeout: float

    @classmethod
    def of(cls, args: Any, model: Any) -> AsyncSettings:
        """The settings of a trainer that is made: by then it has filled in its own defaults.

        Args:
            args: An ``AsyncGRPOConfig``.
            model: The model in training.

        Raises:
            InvalidConfig: If they are another trainer's.
        """
        if not hasattr(args, "max_staleness"):
            raise InvalidConfig(
                'the way "async" is for AsyncGRPOTrainer, and its AsyncGRPOConfig. Fix: use the '
                'way "rollout" with GRPOTrainer.'
            )
        config = getattr(model, "config", None)
        limits = [getattr(config, "max_position_embeddings", None), args.token_budget]
        samples = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return cls(
            group_size=args.num_generations,
            seed=args.seed,
            sampling=sampling_params(args),
            max_completion=args.max_completion_length,
            max_context=min((limit for limit in limits if limit and limit > 0), default=None),
            concurrency=max(1, args.max_inflight_tasks),
            buffered=args.queue_maxsize,
            staleness=args.max_staleness,
            per_version=samples * args.world_size * args.weight_sync_steps,
            at_least=args.token_budget is None or args.token_budget > 0,
            template_kwargs=dict(args.chat_template_kwargs or {}),
            model=getattr(config, "_name_or_path", "") or "policy",
            server_url=args.vllm_server_base_url,
            request_timeout=float(args.request_timeout),
        )
