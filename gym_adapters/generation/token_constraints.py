"""Which tokens a constrained turn may go on with, by llguidance.

It takes JSON schemas, regular expressions (the dialect of Rust's ``regex``: linear time, no
look-around) and grammars in GBNF or llguidance's Lark. A schema keyword that it can't enforce is
refused, not ignored.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gym_adapters.errors import InvalidConfig, ModelError, Unsupported
from gym_adapters.extras import require
from gym_adapters.generation.constrained import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["ConstraintCompiler", "TokenConstraint"]

# Compiled constraints that are kept; environments mostly have few, or a new one each turn.
KEPT = 256


class TokenConstraint:
    """The state of one turn under its constraint.

    Args:
        matcher: At the start of the turn.
        end_of_text: The id by which llguidance ends a text.
        stop_token_ids: Ids that end the turn: allowed where the constraint is fulfilled, and only
            there.
    """

    def __init__(
        self, matcher: LLMatcher, end_of_text: int | None, stop_token_ids: Iterable[int]
    ) -> None:
        self._matcher, self._end_of_text = matcher, end_of_text
        self._stops = sorted(stop_token_ids)

    @property
    def exhausted(self) -> bool:
        """Whether the turn is complete, and there is no id to end it with."""
        return self._matcher.is_stopped() and not self._stops

    def allowed(self, width: int) -> Tensor:
        """Which ids may come next: bool, of shape (width,), on the CPU.

        Raises:
            ModelError: If there are none, or the constraint grew past llguidance's limits.
        """
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        allowed = torch.zeros(width, dtype=torch.bool)
        told = bits.flatten()[:width].bool()
        allowed[: len(told)] = told
        self._check()
        if self._end_of_text is not None and self._end_of_text < width:
            allowed[self._end_of_text] = False
        allowed[[stop for stop in self._stops if stop < width]] = self._matcher.is_accepting()
        if not bool(allowed.any()):
            raise ModelError("no token of the model can go on with what its constraint asks for.")
        return allowed

    def take(self, token_id: int) -> None:
        """Go on with `token_id`; the ids that end the turn are taken as nothing.

        Raises:
            ModelError: If it is not allowed, or the constraint grew past llguidance's limits.
        """
        if token_id not in self._stops:
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            said = self._matcher.get_error().partition("\n")[0]
            raise ModelError(f"the constraint can't be followed any further: {said}")


class ConstraintCompiler:
    """Makes `TokenConstraint` objects for one tokenizer. Safe to use from several threads.

    Args:
        tokenizer: A fast tokenizer.
        vocabulary: How many ids the model knows.

    Raises:
        MissingExtra: Without llguidance.
        Unsupported: If the tokenizer is no fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
        require("llguidance", "constrained", "a constrained turn of the transformers generator")
        from llguidance.hf import from_tokenizer

        if not tokenizer.is_fast:
            raise Unsupported("constrained turns need a fast tokenizer.")
        size = max(vocabulary, len(tokenizer))
        self._tokenizer: LLTokenizer = from_tokenizer(tokenizer, n_vocab=size)
        self._end_of_text: int | None = tokenizer.eos_token_id
        self._lock = threading.Lock()
        self._kept: OrderedDict[Constraint, LLMatcher] = OrderedDict()

    def compile(self, constraint: Constraint, stop_token_ids: Iterable[int]) -> TokenConstraint:
        """The constraint at the start of a turn. Blocks: a large schema takes up to a second.

        Raises:
            InvalidConfig: If llguidance can't read it, or can't enforce it.
        """
        with self._lock:
            matcher = self._kept.pop(constraint, None)
            if matcher is None:
                matcher = self._matcher(constraint)
            self._kept[constraint] = matcher
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return TokenConstraint(matcher.deep_copy(), self._end_of_text, stop_token_ids)

    def _matcher(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher, grammar_from

        problem = ""
        try:
            # Named as in CONSTRAINT_KEYS.
            grammar = grammar_from(constraint.kind, constraint.text)
        except ValueError as error:
            problem = str(error)
        else:
            problem = LLMatcher.validate_grammar(grammar, self._tokenizer)
            if not problem:
                return LLMatcher(self._tokenizer, grammar, log_level=0)
        raise InvalidConfig(
            f"the {constraint.kind} of a constrained turn can't be followed: {problem.strip()}"
        )
