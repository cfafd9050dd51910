"""NeMo RL's vLLM server as seen from outside: chat, with a prefix of token ids, and /tokenize.

A script answers in place of a model.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from gym_adapters.testing.scripted_generator import scripted_logprobs

__all__ = ["Join", "NemoChatServer", "Say"]

Join = Callable[[Any, list[int], list[int], list[int]], list[int]]
"""Given tokenizer, required prefix, the template's ids up to the assistant's turn, and with its
opening: what the model reads. NeMo RL's own is ``replace_prefix_tokens``."""

Say = Callable[[Sequence[int], str], Sequence[int]]
"""Given the ids that the model reads, and the request's name: the turn. What it raises, the server
answers as a bad request."""


def joined(
    tokenizer: Any, prefix: list[int], template_prefix: list[int], template: list[int]
) -> list[int]:
    """As NeMo RL: the prefix up to its last end of sequence, and the template from its own on."""
    eos = tokenizer.eos_token_id
    last = len(template_prefix) - 1 - template_prefix[::-1].index(eos)
    return [*(prefix[:-1] if prefix[-1] == eos else prefix), *template[last:]]


class NemoChatServer:
    """Answers in threads while its context is open.

    Args:
        tokenizer: Renders the template.
        say: The policy; log-probabilities are those of `scripted_logprobs`.
        join: Makes of prefix and template what is read.

    Attributes:
        url: Its address.
        requests: Every request's body, in order.
        prompts: The ids that were read, in order.
        max_model_len: What it says of itself.
        opening: Text that the template adds to the opening of a turn: for faults.
        failures: Status to answer with, by the request's name: for faults.
    """

    def __init__(self, tokenizer: Any, say: Say, join: Join = joined) -> None:
        self.tokenizer, self.say, self.join = tokenizer, say, join
        self.requests: list[dict[str, Any]] = []
        self.prompts: list[list[int]] = []
        self.max_model_len = 4096
        self.opening = ""
        self.failures: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = self.headers.get("X-Request-Id", "").partition("#")[0]
                status, answer = outer.answer(self.path, body, name)
                content = json.dumps(answer).encode()
                # A rollout that is cancelled does not wait for its answer.
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any], name: str) -> tuple[int, dict[str, Any]]:
        """Status and answer to one request; `name` is that of the rollout."""
        if path == "/tokenize":
            return 200, {"tokens": [], "count": 0, "max_model_len": self.max_model_len}
        self.requests.append(body)
        if name in self.failures:
            return self.failures[name], {"error": {"message": "told to fail"}}
        prompt = self._prompt(body)
        self.prompts.append(prompt)
        try:
            ids = list(self.say(prompt, name))[: body["max_tokens"]]
        except Exception as error:  # noqa: BLE001 - the script's own, for the client to see
            return 400, {"error": {"message": str(error)}}
        ended = ids[-1] in body["stop_token_ids"]
        message = {
            "role": "assistant",
            "content": "",
            "prompt_token_ids": prompt,
            "generation_token_ids": ids,
            "generation_log_probs": scripted_logprobs(ids),
        }
        reason = "stop" if ended else "length"
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        def ids(opened: bool) -> list[int]:
            text = self.tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=opened
            )
            text += self.opening if opened else ""
            return list(self.tokenizer.encode(text, add_special_tokens=False))

        return self.join(self.tokenizer, body["required_prefix_token_ids"], ids(False), ids(True))
