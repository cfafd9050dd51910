"""Text is text: what a message says never becomes a control token.

A chat template writes control tokens as text, and a tokenizer can't tell those from the same text
in a tool result. So the two are told apart before tokenisation: look-alikes in message content are
replaced by plain words, the template is rendered, and the rendered text is encoded by a twin of the
tokenizer whose control tokens are spelled in a way no content can spell. Where no content holds a
look-alike the tokenizer's own encoding of the rendered text is used, unchanged.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from gym_adapters.errors import LedgerError, MissingExtra, UsageError
from gym_adapters.tokens.tokenizer import BackendTokenizer, ChatTokenizer

__all__ = ["ControlText"]


class _Twin(NamedTuple):
    """A tokenizer, and its ids as ours; ``None`` for one that stands for nothing."""

    tokenizer: BackendTokenizer
    own_ids: dict[int, int | None]


class ControlText:
    """Encodes rendered conversations of one tokenizer.

    Control tokens are the tokenizer's added tokens, special or not, except those made of whitespace
    and those named in `allow_in_text`.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        allow_in_text: Added tokens that message content may produce (domain words that were added
            to the vocabulary, say).

    Raises:
        UsageError: If the tokenizer has no fast backend.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, allow_in_text: Collection[str] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"{type(tokenizer).__name__} is a slow tokenizer. Exact tokens need a fast one "
                "(backed by the tokenizers package)."
            )
        self.ids: dict[str, int] = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip() and token.content not in allow_in_text
        }
        self._id_set = frozenset(self.ids.values())
        self._pattern = _any_of(self.ids)
        # ASCII letters and digits pass unharmed through tojson, trim and friends.
        nonce = secrets.token_hex(8)
        self._words = {text: f"GA{nonce}T{i}E" for i, text in enumerate(self.ids)}
        self._texts = {word: text for text, word in self._words.items()}
        self._word_pattern = re.compile(f"GA{nonce}T[0-9]+E")
        self._spelling = {
            text: f"\U000f0000{nonce}:{i}\U000f0001" for i, text in enumerate(self.ids)
        }
        self._breaker = f"\U000f0000{nonce}:break\U000f0001"
        self._own = self._load(backend)

    def escape(self, value: Any) -> Any:
        """`value` with every control-token look-alike in its strings replaced by a plain word.

        Goes into lists and mappings, keys included. Returns the same object where nothing changed.
        """
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._words[match[0]], value)
        if isinstance(value, Mapping):
            return {self.escape(key): self.escape(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [self.escape(entry) for entry in value]
        return value

    def unescape(self, text: str) -> str:
        """`text` as it stood before `escape`."""
        return self._word_pattern.sub(lambda match: self._texts[match[0]], text)

    def first_control(self, text: str, start: int = 0) -> re.Match[str] | None:
        """The first genuine control token in a rendered `text`, from `start` on."""
        return self._pattern.search(text, start)

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """The genuine control tokens in a rendered `text`, one by one."""
        return self._pattern.finditer(text)

    def controls(self, text: str) -> list[re.Match[str]]:
        """All genuine control tokens in a rendered `text`."""
        return list(self._pattern.finditer(text))

    def encode(self, rendered: str) -> list[int]:
        """Token ids of a text rendered from escaped content. Linear in its length."""
        genuine = sum(1 for _ in self._pattern.finditer(rendered))
        if self._word_pattern.search(rendered) is None:
            ids = self._own.encode(rendered, add_special_tokens=False).ids
            if self._count_controls(ids) == genuine:
                return ids
        return self._encode_apart(rendered, genuine)

    def _encode_apart(self, rendered: str, genuine: int) -> list[int]:
        spelled = self._pattern.sub(lambda match: self._spelling[match[0]], rendered)
        ids = self._encode_twin(self.unescape(spelled))
        if self._count_controls(ids) != genuine:
            # The model's own vocabulary spells a control token: keep its letters from meeting.
            ids = self._encode_twin(self._word_pattern.sub(self._broken, spelled))
        if self._count_controls(ids) != genuine:
            raise LedgerError(
                "Text in this conversation would be tokenised as a control token, whatever is done "
                "to keep them apart."
            )
        return ids

    def _encode_twin(self, text: str) -> list[int]:
        twin = self._twin
        encoded = twin.tokenizer.encode(text, add_special_tokens=False).ids
        ids = (twin.own_ids.get(i, i) for i in encoded)
        return [i for i in ids if i is not None]

    def _broken(self, match: re.Match[str]) -> str:
        text = self._texts[match[0]]
        return text[:1] + self._breaker + text[1:]

    def _count_controls(self, ids: list[int]) -> int:
        return sum(1 for i in ids if i in self._id_set)

    def _load(self, backend: BackendTokenizer) -> BackendTokenizer:
        """The tokenizer on its own, so that nobody's truncation or padding reaches it."""
        own = _tokenizer_of(backend.to_str())
        own.no_truncation()
        own.no_padding()
        return own

    @cached_property
    def _twin(self) -> _Twin:
        """The tokenizer with its control tokens spelled in another way, made when first needed."""
        config = json.loads(self._own.to_str())
        for token in config["added_tokens"]:
            token["content"] = self._spelling.get(token["content"], token["content"])
        config["added_tokens"].append(
            {
                "id": 1 + max((token["id"] for token in config["added_tokens"]), default=0),
                "content": self._breaker,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
        twin = _tokenizer_of(json.dumps(config))
        ours: dict[int, int | None] = {
            _need_id(twin, spelling): self.ids[text] for text, spelling in self._spelling.items()
        }
        ours[_need_id(twin, self._breaker)] = None
        # The twin numbers its added tokens afresh; those that kept their text are mapped as well.
        for token in config["added_tokens"]:
            original = self._own.token_to_id(token["content"])
            if original is not None:
                ours.setdefault(_need_id(twin, token["content"]), original)
        return _Twin(twin, ours)


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern for the longest of `texts`; one that never matches where there are none."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) if longest_first else r"(?!)")


def _tokenizer_of(config: str) -> BackendTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra(
            "transformers", package="tokenizers", needed_for="Exact tokens"
        ) from error
    tokenizer: BackendTokenizer = Tokenizer.from_str(config)
    return tokenizer


def _need_id(tokenizer: BackendTokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise UsageError(f"The tokenizer does not take the added token {token!r}.")
    return token_id
