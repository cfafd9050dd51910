"""NeMo RL's generation interface over the scripted policy. Needs the checkout."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import torch
from scripted_policy import logprobs, said


class StubGeneration:
    """Says to each prompt what the policy does under the prompt's name."""

    def __init__(self, tokenizer: Any, names: Mapping[tuple[int, ...], str]) -> None:
        self.tokenizer, self._names = tokenizer, names
        self.cfg = {
            "backend": "vllm",
            "vllm_cfg": {"async_engine": True, "max_model_len": 4096},
            "max_new_tokens": 200,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": None,
            "val_temperature": 1.0,
            "val_top_p": 1.0,
            "stop_strings": None,
            "stop_token_ids": None,
        }

    def generate(self, data: Any, greedy: bool = False) -> Any:
        from nemo_rl.distributed.batched_data_dict import BatchedDataDict

        rows = []
        for ids, length in zip(data["input_ids"], data["input_lengths"], strict=True):
            prompt = ids[: int(length)].tolist()
            rows.append((prompt, said(self.tokenizer, prompt, self._name(prompt))))
        width = max(len(prompt) + len(turn) for prompt, turn in rows)
        output = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        told = torch.zeros(len(rows), width)
        for row, (prompt, turn) in enumerate(rows):
            end = len(prompt) + len(turn)
            output[row, :end] = torch.tensor(prompt + turn)
            told[row, len(prompt) : end] = torch.tensor(logprobs(turn))
        return BatchedDataDict(
            {
                "output_ids": output,
                "generation_lengths": torch.tensor([len(turn) for _, turn in rows]),
                "unpadded_sequence_lengths": torch.tensor([len(p) + len(t) for p, t in rows]),
                "logprobs": told,
                "truncated": torch.tensor(
                    [turn[-1] != self.tokenizer.eos_token_id for _, turn in rows]
                ),
            }
        )

    async def generate_async(
        self, data: Any, greedy: bool = False
    ) -> AsyncIterator[tuple[int, Any]]:
        yield 0, self.generate(data, greedy)

    def _name(self, prompt: list[int]) -> str:
        for ids, name in self._names.items():
            if tuple(prompt[: len(ids)]) == ids:
                return name
        raise AssertionError("a prompt that no sample starts with")
