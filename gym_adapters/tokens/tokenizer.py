"""The part of a Hugging Face tokenizer that the token layer uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["AddedToken", "BackendTokenizer", "ChatTokenizer", "Encoding"]


class AddedToken(Protocol):
    """A token that stands outside the learned vocabulary."""

    content: str
    special: bool


class Encoding(Protocol):
    """What the backend makes of a text."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        ...


class BackendTokenizer(Protocol):
    """The ``tokenizers.Tokenizer`` inside a fast tokenizer."""

    def to_str(self) -> str:
        """Its JSON."""
        ...

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """A text as ids."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Ids as text."""
        ...

    def no_truncation(self) -> None:
        """Encode texts of any length."""
        ...

    def no_padding(self) -> None:
        """Encode texts as they are."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, ``None`` where there is none."""
        ...


class ChatTokenizer(Protocol):
    """A fast tokenizer with a chat template (``transformers.PreTrainedTokenizerFast``)."""

    chat_template: Any

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""
        ...

    @property
    def backend_tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` underneath."""
        ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Added tokens by id."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render a conversation."""
        ...
