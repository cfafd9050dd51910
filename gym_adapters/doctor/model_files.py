"""What the files of a model say, read without loading it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gym_adapters.errors import InvalidConfig

__all__ = ["ModelFiles", "Weight", "find_model"]

# A header names every tensor of its file; even the largest models stay far below.
MOST_HEADER_BYTES = 100 * 2**20
BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "I64": 64, "I32": 32, "U8": 8, "I8": 8}


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of a checkpoint."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.elements * BITS.get(self.dtype, 8) // 8


@dataclass(frozen=True)
class ModelFiles:
    """A folder in the layout of ``save_pretrained``.

    Attributes:
        folder: Where it is.
        config: ``config.json``.
        generation: ``generation_config.json``; empty without one.
    """

    folder: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, Mapping) else self.config

    @property
    def max_context(self) -> int | None:
        """Most tokens it was made for."""
        return _number(self.text.get("max_position_embeddings"))

    @property
    def vocabulary(self) -> int | None:
        """Rows of its embedding."""
        return _number(self.text.get("vocab_size"))

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """Its tensors by name; empty where there are no safetensors files.

        Raises:
            InvalidConfig: If a file is cut short or no safetensors file.
        """
        return {
            name: weight
            for path in sorted(self.folder.glob("*.safetensors"))
            for name, weight in _header(path)
        }

    @property
    def parameters(self) -> int:
        """How many numbers there are to learn; 0 where unknown."""
        return sum(weight.elements for weight in self.weights.values())

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes of one token's keys and values over all layers, in 16 bits.

        Two tensors of ``num_key_value_heads × head_dim`` a layer. Models with latent or linear
        attention take less.
        """
        text = self.text
        layers, heads = (
            _number(text.get("num_hidden_layers")),
            _number(text.get("num_attention_heads")),
        )
        hidden = _number(text.get("hidden_size"))
        if layers is None or heads is None or hidden is None:
            return None
        shared = _number(text.get("num_key_value_heads")) or heads
        width = _number(text.get("head_dim")) or hidden // heads
        return 2 * layers * shared * width * 2

    def lora_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Parameters of adapters of `rank` on the matrices whose module is named in `targets`."""
        return sum(
            rank * sum(weight.shape)
            for name, weight in self.weights.items()
            if len(weight.shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in targets
        )


def find_model(name: str) -> ModelFiles:
    """The files of a folder, or of a model in the Hub's cache on this machine; nothing is fetched.

    Raises:
        InvalidConfig: If it is not here, or its ``config.json`` can't be read.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name)
    elif not (folder / "config.json").is_file():
        raise InvalidConfig(
            f"{folder} is no model: it has no config.json. Fix: give the folder that "
            "save_pretrained wrote, or the model's name"
        )
    config = _json(folder / "config.json")
    generation = folder / "generation_config.json"
    return ModelFiles(folder, config, _json(generation) if generation.is_file() else {})


def _cached(name: str) -> Path:
    from gym_adapters.extras import require

    hub = require("huggingface_hub", "tokens", "finding a model")
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            f"the model {name!r} is no folder, and not in the Hub's cache here. "
            f"Fix: hf download {name}, or give a folder"
        ) from error


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} can't be read: {error}") from error
    if not isinstance(data, dict):
        raise InvalidConfig(f"{path} holds no JSON object")
    return data


def _header(path: Path) -> Iterator[tuple[str, Weight]]:
    """The tensors of a safetensors file: eight bytes of length, then that much JSON."""
    with path.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        text = file.read(size) if 0 < size <= MOST_HEADER_BYTES else b""
    try:
        tensors = json.loads(text)
        found = {
            name: Weight(tuple(tensor["shape"]), str(tensor["dtype"]))
            for name, tensor in tensors.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidConfig(
            f"{path} is no whole safetensors file. Fix: download or save it again"
        ) from error
    yield from found.items()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
