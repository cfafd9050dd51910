"""Starting a vLLM engine with the settings that rollouts need."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gym_adapters.errors import InvalidConfig, ModelError
from gym_adapters.extras import require
from gym_adapters.generation.vllm_cpu import WORKER

__all__ = [
    "BuiltEngine",
    "build_engine",
    "checkpoint_names",
    "engine_args_for",
    "engine_params",
    "is_cpu",
    "loads_weights",
    "model_folder",
]

GIB = 2**30
# vLLM's default is most of the machine's memory, and it fails where that is not free.
CPU_CACHE_BYTES = GIB


class BuiltEngine(NamedTuple):
    """A running ``AsyncLLM``, and the folder of its model."""

    engine: Any
    folder: Path


def is_cpu() -> bool:
    """Whether vLLM runs on the CPU here."""
    platforms = require("vllm.platforms", "vllm", "a vLLM engine")
    return bool(platforms.current_platform.is_cpu())


def loads_weights(engine: Any) -> bool:
    """Whether weights that `engine` loads while it runs take effect."""
    worker = str(engine.vllm_config.parallel_config.worker_cls)
    return worker == WORKER or not is_cpu()


def engine_args_for(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Engine arguments of vLLM: those `given`, and ours where nothing is said."""
    args: dict[str, Any] = {
        "model": str(folder),
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if is_cpu():
        args |= {"enforce_eager": True, "worker_cls": WORKER}
        if _config(folder).get("dtype", _config(folder).get("torch_dtype")) == "float32":
            # vLLM would round it to bfloat16.
            args["dtype"] = "float32"
        sized = {"gpu_memory_utilization", "kv_cache_memory_bytes"}.intersection(given)
        if not sized and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            args["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    return args | dict(given)


def build_engine(
    path: str, allow_download: bool, given: Mapping[str, Any], abandoned: threading.Event
) -> BuiltEngine:
    """Start an ``AsyncLLM``; blocks. Where `abandoned` is set meanwhile, it is ended again.

    Raises:
        InvalidConfig: If there is no such model, or vLLM refuses an argument.
        ModelError: If the engine doesn't come up.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    folder = model_folder(path, allow_download=allow_download)
    # vLLM reports its use to its makers unless told not to.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        args = AsyncEngineArgs(**engine_args_for(folder, given))
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"vLLM refuses its engine arguments: {error}") from error
    preloaded = os.environ.get("LD_PRELOAD")
    try:
        engine = AsyncLLM.from_engine_args(args)
    except ValueError as error:
        raise InvalidConfig(f"vLLM refuses {path!r}: {error}") from error
    except Exception as error:
        raise ModelError(f"vLLM did not start: {type(error).__name__}: {error}") from error
    finally:
        _restore_preload(preloaded)
    if abandoned.is_set():
        engine.shutdown()
        raise ModelError("nobody waits for this engine any more.")
    return BuiltEngine(engine, folder)


def _restore_preload(preloaded: str | None) -> None:
    """Undo what vLLM's CPU build does to the environment of all later child processes."""
    if preloaded is None:
        os.environ.pop("LD_PRELOAD", None)
    else:
        os.environ["LD_PRELOAD"] = preloaded


def model_folder(path: str, *, allow_download: bool = False) -> Path:
    """The folder of a model: `path` itself, or the one of that name in the Hugging Face cache.

    Raises:
        InvalidConfig: If there is none, and nothing may be downloaded.
    """
    if Path(path).is_dir():
        return Path(path).resolve()
    hub = require("huggingface_hub", "vllm", "a model of the Hugging Face cache")
    try:
        return Path(hub.snapshot_download(path, local_files_only=not allow_download))
    except (OSError, ValueError) as error:
        raise InvalidConfig(
            f"there is no model at {path!r}: {error} Fix: give a folder that holds one, or pass "
            "allow_download=True to fetch it from the Hub."
        ) from error


def checkpoint_names(folder: Path) -> frozenset[str]:
    """Names of all tensors in the safetensors files of `folder`; none where there are no such."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return frozenset()
    safetensors = require("safetensors", "vllm", "weight updates")
    names: set[str] = set()
    for file in files:
        with safetensors.safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return frozenset(names)


def engine_params(fields: Mapping[str, Any], detokenize: bool, output_kind: Any) -> Any:
    """``vllm.SamplingParams`` of `fields` (`gym_adapters.generation.vllm_sampling`).

    Raises:
        InvalidConfig: If vLLM doesn't know a field, or refuses its value.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    options = dict(fields)
    try:
        structured = options.get("structured_outputs")
        if isinstance(structured, Mapping):
            options["structured_outputs"] = StructuredOutputsParams(**structured)
        # Flat: one list of floats in place of a dictionary and an object a token.
        return SamplingParams(
            **options, detokenize=detokenize, output_kind=output_kind, flat_logprobs=True
        )
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"vLLM refuses the sampling settings: {error}") from error
    except Exception as error:
        # Newer versions of vLLM have a tree of errors of their own, that are no ValueErrors.
        if type(error).__module__.startswith("vllm"):
            raise InvalidConfig(f"vLLM refuses the sampling settings: {error}") from error
        raise


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
