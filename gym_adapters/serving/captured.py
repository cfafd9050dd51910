"""What a foreign agent's model calls amount to: exact tokens, in as few segments as they allow.

An agent sends its whole history with every call. Where that history continues what was sampled, the
call continues the tokens: only what is new is tokenised. Where the agent has rewritten, dropped or
branched off, a new segment starts, with the sampled tokens of its shared past kept as they are
where the branch leaves from the end of a turn. Every sampled token stands in exactly one segment
with mask 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import orjson

from gym_adapters.errors import ModelError, Unsupported
from gym_adapters.generation.chat import ModelTurn, Usage
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.items import (
    FinishReason,
    FunctionTool,
    Item,
    assistant_message,
    item_text,
)
from gym_adapters.segment import Segment
from gym_adapters.tokens.chat_template import TemplateRewritesHistory
from gym_adapters.tokens.protocol import OutputParser
from gym_adapters.tokens.token_ledger import TokenLedger

__all__ = ["CapturedConversation", "ContextFull"]


class ContextFull(ModelError):
    """The conversation leaves no context to answer in."""


@dataclass(slots=True)
class _Thread:
    """One segment under way, and the items it shows."""

    ledger: TokenLedger
    history: list[Item]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class _TurnEnd:
    """A place where a call may continue: after a sampled turn.

    Attributes:
        thread: Where the turn was sampled.
        context: Tokens of the thread up to and with the turn.
        items: Items of the thread up to and with the turn.
    """

    thread: _Thread
    context: int
    items: int


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What one call reads: where it continues, if anywhere, and the whole of its tokens."""

    ids: list[int]
    history: list[Item]
    continues: _TurnEnd | None = None


@dataclass(slots=True)
class CapturedConversation:
    """The calls of one session, in any order and also at once.

    Attributes:
        model: The policy.
        request_id: Names the session to the engine.
        output: What was said after the first prompt, in the order it happened.
        turns: Turns sampled.
    """

    model: TokenChatModel
    request_id: str
    output: list[Item] = field(default_factory=list)
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: FinishReason = "stop"
    _threads: list[_Thread] = field(default_factory=list)
    _ends: dict[bytes, _TurnEnd] = field(default_factory=dict)
    _answers: dict[bytes, ModelTurn] = field(default_factory=dict)
    _waiting_calls: set[str] = field(default_factory=set)

    @property
    def segments(self) -> list[Segment]:
        """Segments in the order in which they were begun."""
        return [segment for thread in self._threads for segment in thread.ledger.segments]

    def answered(self, items: Sequence[Item], tools: Sequence[FunctionTool]) -> ModelTurn | None:
        """The turn that the last call with this very history got, for a call that is repeated."""
        return self._answers.get(_digests(items, tools)[-1])

    async def respond(
        self, items: Sequence[Item], tools: Sequence[FunctionTool], sampling: SamplingParams
    ) -> ModelTurn:
        """Answer a call whose whole history is `items`. Cancelled or failed, it leaves no trace.

        Raises:
            ContextFull: If there is no room to answer.
            ModelError: If generation fails.
            LedgerError: If the template can't express the conversation.
            Unsupported: If the template leaves a part of it out, or the model is strict and this
                call begins a second segment.
        """
        digests = _digests(items, tools)
        prompt = self._prompt(items, tools, digests)
        if self.model.strict and self._threads and _continued(prompt) is None:
            raise Unsupported(
                "This run takes one segment a rollout, and the agent (or the chat template) has "
                "rewritten its history or branched off, which begins another one."
            )
        settings = self._settings(sampling, prompt)
        generation = await self.model.generator.generate(
            prompt.ids, settings, request_id=self.request_id
        )
        if not generation.token_ids:
            raise ModelError("the generator sampled nothing")
        turn = self._parsed(generation, settings, tools, len(prompt.ids))
        thread = self._record(prompt, generation, turn)
        self._remember(items, tools, digests, thread, turn)
        return turn

    def _prompt(
        self, items: Sequence[Item], tools: Sequence[FunctionTool], digests: Sequence[bytes]
    ) -> _Prompt:
        groups = _groups(items)
        # The longest part of the history that ends with a turn sampled here.
        for length in range(len(groups) - 1, 0, -1):
            end = self._ends.get(digests[length])
            if end is None:
                continue
            known = end.thread.history[: end.items]
            new = [item for group in groups[length:] for item in group]
            context = end.thread.ledger.context_ids
            if any(_is_assistant(item) for item in new):
                # An assistant turn that was not sampled here has no tokens but rendered ones.
                break
            try:
                delta = self.model.renderer.delta_ids(
                    known, new, last_sampled_id=context[end.context - 1], tools=tools
                )
            except TemplateRewritesHistory:
                break
            return _Prompt([*context[: end.context], *delta], [*known, *new], end)
        return _Prompt(self.model.renderer.prompt_ids(items, tools), list(items))

    def _settings(self, sampling: SamplingParams, prompt: _Prompt) -> SamplingParams:
        context, budget = len(prompt.ids), sampling.max_tokens
        bounds = [] if self.model.max_context is None else [self.model.max_context]
        if self.model.max_completion is not None:
            begun = _continued(prompt)
            length = context if begun is None else begun.prompt_length
            bounds.append(length + self.model.max_completion)
        if bounds:
            limit = min(bounds)
            if context >= limit:
                raise ContextFull(
                    f"the conversation fills the context: it has {context} tokens of {limit}"
                )
            budget = limit - context if budget is None else min(budget, limit - context)
        stops = dict.fromkeys((*sampling.stop_token_ids, *self.model.renderer.stop_token_ids))
        return replace(sampling, max_tokens=budget, stop_token_ids=tuple(stops))

    def _parsed(
        self,
        generation: Generation,
        sampling: SamplingParams,
        tools: Sequence[FunctionTool],
        read: int,
    ) -> ModelTurn:
        finish = generation.finish_reason or _inferred(generation, sampling)
        parser = _parser_for(self.model, tools)
        items = parser.parse(
            generation.token_ids, finish_reason=finish, call_id_prefix=f"call_{self.turns}_"
        )
        self.turns += 1
        return ModelTurn(items, finish, Usage(read, len(generation.token_ids)))

    def _record(self, prompt: _Prompt, generation: Generation, turn: ModelTurn) -> _Thread:
        """Append to the thread that the call continues, or begin one where it has moved on."""
        end, thread = prompt.continues, _continued(prompt)
        said = turn.items or [assistant_message("")]
        if end is not None and thread is not None:
            thread.ledger.append_environment(prompt.ids[end.context :])
            thread.history.extend(prompt.history[end.items :])
        else:
            thread = _Thread(TokenLedger(), list(prompt.history), len(prompt.ids))
            thread.ledger.open_segment(prompt.ids)
            self._threads.append(thread)
        thread.ledger.append_sampled(generation)
        self._add_output(prompt, turn)
        thread.history.extend(said)
        return thread

    def _add_output(self, prompt: _Prompt, turn: ModelTurn) -> None:
        new = prompt.history[prompt.continues.items :] if prompt.continues is not None else []
        for item in new or prompt.history:
            if item["type"] == "function_call_output":
                # A result counts once, whatever the agent makes of its history afterwards.
                if item["call_id"] in self._waiting_calls:
                    self._waiting_calls.discard(item["call_id"])
                    self.output.append(item)
            elif new:
                self.output.append(item)
        self.output.extend(turn.items)
        self._waiting_calls |= {
            item["call_id"] for item in turn.items if item["type"] == "function_call"
        }
        self.finish_reason = turn.finish_reason
        self.input_tokens += turn.usage.input_tokens
        self.output_tokens += turn.usage.output_tokens

    def _remember(
        self,
        items: Sequence[Item],
        tools: Sequence[FunctionTool],
        digests: Sequence[bytes],
        thread: _Thread,
        turn: ModelTurn,
    ) -> None:
        end = _TurnEnd(thread, len(thread.ledger.context_ids), len(thread.history))
        said = turn.items or [assistant_message("")]
        group = [*said]
        base = digests[-1]
        groups = _groups(items)
        if groups and _is_assistant(groups[-1][-1]):
            # What was sampled continues the turn that stood last: the agent will send them as one.
            base, group = digests[-2], [*groups[-1], *said]
        self._ends[_digest(base, group)] = end
        self._answers[digests[-1]] = turn


def _continued(prompt: _Prompt) -> _Thread | None:
    """The thread whose newest turn the prompt continues; ``None`` where it begins another one."""
    end = prompt.continues
    if end is None or len(end.thread.ledger.context_ids) != end.context:
        return None
    return end.thread


def _parser_for(model: TokenChatModel, tools: Sequence[FunctionTool]) -> OutputParser:
    for_tools = getattr(model.parser, "for_tools", None)
    if not tools or for_tools is None:
        return model.parser
    told: OutputParser = for_tools(tools)
    return told


def _inferred(generation: Generation, sampling: SamplingParams) -> FinishReason:
    if generation.token_ids[-1] in sampling.stop_token_ids:
        return "stop"
    used_up = sampling.max_tokens is not None and len(generation.token_ids) >= sampling.max_tokens
    return "length" if used_up else "stop"


def _is_assistant(item: Item) -> bool:
    return item["type"] in ("reasoning", "function_call") or item.get("role") == "assistant"


def _groups(items: Sequence[Item]) -> list[list[Item]]:
    """The items, with neighbours that the assistant wrote in one group; a turn is one of these."""
    groups: list[list[Item]] = []
    for item in items:
        if groups and _is_assistant(item) and _is_assistant(groups[-1][-1]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _digests(items: Sequence[Item], tools: Sequence[FunctionTool]) -> list[bytes]:
    """Names of every beginning of the history, the empty one first."""
    digests = [hashlib.blake2b(orjson.dumps(list(tools)), digest_size=16).digest()]
    for group in _groups(items):
        digests.append(_digest(digests[-1], group))
    return digests


def _digest(before: bytes, group: Sequence[Item]) -> bytes:
    """The name of a history that goes on with `group`.

    What agents change without meaning to is left out: thinking, blanks around the assistant's text,
    and how the arguments of a call are spaced.
    """
    said: list[object] = []
    text = ""
    for item in group:
        if item["type"] == "function_call":
            said.append((item["call_id"], item["name"], _plain(item["arguments"])))
        elif item["type"] == "function_call_output":
            said.append((item["call_id"], item["output"]))
        elif item["type"] == "message":
            text += item_text(item)
            if item["role"] != "assistant":
                said.append(item["role"])
    blanks_matter = not _is_assistant(group[-1])
    packed = orjson.dumps([said, text if blanks_matter else text.strip()])
    return hashlib.blake2b(before + packed, digest_size=16).digest()


def _plain(arguments: str) -> object:
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS).decode()
