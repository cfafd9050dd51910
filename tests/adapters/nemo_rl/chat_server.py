"""NeMo RL's vLLM server as seen from outside: chat, with a prefix of token ids, and /tokenize."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from scripted_policy import logprobs, said

Join = Callable[[Any, list[int], list[int], list[int]], list[int]]


def joined(
    tokenizer: Any, prefix: list[int], template_prefix: list[int], template: list[int]
) -> list[int]:
    """The prefix up to its last end-of-sequence token, and the template's ids from its own on."""
    eos = tokenizer.eos_token_id
    last = len(template_prefix) - 1 - template_prefix[::-1].index(eos)
    return [*(prefix[:-1] if prefix[-1] == eos else prefix), *template[last:]]


class ChatServer:
    """Answers in threads; `join` may be NeMo RL's own function."""

    def __init__(self, tokenizer: Any, join: Join = joined) -> None:
        self.tokenizer, self.join = tokenizer, join
        self.requests: list[dict[str, Any]] = []
        self.prompts: list[list[int]] = []
        self.max_model_len = 4096
        self.opening = ""
        self.say: Callable[[Sequence[int], str], list[int]] = lambda ids, name: said(
            tokenizer, ids, name
        )
        self.failures: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = self.headers.get("X-Request-Id", "").partition("#")[0]
                status, answer = outer.answer(self.path, body, name)
                content = json.dumps(answer).encode()
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
        if path == "/tokenize":
            return 200, {"tokens": [], "count": 0, "max_model_len": self.max_model_len}
        assert path == "/v1/chat/completions"
        self.requests.append(body)
        if name in self.failures:
            return self.failures[name], {"error": {"message": "told to fail"}}
        prompt = self._prompt(body)
        self.prompts.append(prompt)
        ids = self.say(prompt, name)
        cut = len(ids) >= body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        ended = ids[-1] in body["stop_token_ids"]
        message = {
            "role": "assistant",
            "content": "",
            "prompt_token_ids": prompt,
            "generation_token_ids": ids,
            "generation_log_probs": logprobs(ids),
        }
        reason = "length" if cut or not ended else "stop"
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        def ids(opened: bool) -> list[int]:
            text = self.tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=opened
            )
            text += self.opening if opened else ""
            return list(self.tokenizer.encode(text, add_special_tokens=False))

        return self.join(self.tokenizer, body["required_prefix_token_ids"], ids(False), ids(True))
