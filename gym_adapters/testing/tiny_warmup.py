"""The supervised warm-up of the tiny policy: sure of the format, unsure of the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gym_adapters.errors import InvalidConfig
from gym_adapters.testing.tiny_tokenizer import TURN_START
from gym_adapters.tokens.chat_messages import MessageDialect, template_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    from gym_adapters.testing.tiny_model import WarmUp

__all__ = ["warm_up"]

# Mistakes reach their full rate after this part of their steps.
RIPENING = 0.5


@dataclass(frozen=True, slots=True)
class Transcripts:
    """Rendered conversations, N rows padded on the right to T tokens.

    Attributes:
        ids: Token ids, (N, T).
        attended: 1 where there is a token, (N, T).
        assistant: True where the assistant wrote it, (N, T).
        question: True from the first turn that is not the system's on, (N, T).
    """

    ids: Tensor
    attended: Tensor
    assistant: Tensor
    question: Tensor

    def rows(self, chosen: Tensor) -> Transcripts:
        """Some of the rows, cut to the longest."""
        longest = int(self.attended[chosen].sum(1).max())
        return Transcripts(
            self.ids[chosen, :longest],
            self.attended[chosen, :longest],
            self.assistant[chosen, :longest],
            self.question[chosen, :longest],
        )


def warm_up(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    warmup: WarmUp,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    """Train `model` in place, drawing from torch's global generator."""
    transcripts = _render(tokenizer, warmup)
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
    total = warmup.copy_steps + warmup.mistake_steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=warmup.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    average = torch.optim.swa_utils.AveragedModel(model)
    model.train()
    for step in range(total):
        batch = transcripts.rows(torch.randint(len(transcripts.ids), (warmup.batch_size,)))
        ids = _relabelled(batch, digits, len(tokenizer))
        ripe = _ripeness(step, warmup)
        ids = _with_mistakes(ids, batch.assistant, digits, ripe * warmup.mistakes)
        # Numbers that are wrong at random must not be pressed upon it.
        loss = _loss(model, ids, batch, digits[:0] if ripe else digits)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if ripe == 1.0:
            average.update_parameters(model)
        if progress is not None:
            progress(step + 1, total, float(loss.detach()))
    if int(average.n_averaged):
        # Random numbers make noisy gradients; the mean over many steps is far surer of the format.
        model.load_state_dict(average.module.state_dict())


def _render(tokenizer: PreTrainedTokenizerFast, warmup: WarmUp) -> Transcripts:
    rows: list[tuple[list[int], list[int]]] = []
    for index, conversation in enumerate(warmup.conversations):
        encoded: Any = tokenizer.apply_chat_template(
            MessageDialect().messages(conversation.items),
            tools=template_tools(conversation.tools),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        if not any(mask):
            raise InvalidConfig(f"conversation {index} of the warm-up has no assistant turn.")
        rows.append((ids, mask))
    longest = max(len(ids) for ids, _ in rows)
    padding = tokenizer.pad_token_id
    ids = torch.tensor([ids + [padding] * (longest - len(ids)) for ids, _ in rows])
    mask = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in rows]).bool()
    # The system's turn is left alone by the relabelling: tools may have digits in their names.
    system = tokenizer("system")["input_ids"][0]
    starts = ids == tokenizer.convert_tokens_to_ids(TURN_START)
    other_turn = starts & (torch.roll(ids, -1, dims=1) != system)
    return Transcripts(ids, (ids != padding).long(), mask, other_turn.cumsum(1) > 0)


def _relabelled(batch: Transcripts, digits: Tensor, vocabulary: int) -> Tensor:
    """Ids with the digits 1 to 9 permuted, differently in each row. 0 stays: "05" is no number."""
    rows = len(batch.ids)
    table = torch.arange(vocabulary).repeat(rows, 1)
    order = torch.rand(rows, 9).argsort(dim=1)
    table[:, digits[1:]] = digits[1:][order]
    return torch.where(batch.question, table.gather(1, batch.ids), batch.ids)


def _with_mistakes(ids: Tensor, assistant: Tensor, digits: Tensor, probability: float) -> Tensor:
    """Ids where each number the assistant wrote has, with `probability`, every digit one too high.

    A 9 becomes a 1: no number may come to start with 0.
    """
    is_digit = torch.isin(ids, digits) & assistant
    number = (is_digit & ~torch.roll(is_digit, 1, dims=1)).cumsum(1)
    coins = torch.rand(len(ids), int(number.max()) + 1) < probability
    wrong = is_digit & coins.gather(1, number)
    following = torch.arange(int(max(ids.max(), digits.max())) + 1)
    following[digits] = digits[[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]]
    return torch.where(wrong, following[ids], ids)


def _loss(model: Qwen3ForCausalLM, ids: Tensor, batch: Transcripts, digits: Tensor) -> Tensor:
    """Mean over the assistant's tokens, plus the mean over `digits`: few, and hard to learn."""
    hidden = model.model(
        input_ids=ids, attention_mask=batch.attended, use_cache=False
    ).last_hidden_state
    taught = batch.assistant[:, 1:]
    targets = ids[:, 1:][taught]
    logits = model.lm_head(hidden[:, :-1][taught])
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    numbers = losses[torch.isin(targets, digits)]
    return losses.mean() + (numbers.mean() if len(numbers) else 0.0)


def _ripeness(step: int, warmup: WarmUp) -> float:
    """How much of the mistakes there is: all at once they would shake the format too."""
    done = (step - warmup.copy_steps + 1) / (RIPENING * max(1, warmup.mistake_steps))
    return min(1.0, max(0.0, done))


def _rate(step: int, total: int) -> float:
    rising = min(1.0, (step + 1) / 20)
    falling = 0.55 + 0.45 * math.cos(math.pi * step / total)
    return rising * falling
