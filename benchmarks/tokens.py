"""Cost of a long rollout's tokens: the ledger beside re-rendering the conversation each turn.

Run ``python benchmarks/tokens.py``. Every turn calls a tool; sampled turns and tool results have
about 200 tokens each. Time is the processor's, the best of several runs; memory is the peak of
Python's own objects.
"""

from __future__ import annotations

import argparse
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gym_adapters.generation.protocol import Generation
from gym_adapters.items import Item, function_call, function_call_output, user_message
from gym_adapters.tokens.template_renderer import TemplateRenderer
from gym_adapters.tokens.token_ledger import TokenLedger

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ARGUMENTS = '{"query": "' + "lorem ipsum " * 14 + '"}'
RESULT = "dolor sit amet " * 14
QUESTION = user_message("Look it up. " * 20)


class Cost(NamedTuple):
    """Seconds and bytes of one trajectory."""

    seconds: float
    peak_bytes: int


def byte_tokenizer() -> Any:
    """A byte-level tokenizer; there is nothing to download."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def with_ledger(tokenizer: Any, renderer: TemplateRenderer, turns: int) -> int:
    """What a rollout of this library does to its tokens; returns how many there are."""
    call_text = f'<tool_call>{{"name": "search", "arguments": {ARGUMENTS}}}</tool_call><|im_end|>'
    sampled = tokenizer(call_text, add_special_tokens=False)["input_ids"]
    logprobs = [-0.5] * len(sampled)
    history: list[Item] = [QUESTION]
    ledger = TokenLedger()
    ledger.open_segment(renderer.prompt_ids(history, ()))
    for turn in range(turns):
        ledger.append_sampled(Generation(sampled, logprobs))
        call_id = f"call_{turn}"
        history.append(function_call("search", ARGUMENTS, call_id))
        result: list[Item] = [function_call_output(call_id, RESULT)]
        ledger.append_environment(
            renderer.delta_ids(history, result, last_sampled_id=sampled[-1], tools=())
        )
        history.extend(result)
    return len(ledger.context_ids)


def with_rerendering(tokenizer: Any, renderer: TemplateRenderer, turns: int) -> int:
    """The whole conversation rendered and tokenised at every turn."""
    history: list[Item] = [QUESTION]
    length = len(renderer.prompt_ids(history, ()))
    for turn in range(turns):
        call_id = f"call_{turn}"
        history.append(function_call("search", ARGUMENTS, call_id))
        history.append(function_call_output(call_id, RESULT))
        length = len(renderer.prompt_ids(history, ()))
    return length


Work = Callable[[Any, TemplateRenderer, int], int]


def measure(work: Work, tokenizer: Any, renderer: TemplateRenderer, turns: int, runs: int) -> Cost:
    """The best time of `runs`, and the peak memory of one more."""
    work(tokenizer, renderer, 2)
    seconds = math.inf
    for _ in range(runs):
        start = time.process_time()
        work(tokenizer, renderer, turns)
        seconds = min(seconds, time.process_time() - start)
    tracemalloc.start()
    work(tokenizer, renderer, turns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Cost(seconds, peak)


def growth(sizes: list[int], costs: list[float]) -> float:
    """The exponent k of cost = c * size**k that fits best."""
    xs, ys = [math.log(n) for n in sizes], [math.log(c) for c in costs]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mean_x) ** 2 for x in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    tokenizer = byte_tokenizer()
    renderer = TemplateRenderer(tokenizer)
    works: dict[str, Work] = {"ledger": with_ledger, "re-rendering": with_rerendering}
    if len({work(tokenizer, renderer, 5) for work in works.values()}) != 1:
        raise SystemExit("The two ways do not give the same number of tokens.")
    print(f"{'way':<14}{'turns':>6}{'tokens':>9}{'ms':>10}{'ms/turn':>9}{'peak MiB':>10}")
    for name, work in works.items():
        costs = []
        for turns in options.turns:
            cost = measure(work, tokenizer, renderer, turns, options.runs)
            costs.append(cost.seconds)
            tokens = work(tokenizer, renderer, turns)
            print(
                f"{name:<14}{turns:>6}{tokens:>9}{cost.seconds * 1e3:>10.1f}"
                f"{cost.seconds * 1e3 / turns:>9.2f}{cost.peak_bytes / 2**20:>10.1f}"
            )
        print(f"{name:<14}time grows with turns to the power {growth(options.turns, costs):.2f}")


if __name__ == "__main__":
    main()
