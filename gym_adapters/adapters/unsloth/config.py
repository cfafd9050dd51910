"""How a model and its LoRA are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gym_adapters.errors import InvalidConfig

__all__ = ["PROJECTIONS", "UnslothConfig"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of attention and MLP, by their usual names."""

Checkpointing = Literal["unsloth", "on", "off"]
DType = Literal["auto", "bfloat16", "float16", "float32"]
Loader = Literal["unsloth", "peft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnslothConfig:
    """A model, its LoRA, and the vLLM engine beside it.

    Attributes:
        model: Name on the Hub, or folder.
        max_seq_length: Most tokens of a sequence, prompt and completion together; also the
            engine's context.
        load_in_4bit: Hold the base weights in 4 bits (QLoRA).
        dtype: Of the base weights; ``auto`` takes what the machine does best.
        lora_rank: Rank of the adapters; the engine is made for this one.
        lora_alpha: LoRA's scale is ``lora_alpha / lora_rank``.
        lora_dropout: Unsloth is fast at 0 only.
        target_modules: Names of the layers that get an adapter.
        gradient_checkpointing: ``unsloth`` offloads activations, ``on`` is PyTorch's own.
        fast_inference: Sample with a vLLM engine that holds the same base weights in memory as the
            model. GRPO on a GPU needs it; leave it off for SFT, and without a GPU.
        standby: Let the engine give back the memory of its KV cache while the model learns. Text
            models only; takes effect with `fast_inference`, and must be the first choice of the
            process, since Unsloth reads it when it is imported.
        gpu_memory_utilization: Share of the GPU's memory for the engine, weights included; with
            `standby` Unsloth takes a share of its own.
        seed: Of the adapters' first weights.
        loader: ``peft`` loads with transformers and PEFT alone: the same functions on a machine
            without a GPU or without Unsloth, for tests and trial runs.
        model_arguments: Further arguments of ``FastLanguageModel.from_pretrained``, or of
            ``AutoModelForCausalLM.from_pretrained`` with the loader ``peft``.
        lora_arguments: Further arguments of ``get_peft_model``, or of PEFT's ``LoraConfig``.

    Raises:
        InvalidConfig: If a value is out of range, or two of them don't go together.
    """

    model: str
    max_seq_length: int = 4096
    load_in_4bit: bool = False
    dtype: DType = "auto"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = PROJECTIONS
    gradient_checkpointing: Checkpointing = "unsloth"
    fast_inference: bool = True
    standby: bool = True
    gpu_memory_utilization: float = 0.9
    seed: int = 3407
    loader: Loader = "unsloth"
    model_arguments: Mapping[str, object] = field(default_factory=dict)
    lora_arguments: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A recipe's YAML has lists.
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        self._check_numbers()
        if self.loader == "peft" and (self.load_in_4bit or self.fast_inference):
            raise InvalidConfig(
                "the loader 'peft' has neither 4 bits nor a shared engine. "
                "Fix: load_in_4bit=False and fast_inference=False, or loader='unsloth'."
            )
        if self.fast_inference and self.model_arguments.get("trust_remote_code"):
            raise InvalidConfig(
                "Unsloth's shared vLLM engine takes no trust_remote_code. "
                "Fix: fast_inference=False, or a model that needs none."
            )
        if self.model_arguments.get("full_finetuning"):
            raise InvalidConfig(
                "this adapter trains LoRA; full finetuning gives the engine no adapter to sample "
                "from. Fix: leave full_finetuning out, or train with TRL."
            )

    def _check_numbers(self) -> None:
        if not self.model:
            raise InvalidConfig("model must name a model.")
        for name in ("max_seq_length", "lora_rank", "lora_alpha"):
            if (value := getattr(self, name)) < 1:
                raise InvalidConfig(f"{name} must be at least 1, not {value}.")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InvalidConfig(f"lora_dropout must be in [0, 1), not {self.lora_dropout}.")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise InvalidConfig(
                f"gpu_memory_utilization must be in (0, 1], not {self.gpu_memory_utilization}."
            )
        if not self.target_modules:
            raise InvalidConfig("target_modules names no layer, so nothing would be trained.")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise InvalidConfig(f"{name} must be one of {', '.join(known)}, not {value!r}.")


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "gradient_checkpointing": ("unsloth", "on", "off"),
    "loader": ("unsloth", "peft"),
}
