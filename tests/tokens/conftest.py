"""A byte-level tokenizer that any chat template can be put on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

transformers = pytest.importorskip("transformers", reason="needs transformers")
tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers")

HERMES_TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{%- for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    '{"name": ..., "arguments": ...}<|im_end|>\n'
    "{% elif messages[0].role == 'system' %}"
    "<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{%- for m in messages %}{% if m.role == 'tool' %}"
    "<|im_start|>tool\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role != 'system' %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{%- for call in m.tool_calls or [] %}"
    '{{ "\\n" }}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# How Llama 3 and Qwen part text into words: a run of line breaks is one.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

BuildTokenizer = Callable[..., Any]


def build_tokenizer(
    template: str = HERMES_TEMPLATE,
    control: Sequence[str] = ("<|im_start|>", "<|im_end|>"),
    *,
    plain_added: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
    eos: str = "<|im_end|>",
) -> Any:
    """Ids 0-255 are bytes, then come the merges, `control` and `plain_added`."""
    vocab = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=list(merges)))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(
        [tokenizers.AddedToken(text, special=True, normalized=False) for text in control]
    )
    backend.add_tokens([tokenizers.AddedToken(text, special=False) for text in plain_added])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def build() -> BuildTokenizer:
    """Builds a byte-level tokenizer with control tokens and a chat template."""
    return build_tokenizer


@pytest.fixture
def tokenizer() -> Any:
    """The byte-level tokenizer with a Hermes-like template."""
    return build_tokenizer()
