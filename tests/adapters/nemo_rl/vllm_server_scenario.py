"""Run by test_vllm_server.py in a process of its own: vLLM changes the process it lives in.

NeMo RL's own HTTP server, over a vLLM of a tiny model, answers the rollouts of `RolloutActor`. What
came of it is written as JSON to the file named on the command line.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from gym_adapters import load_environment
from gym_adapters.adapters.nemo_rl.rollouts import RolloutActor
from gym_adapters.adapters.nemo_rl.rows import nemo_rl_rows
from gym_adapters.testing import nemo_rl_checkout
from gym_adapters.testing.tiny_model import tiny_policy

SAMPLING = {"temperature": 0.8, "top_p": 1.0}


def own_server(policy: Any) -> tuple[str, Any]:
    """NeMo RL's server, its engine and its HTTP side on one event loop in a thread."""
    import uvicorn
    from fastapi import FastAPI
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    # NeMo RL is written for vLLM 0.25; later ones have this module elsewhere.
    sys.modules.setdefault(
        "vllm.entrypoints.openai.engine", types.ModuleType("vllm.entrypoints.openai.engine")
    )
    sys.modules.setdefault(
        "vllm.entrypoints.openai.engine.protocol",
        importlib.import_module("vllm.entrypoints.serve.engine.protocol"),
    )
    worker = nemo_rl_checkout.quietly("nemo_rl.models.generation.vllm.vllm_worker_async")
    arguments = AsyncEngineArgs(
        model=str(policy.model_path),
        enforce_eager=True,
        max_model_len=512,
        dtype="float32",
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        kv_cache_memory_bytes=64 * 1024**2,
        gpu_memory_utilization=0.1,
    )
    started = threading.Event()
    told: dict[str, Any] = {}

    async def serve() -> None:
        engine = AsyncLLM.from_engine_args(arguments)
        own = types.SimpleNamespace(
            cfg={
                "vllm_cfg": {},
                **SAMPLING,
                "val_temperature": SAMPLING["temperature"],
                "val_top_p": SAMPLING["top_p"],
            },
            llm=engine,
            llm_async_engine_args=arguments,
            _return_routed_experts_enabled=lambda: False,
            routed_experts_dtype=None,
        )
        made = worker.VllmAsyncGenerationWorkerImpl._setup_vllm_openai_api_server
        app = made(own, FastAPI())
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        told["server"] = server
        running = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
            await asyncio.sleep(0.05)
        told["port"] = server.servers[0].sockets[0].getsockname()[1]
        started.set()
        await running
        engine.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not started.wait(0.5):
        if not thread.is_alive():
            raise SystemExit("the server did not come up")
    return f"http://127.0.0.1:{told['port']}/v1", told["server"]


async def rolled_out(url: str, policy: Any) -> list[dict[str, Any]]:
    row = {
        "responses_create_params": {"input": "Name a bird é."},
        "follow_ups": ["And <|im_end|> a fish?", "And a tree?"],
        "expected_answer": "x",
    }
    task = load_environment("example_multi_turn").environment.task_type.from_row(row)
    (made,) = nemo_rl_rows("example_multi_turn", [task])
    params = {**made["responses_create_params"], **SAMPLING, "max_output_tokens": 120}
    rows = [{**made, "responses_create_params": params, "_rowidx": n} for n in range(32)]
    actor = RolloutActor(url, str(policy.model_path))
    actor.set_tokenizer(policy.tokenizer)
    results = [result async for _, result, _ in actor.run_rollouts(rows, "timing")]
    await asyncio.to_thread(actor.shutdown)
    return results


def recomputed(policy: Any, log: list[dict[str, Any]]) -> float:
    """Greatest difference between the server's log-probabilities and the model's own."""
    import torch

    ids = torch.tensor([[i for message in log for i in message["token_ids"]]])
    with torch.no_grad():
        logits = policy.load_model()(ids).logits[0] / SAMPLING["temperature"]
    own = logits.log_softmax(-1)
    start, worst = 0, 0.0
    for message in log:
        for place, token in enumerate(message["token_ids"]):
            if message["role"] == "assistant":
                served = message["generation_logprobs"][place]
                worst = max(worst, abs(served - float(own[start + place - 1, token])))
        start += len(message["token_ids"])
    return worst


def main(target: Path) -> None:
    warnings.simplefilter("ignore")
    reason = nemo_rl_checkout.install()
    if reason is not None:
        raise SystemExit(reason)
    policy = tiny_policy(seed=3)
    url, server = own_server(policy)
    results = asyncio.run(rolled_out(url, policy))
    server.should_exit = True
    target.write_text(
        json.dumps(
            {
                "failures": [each["full_result"]["failure"] for each in results],
                "roles": [[m["role"] for m in each["message_log"]] for each in results],
                "worst": max(recomputed(policy, each["message_log"]) for each in results),
                "stops": [each["full_result"]["stop_reason"] for each in results],
            }
        )
    )
    time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
