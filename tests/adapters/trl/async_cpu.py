"""What AsyncGRPOTrainer lacks on a CPU: attention, and a policy server that takes weights."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.transformers_generator import TransformersGenerator
from gym_adapters.testing.tiny_model import TinyPolicy


class TorchAttention:
    """The one function of a flash attention kernel that TRL calls, one segment at a time."""

    def flash_attn_varlen_func(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        starts_q: torch.Tensor,
        starts_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        softmax_scale: float | None,
        causal: bool,
        window_size: tuple[int, int],
    ) -> torch.Tensor:
        assert causal
        assert window_size == (-1, -1)
        groups = query.shape[1] // key.shape[1]
        outputs = []
        for segment in range(len(starts_q) - 1):
            q = query[starts_q[segment] : starts_q[segment + 1]].transpose(0, 1)
            k, v = (
                x[starts_k[segment] : starts_k[segment + 1]]
                .transpose(0, 1)
                .repeat_interleave(groups, 0)
                for x in (key, value)
            )
            # The last query sees all keys.
            ahead = k.shape[1] - q.shape[1]
            seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(ahead)
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=seen, scale=softmax_scale
                ).transpose(0, 1)
            )
        return torch.cat(outputs)


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have AsyncGRPOTrainer do without a GPU, for the time of a test."""
    import trl.experimental.async_grpo.async_grpo_trainer as trainer
    from trl.experimental.async_grpo import packing

    monkeypatch.setattr(packing, "_flash_attn", TorchAttention)
    monkeypatch.setattr(trainer, "get_peak_flops_per_device", lambda *_: None)


class LocalPolicy:
    """A model of its own that samples, and takes the trainer's weights between two turns.

    Both a `TokenGenerator` and TRL's ``WeightTransferProtocol``.
    """

    def __init__(self, policy: TinyPolicy) -> None:
        self.model = policy.load_model()
        self.versions: list[dict[str, torch.Tensor]] = []
        self.calls: list[str] = []
        self._generator = TransformersGenerator(self.model, policy.tokenizer, seed=3)
        self._open = threading.Event()
        self._open.set()
        self._busy = 0
        self._idle = threading.Condition()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        while True:
            with self._idle:
                if self._open.is_set():
                    self._busy += 1
                    break
            await asyncio.sleep(0.005)
        try:
            return await self._generator.generate(prompt_ids, sampling, request_id=request_id)
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def init_weight_transfer(self) -> None:
        self.calls.append("init")

    def pause(self) -> None:
        with self._idle:
            self._open.clear()
            assert self._idle.wait_for(lambda: self._busy == 0, 60)

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        sent = {name: value.detach().clone() for name, value in iterator}
        assert sent.keys() == own.keys()
        with torch.no_grad():
            for name, value in sent.items():
                own[name].copy_(value)
        self.versions.append(sent)

    def resume(self) -> None:
        self._open.set()

    def destroy(self) -> None:
        self.calls.append("destroy")


class Gaps:
    """How far the trainer's probabilities are from the sampled ones, step by step."""

    def __init__(self, trainer: Any) -> None:
        self.steps: list[float] = []
        outputs: list[Any] = []
        trainer.model.register_forward_hook(lambda *called: outputs.append(called[-1]))
        loss = trainer.compute_loss

        def compared(model: Any, inputs: Any, **options: Any) -> Any:
            value = loss(model, inputs, **options)
            chosen = inputs["token_index"] >= 0
            trained = outputs[-1].log_probs.flatten()[inputs["token_index"][chosen]]
            gap = trained.detach().exp() - inputs["old_log_probs"][chosen].exp()
            self.steps.append(float(gap.abs().max()))
            return value

        trainer.compute_loss = compared


def learning_twice(model: Any) -> Any:
    """An optimizer that changes the weights in the first two steps alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step < 2))


MakeTrainer = Callable[..., Any]
