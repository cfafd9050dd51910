"""A chat model over token ids, that keeps the exact ledger of every rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from gym_adapters.errors import Boundary, LedgerError, ModelError, Unsupported, boundary
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.generation.constrained import with_constraint
from gym_adapters.generation.protocol import Generation, SamplingParams, TokenGenerator
from gym_adapters.items import FinishReason, FunctionTool, Item, assistant_message
from gym_adapters.segment import Segment
from gym_adapters.tokens.chat_template import TemplateRewritesHistory
from gym_adapters.tokens.protocol import ChatRenderer, OutputParser
from gym_adapters.tokens.token_ledger import TokenLedger

__all__ = ["TokenChatModel", "TokenChatSession"]


@runtime_checkable
class _KnowsTools(Protocol):
    """A parser that can be told the tools (`gym_adapters.tokens.output_parser.FormatParser`)."""

    @property
    def reads_calls(self) -> bool: ...

    def for_tools(self, tools: Sequence[FunctionTool]) -> OutputParser: ...


class TokenChatModel:
    """A `ChatModel` over a `TokenGenerator`.

    Args:
        generator: Samples the turns.
        renderer: Items to token ids.
        parser: Sampled ids to items.
        name: What to call the model in a rollout's provenance.
        max_context: Most tokens that prompt and completion may have together; ``None`` for any.
        max_completion: Most tokens after the prompt of a segment, the policy's and the
            environment's, over all turns; ``None`` for any.
        strict: Refuse a template that rewrites history, in place of starting a new segment. For
            trainers that take one segment a rollout.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        renderer: ChatRenderer,
        parser: OutputParser,
        *,
        name: str,
        max_context: int | None = None,
        max_completion: int | None = None,
        strict: bool = False,
    ) -> None:
        self.generator = generator
        self.renderer = renderer
        self.parser = parser
        self.max_context = max_context
        self.max_completion = max_completion
        self.strict = strict
        self._name = name

    @property
    def name(self) -> str:
        """What to call it in a rollout's provenance."""
        return self._name

    @property
    def template_hash(self) -> str:
        """Identifies its chat template and tokenizer."""
        return self.renderer.template_hash

    def open(
        self, *, tools: Sequence[FunctionTool], sampling: SamplingParams, request_id: str
    ) -> TokenChatSession:
        """A fresh session; the template's turn ends are added to the stop ids.

        Raises:
            Unsupported: If tools are offered, and the parser reads no tool calls.
        """
        parser = self.parser
        if isinstance(parser, _KnowsTools) and tools:
            if not parser.reads_calls:
                raise Unsupported(
                    f"{self._name} is offered tools, but its output format has no tool calls. Name "
                    "the format: output_parser(tokenizer, format=...)."
                )
            parser = parser.for_tools(tools)
        stops = dict.fromkeys((*sampling.stop_token_ids, *self.renderer.stop_token_ids))
        return TokenChatSession(
            self, parser, tuple(tools), replace(sampling, stop_token_ids=tuple(stops)), request_id
        )


class TokenChatSession:
    """The model's side of one rollout, to the token. Not for concurrent use."""

    def __init__(
        self,
        model: TokenChatModel,
        parser: OutputParser,
        tools: Sequence[FunctionTool],
        sampling: SamplingParams,
        request_id: str,
    ) -> None:
        self.ledger = TokenLedger()
        self._model = model
        self._parser = parser
        self._tools = tools
        self._sampling = sampling
        self._request_id = request_id
        self._history: list[Item] = []
        self._rewritten = False
        self._turns = 0
        self._limit = model.max_context

    @property
    def segments(self) -> Sequence[Segment]:
        """Segments that hold a sampled token, oldest first."""
        return self.ledger.segments

    def rewrite_history(self, items: Sequence[Item]) -> None:
        """Go on as if `items` were all that was said so far.

        For an agent that compacts its history, or goes back to an earlier point of it. The next
        `respond` opens a new segment whose prompt is rendered in full. What was sampled before
        stays in the old one, and is trained there, once.

        Raises:
            Unsupported: If the model is strict.
        """
        if self._model.strict:
            raise Unsupported(
                "The agent rewrites its history, and this run takes one segment a rollout: use an "
                "agent that keeps its history, or a trainer that takes several segments."
            )
        self._history = list(items)
        self._rewritten = True

    async def respond(
        self, new_items: Sequence[Item], *, constraint: Mapping[str, Any] | None = None
    ) -> ModelTurn | None:
        """Read `new_items`, and answer; ``None``, and an unchanged ledger, where they don't fit.

        Args:
            new_items: What is new.
            constraint: What this turn must look like (`gym_adapters.generation.constrained`).

        Raises:
            ModelError: If generation fails, or the tokens don't line up.
            InvalidEnvironment: If the constraint is none.
            Unsupported: If the model is strict and the template rewrites history, or its generator
                can't hold it to the constraint.
        """
        with boundary(Boundary.MODEL, f"turn {self._turns} of {self._request_id}"):
            sampling = self._sampling
            if constraint is not None:
                sampling = with_constraint(sampling, constraint)
            if not self._read(new_items):
                return None
            return await self._sample(sampling)

    def _read(self, new_items: Sequence[Item]) -> bool:
        """Append what the environment says; ``False``, and nothing appended, where it won't fit."""
        rewritten = self._rewritten or not self.ledger.is_open
        ids: list[int] = []
        if not rewritten:
            try:
                ids = self._model.renderer.delta_ids(
                    self._history,
                    new_items,
                    last_sampled_id=self.ledger.last_sampled_id,
                    tools=self._tools,
                )
            except TemplateRewritesHistory as error:
                if self._model.strict:
                    raise Unsupported(
                        f"{error} This run takes one segment a rollout: use a chat template that "
                        "keeps history (gym_adapters.tokens.template_report tells which do)."
                    ) from error
                rewritten = True
        if rewritten:
            ids = self._model.renderer.prompt_ids([*self._history, *new_items], self._tools)
        limit = self._limit_after(ids) if rewritten else self._limit
        context = len(ids) + (0 if rewritten else len(self.ledger.context_ids))
        if limit is not None and context >= limit:
            return False
        if rewritten:
            self._limit = limit
            self.ledger.open_segment(ids)
            self._rewritten = False
        else:
            self.ledger.append_environment(ids)
        self._history.extend(new_items)
        return True

    async def _sample(self, asked: SamplingParams) -> ModelTurn:
        context = self.ledger.context_ids
        read = len(context)
        sampling = replace(asked, max_tokens=self._budget(read))
        generation = await self._model.generator.generate(
            context, sampling, request_id=self._request_id
        )
        if not generation.token_ids:
            raise ModelError("the generator sampled nothing")
        if len(self.ledger.context_ids) != read:
            raise LedgerError("The session was used by two callers at once.")
        finish_reason = _finish_reason(generation, sampling)
        self.ledger.append_sampled(generation)
        items = self._parser.parse(
            generation.token_ids,
            finish_reason=finish_reason,
            call_id_prefix=f"call_{self._turns}_",
        )
        self._turns += 1
        # A turn of nothing but its end is a turn all the same, for the template.
        self._history.extend(items or [assistant_message("")])
        return ModelTurn(items, finish_reason, Usage(read, len(generation.token_ids)))

    def _limit_after(self, prompt_ids: Sequence[int]) -> int | None:
        """Most tokens of a segment that starts with `prompt_ids`."""
        context, completion = self._model.max_context, self._model.max_completion
        if completion is None:
            return context
        limit = len(prompt_ids) + completion
        return limit if context is None else min(context, limit)

    def _budget(self, context: int) -> int | None:
        limit, budget = self._limit, self._sampling.max_tokens
        if limit is None:
            return budget
        return limit - context if budget is None else min(budget, limit - context)


def _finish_reason(generation: Generation, sampling: SamplingParams) -> FinishReason:
    """Why a turn ended; inferred from its last id and its budget where the engine doesn't tell."""
    if generation.finish_reason is not None:
        return generation.finish_reason
    if generation.token_ids[-1] in sampling.stop_token_ids:
        return "stop"
    used_up = sampling.max_tokens is not None and len(generation.token_ids) >= sampling.max_tokens
    return "length" if used_up else "stop"
