"""Loaded into a vLLM server's workers: keeps layers loadable, which packing for oneDNN does not."""

from __future__ import annotations

import vllm._custom_ops

vllm._custom_ops._supports_onednn = False


class CpuWorker:
    """vLLM wants a class to mix into its worker."""
