"""A policy small enough to train on one CPU core in a minute, made in place.

`tiny_policy` builds a Qwen3 model of a hundred thousand parameters over the tiny tokenizer and,
given gold conversations, teaches it to speak their format while often getting the numbers wrong.
That is where reinforcement learning starts to be worth watching: the reward is seen often enough to
learn from, and there is plenty left to gain.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gym_adapters.errors import InvalidConfig
from gym_adapters.extras import require
from gym_adapters.items import FunctionTool, Item
from gym_adapters.testing.tiny_tokenizer import (
    CHAT_TEMPLATE,
    CONTROL_TOKENS,
    RESPONSE_SCHEMA,
    tiny_tokenizer,
)
from gym_adapters.testing.user_cache import user_cache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

__all__ = ["Conversation", "Progress", "TinyPolicy", "WarmUp", "tiny_policy"]

Progress = Callable[[int, int, float], None]
"""Told the step done, the number of steps and the loss, in nats per assistant token."""

# Part of the cache key: raise it when the same arguments come to make another model.
RECIPE = 3


@dataclass(frozen=True, slots=True)
class Conversation:
    """A whole, right conversation: Responses items, the last being the assistant's answer."""

    items: Sequence[Item]
    tools: Sequence[FunctionTool] = ()


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Supervised training before reinforcement learning.

    First the model learns the format and to copy: in each batch the digits 1 to 9 are relabelled at
    random, alike in question, call, result and answer. Then it learns to miscount: each number that
    the assistant writes is, with probability `mistakes`, given with every digit one too high. That
    leaves a model that is sure of the format and more often wrong than right, also when it is
    greedy. With three numbers to get right, as in one call of a calculator and its answer, it
    passes about one time in ten.

    Attributes:
        conversations: Gold conversations; fifty or so different ones.
        mistakes: Probability that a number the assistant writes is wrong, in [0, 1]. From a half
            on the greedy answer is often wrong too.
        copy_steps: Steps of the first part.
        mistake_steps: Steps of the second part.
        batch_size: Conversations a step.
        learning_rate: Peak learning rate of AdamW; it rises over 20 steps, then falls to a tenth.
    """

    conversations: Sequence[Conversation]
    mistakes: float = 0.5
    copy_steps: int = 200
    mistake_steps: int = 150
    batch_size: int = 12
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        if not self.conversations:
            raise InvalidConfig("a warm-up needs at least one conversation.")
        if not 0.0 <= self.mistakes <= 1.0:
            raise InvalidConfig(f"mistakes must be a probability, not {self.mistakes}.")
        if min(self.batch_size, self.copy_steps + self.mistake_steps) < 1:
            raise InvalidConfig("a warm-up needs a batch_size and steps of at least 1.")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Dimensions of the Qwen3 model. Its heads are `hidden_size` wide together."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int


SIZES = {
    "small": ModelSize(32, 64, 2, 2, 1),
    "default": ModelSize(64, 128, 2, 2, 1),
    "large": ModelSize(128, 256, 3, 4, 2),
}


@dataclass(frozen=True, slots=True)
class TinyPolicy:
    """A model and tokenizer on disk, in the layout of ``save_pretrained``.

    Attributes:
        model_path: Folder to give to ``from_pretrained``, vLLM or a trainer. It is a shared cache:
            save what you train elsewhere.
        tokenizer: Its tokenizer, loaded.
        was_cached: Whether it was there already.
    """

    model_path: Path
    tokenizer: PreTrainedTokenizerFast
    was_cached: bool

    def load_model(self) -> Qwen3ForCausalLM:
        """A fresh float32 copy of the model on the CPU, in eval mode."""
        from transformers import Qwen3ForCausalLM

        model: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(
            self.model_path, dtype="float32", attn_implementation="eager"
        )
        return model


def tiny_policy(
    *,
    seed: int = 0,
    size: Literal["small", "default", "large"] = "default",
    warmup: WarmUp | None = None,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> TinyPolicy:
    """Make a tiny policy, or find the one made before with the same arguments.

    Nothing is downloaded. The caller's random state and thread settings are left as they were.
    Several processes may ask for the same policy at once; whoever is done first wins.

    Args:
        seed: Seeds weights and warm-up.
        size: ``small`` has 30 thousand parameters, ``default`` 0.1 million, ``large`` 0.5 million.
        warmup: What to teach it first; without, its weights are random and its words are noise.
        cache_dir: Where to keep it; ``$XDG_CACHE_HOME/gym_adapters`` (``~/.cache/gym_adapters``) by
            default, or a temporary folder of the user where that can't be written.
        progress: Called after each step of the warm-up.

    Raises:
        InvalidConfig: If `size` is unknown, or no cache can be written.
        MissingExtra: Without torch or transformers.
    """
    if size not in SIZES:
        raise InvalidConfig(f"unknown size {size!r}: use one of {', '.join(SIZES)}.")
    torch = require("torch", "transformers", "the tiny policy")
    transformers = require("transformers", "transformers", "the tiny policy")
    versions = (torch.__version__, transformers.__version__)
    name = f"{size}-{_key(seed, SIZES[size], warmup, versions)}"
    home = Path(cache_dir) if cache_dir is not None else user_cache("tiny_policy", name)
    folder = home / name
    tokenizer = tiny_tokenizer()
    if folder.is_dir():
        return TinyPolicy(folder, tokenizer, was_cached=True)
    model = _make(seed, SIZES[size], tokenizer, warmup, progress)
    with _placed_atomically(folder) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    return TinyPolicy(folder, tokenizer, was_cached=False)


def _key(seed: int, size: ModelSize, warmup: WarmUp | None, versions: tuple[str, ...]) -> str:
    recipe = {
        "recipe": RECIPE,
        "seed": seed,
        "size": asdict(size),
        "warmup": None if warmup is None else asdict(warmup),
        "tokenizer": [CHAT_TEMPLATE, CONTROL_TOKENS, RESPONSE_SCHEMA],
        "versions": versions,
    }
    return blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()


@contextmanager
def _placed_atomically(folder: Path) -> Iterator[Path]:
    """A draft folder that becomes `folder` at once, unless another process got there first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        yield draft
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _make(
    seed: int,
    size: ModelSize,
    tokenizer: PreTrainedTokenizerFast,
    warmup: WarmUp | None,
    progress: Progress | None,
) -> Qwen3ForCausalLM:
    import torch

    from gym_adapters.testing.tiny_warmup import warm_up

    threads = torch.get_num_threads()
    # One thread: sums are then added in the same order everywhere, and tiny matrices gain nothing
    # from a second one.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            model = _random_model(size, tokenizer)
            if warmup is not None:
                warm_up(model, tokenizer, warmup, progress)
    finally:
        torch.set_num_threads(threads)
    model.train(False)
    return model


def _random_model(size: ModelSize, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **asdict(size),
        head_dim=size.hidden_size // size.num_attention_heads,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        # The default of 0.02 leaves so small a model flat for hundreds of steps.
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    config._attn_implementation = "eager"
    return Qwen3ForCausalLM(config)
