"""What the adapter does when a trainer is made, and when its training ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from gym_adapters.adapters.trl.trainer_facts import TrainerFacts
from gym_adapters.errors import InvalidConfig

__all__ = ["GymCallback"]

log = logging.getLogger(__name__)


class GymCallback(TrainerCallback):
    """Learns about the trainer, refuses settings that can't work, and closes resources.

    Args:
        facts: To be filled in.
        close: Called when training ends; what is used again after that is opened anew.
        columns: Dataset columns that must reach the reward function.
        learn: Given the arguments, the model and the tokenizer, once they are known.
        begin: Given the arguments and the trainer's state in the main process, before anything is
            sampled; its ``global_step`` is above 0 where training is resumed.
        remember: Given the trainer's state in the main process, after each step: what it adds there
            is in the checkpoint.
    """

    def __init__(
        self,
        facts: TrainerFacts,
        close: Callable[[], None],
        columns: Sequence[str] = (),
        learn: Callable[[Any, Any, Any], None] | None = None,
        begin: Callable[[Any, Any], None] | None = None,
        remember: Callable[[Any], None] | None = None,
    ) -> None:
        self._facts, self._close, self._columns = facts, close, tuple(columns)
        self._learn, self._begin, self._remember = learn, begin, remember

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn and check.

        Raises:
            InvalidConfig: If the arguments would take from the adapter what it needs.
        """
        model, tokenizer = kwargs.get("model"), kwargs.get("processing_class")
        self._facts.learn(args, model, tokenizer)
        if self._learn is not None:
            self._learn(args, model, tokenizer)
        if self._columns and getattr(args, "remove_unused_columns", False):
            raise InvalidConfig(
                f"remove_unused_columns=True would drop {', '.join(self._columns)}. "
                "Fix: leave it at GRPOConfig's default, False."
            )
        # vLLM's word for no top_k is -1.
        if getattr(args, "top_p", 1.0) != 1.0 or (getattr(args, "top_k", 0) or 0) > 0:
            log.warning(
                "top_p=%s and top_k=%s cut the distribution that is sampled from, which biases "
                "importance ratios; train with top_p=1 and top_k=0",
                args.top_p,
                args.top_k,
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Bring what is kept of rollouts to where training begins.

        Raises:
            UsageError: If a ledger's manifest can't be read.
            OSError: If a ledger can't be written.
        """
        if self._begin is None:
            return
        # No other process may append before the ledger is cut.
        with args.main_process_first(local=False):
            if state.is_world_process_zero:
                self._begin(args, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the next checkpoint where the rollouts are."""
        if self._remember is not None and state.is_world_process_zero:
            self._remember(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close resources."""
        self._close()
