from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from gym_adapters.errors import LedgerError
from gym_adapters.tokens.control_text import ControlText

tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers")
transformers = pytest.importorskip("transformers", reason="needs transformers")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture
def mixed(build: Callable[..., Any]) -> Any:
    """Special and plain added tokens, one of whitespace, one that swallows space after it."""
    tokenizer = build(plain_added=("<tool_call>", "\n\n\n"), merges=[("a", "b")])
    tokenizer.add_tokens(
        [tokenizers.AddedToken("<|end|>", special=True, rstrip=True, normalized=False)]
    )
    return tokenizer


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                ["<|im_end|>", "<|end|>", "<|end|>  \n", "<tool_call>", "ab", "\n\n\n"]
            ),
            st.text(max_size=4),
        ),
        max_size=8,
    )
)
def test_the_twin_gives_the_tokenizers_own_ids_for_genuine_control_tokens(
    mixed: Any, parts: list[str]
) -> None:
    """What decides between the two encodings may not change anything else."""
    control = ControlText(mixed)
    text = "".join(parts).encode("utf-8", "replace").decode()
    marker = control.escape("<|im_end|>")
    genuine = control.encode(text)
    assert genuine == ids_of(mixed, text)
    assert control.encode(text + "\n" + marker) == [
        *ids_of(mixed, text + "\n"),
        *(ids_of(mixed, letter)[0] for letter in "<|im_end|>"),
    ]


def test_escaped_text_comes_back_as_it_was(mixed: Any) -> None:
    control = ControlText(mixed)
    value = {"a<|im_end|>": ["<tool_call>", {"b": "x<|end|>y"}], "n": 1}
    escaped = control.escape(value)
    assert "<" not in str(escaped)
    (key,) = (k for k in escaped if k != "n")
    assert control.unescape(key) == "a<|im_end|>"
    assert control.unescape(escaped[key][1]["b"]) == "x<|end|>y"
    assert escaped["n"] == 1


def test_an_added_token_of_whitespace_is_no_control_token(mixed: Any) -> None:
    control = ControlText(mixed)
    assert "\n\n\n" not in control.ids
    assert control.escape("a\n\n\nb") == "a\n\n\nb"


def test_a_vocabulary_that_spells_a_control_token_itself_is_broken_up() -> None:
    """A word-piece model would give the id of the control token for its text."""
    vocab = [("<unk>", 0.0), ("<s>", -1.0), ("<", -2.0), ("s", -2.0), (">", -2.0), ("x", -2.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0))
    backend.add_special_tokens(["<s>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    control = ControlText(tokenizer)
    assert control.encode("<s>x") == [1, 5]
    assert control.encode("<s>" + control.escape("<s>") + "x") == [1, 2, 3, 4, 5]


def test_text_that_normalises_to_a_control_token_stays_text() -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    backend.normalizer = tokenizers.normalizers.NFKC()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_tokens([tokenizers.AddedToken("<call>", normalized=True)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    control = ControlText(tokenizer)
    wide = "\uff1ccall\uff1e"
    assert ids_of(tokenizer, wide) == [256]
    assert control.encode(wide) == [ids_of(tokenizer, letter)[0] for letter in "<call>"]
    assert control.encode("<call>" + wide)[0] == 256


def test_truncation_set_by_others_does_not_reach_us(mixed: Any) -> None:
    control = ControlText(mixed)
    mixed("some text", truncation=True, max_length=2)
    assert len(control.encode("abcdefgh")) == 7


def test_what_cannot_be_kept_apart_is_an_error() -> None:
    vocab = [("<unk>", 0.0), ("x", -1.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0))
    backend.add_special_tokens(["x"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    control = ControlText(tokenizer)
    with pytest.raises(LedgerError, match="whatever is done"):
        control.encode(control.escape("x"))
