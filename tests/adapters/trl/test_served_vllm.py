"""TRL's trainers with a real vLLM server; on a CPU weights go over by file, by means made here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM")

from gym_adapters import Reward, Task, Transcript, load_environment
from gym_adapters.adapters.trl import trl_spec
from gym_adapters.generation.vllm_http import VLLMHttpGenerator
from gym_adapters.items import item_text
from gym_adapters.testing.tiny_model import TinyPolicy

from .async_cpu import Gaps, MakeTrainer, learning_twice

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),
]

ArithmeticTools = load_environment("arithmetic_tools").environment


class Graded(ArithmeticTools):  # type: ignore[misc,valid-type]
    """Gives rewards that vary, whatever the policy can do."""

    async def verify(self, transcript: Transcript) -> Reward:
        text = "".join(item_text(i) + str(i.get("arguments", "")) for i in transcript.output)
        return Reward(sum(map(ord, text)) % 7 / 6)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def post(url: str, body: dict[str, Any] | None = None) -> None:
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


@pytest.fixture
def server(policy: TinyPolicy, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    options = {
        "model": policy.model_path,
        "port": port,
        "host": "127.0.0.1",
        "dtype": "float32",
        "logprobs-mode": "processed_logprobs",
        "max-logprobs": -1,
        "gpu-memory-utilization": 0.1,
        "max-model-len": 512,
        "worker-extension-cls": "vllm_cpu_worker.CpuWorker",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *flags],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, tmp_path / "server.log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 500
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"the server did not come up: {log.read_text()[-3000:]}")


def weights_by_file(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int]:
    """Replace TRL's transfer between GPUs; gives the number of tensors of each transfer."""
    from safetensors.torch import save_file
    from trl.generation.vllm_client import VLLMClient

    transfers: list[int] = []

    def update(client: Any, metadata: Any, parameters: Any) -> None:
        tensors = {name: value.detach().clone().contiguous() for name, value in parameters}
        save_file(tensors, folder / "model.safetensors")
        transfers.append(len(tensors))
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        post(f"{client.base_url}/collective_rpc", body)

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda *_, **__: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", update)
    return transfers


def test_grpo_trains_on_what_its_server_sampled_with_the_newest_weights(
    make_trainer: Any,
    policy: TinyPolicy,
    sums: list[Task],
    record: Any,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    transfers = weights_by_file(monkeypatch, weights)
    spec = trl_spec(Graded, tasks=sums)
    trainer = make_trainer(
        policy,
        spec.trainer_arguments(),
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=server,
        vllm_max_model_length=512,
    )
    recorder = record(trainer)
    trainer.train()
    assert len(transfers) == 3
    assert any(0 in mask for *_, mask in recorder.rows(0))
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(history) == 3
    assert all(e["gym/failed"] == 0 for e in history)
    assert all(e["sampling/sampling_logp_difference/max"] < 1e-3 for e in history)


class FileTransfer:
    """TRL's ``WeightTransferProtocol`` with a file in the middle, in place of NCCL."""

    def __init__(self, url: str, folder: Path) -> None:
        self.sent: list[Any] = []
        self._url, self._folder = url, folder

    def init_weight_transfer(self) -> None:
        self._folder.mkdir()

    def pause(self) -> None:
        post(f"{self._url}/pause?mode=keep")

    def send_weights(self, iterator: Any) -> None:
        from safetensors.torch import save_file

        tensors = {name: value.detach().clone().contiguous() for name, value in iterator}
        save_file(tensors, self._folder / "model.safetensors")
        self.sent.append(tensors["lm_head.weight"])
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}}
        post(f"{self._url}/collective_rpc", body)

    def resume(self) -> None:
        post(f"{self._url}/resume")

    def destroy(self) -> None:
        pass


def test_async_grpo_trains_on_what_its_server_samples_meanwhile(
    make_async: MakeTrainer, policy: TinyPolicy, sums: list[Task], server: str, tmp_path: Path
) -> None:
    import torch

    # vLLM's CPU build dies of seeds that the default generator sends.
    spec = trl_spec(Graded, tasks=sums, way="async", generator=VLLMHttpGenerator(server))
    transfer = FileTransfer(server, tmp_path / "weights")
    trainer = make_async(
        policy,
        {**spec.trainer_arguments(), "weight_transfer": transfer},
        max_steps=8,
        max_staleness=1,
        token_budget=None,
        vllm_server_base_url=server,
    )
    trainer.optimizer, trainer.lr_scheduler = learning_twice(trainer.model)
    gaps = Gaps(trainer)
    trainer.train()
    assert len(transfer.sent) == 9
    assert not torch.equal(transfer.sent[0], transfer.sent[-1])
    # Weights move in two steps; soon after, trainer and server agree to the digit.
    assert gaps.steps[0] < 1e-3
    assert max(gaps.steps[6:]) < 1e-3
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(history) == 8
    assert all(entry["grad_norm"] > 0 for entry in history)
    # No rollout may have ended between two steps.
    told = [entry for entry in history if "gym/failed" in entry]
    assert all(entry["gym/failed"] == 0 for entry in told)
    assert any(entry["gym/turns"] > 1 for entry in told)
