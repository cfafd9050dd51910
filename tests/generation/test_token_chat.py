from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gym_adapters.errors import InvalidConfig, InvalidEnvironment, ModelError, Unsupported
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel, TokenChatSession
from gym_adapters.items import (
    FunctionTool,
    assistant_message,
    function_call,
    function_call_output,
    reasoning,
    user_message,
)
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer

transformers = pytest.importorskip("transformers", reason="needs transformers")
tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers")

KEEPS = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL: FunctionTool = {"type": "function", "name": "add", "parameters": {"type": "object"}}
END = 257


def tokenizer_with(template: str) -> Any:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


class Script:
    """Answers with what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Generation) -> None:
        self.answers = list(answers)
        self.prompts: list[list[int]] = []
        self.samplings: list[SamplingParams] = []
        self.request_ids: list[str] = []

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        request_id: str,
        media: Sequence[Mapping[str, Any]] | None = None,
    ) -> Generation:
        self.prompts.append(list(prompt_ids))
        self.samplings.append(sampling)
        self.request_ids.append(request_id)
        return self.answers.pop(0)


class Talk:
    """A tokenizer, a script, and the session between them."""

    def __init__(
        self,
        *answers: str | Generation,
        template: str = KEEPS,
        sampling: SamplingParams | None = None,
        tools: Sequence[FunctionTool] = (),
        **options: Any,
    ) -> None:
        self.tokenizer = tokenizer_with(template)
        self.script = Script(*(self.sample(a) if isinstance(a, str) else a for a in answers))
        self.model = TokenChatModel(
            self.script,
            TemplateRenderer(self.tokenizer),
            output_parser(self.tokenizer, "hermes"),
            name="scripted",
            **options,
        )
        self.session: TokenChatSession = self.model.open(
            tools=tools, sampling=sampling or SamplingParams(), request_id="r1"
        )

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def sample(self, text: str, **rest: Any) -> Generation:
        ids = self.ids(text)
        return Generation(ids, [-0.25] * len(ids), **rest)


async def test_a_tool_conversation_is_one_segment_of_exact_tokens() -> None:
    call = '<tool_call>{"name": "add", "arguments": {"a":1}}</tool_call>'
    talk = Talk(call + "<|im_end|>", "5<|im_end|>", tools=[TOOL])
    first = await talk.session.respond([user_message("2+3?")])
    assert first.items == [function_call("add", '{"a":1}', "call_0_0")]
    second = await talk.session.respond([function_call_output("call_0_0", "5")])
    assert second.items == [assistant_message("5")]

    (segment,) = talk.session.segments
    delta = talk.ids("\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n")
    assert list(segment.prompt_ids) == talk.script.prompts[0]
    assert list(segment.completion_ids) == [
        *talk.ids(call + "<|im_end|>"),
        *delta,
        *talk.ids("5<|im_end|>"),
    ]
    assert list(segment.mask) == [1] * len(talk.ids(call + "<|im_end|>")) + [0] * len(delta) + [
        1,
        1,
    ]
    assert talk.script.prompts[1] == [*segment.prompt_ids, *segment.completion_ids[:-2]]
    assert second.usage.input_tokens == len(talk.script.prompts[1])
    assert second.usage.output_tokens == 2
    assert talk.script.request_ids == ["r1", "r1"]


async def test_a_turn_cut_by_its_budget_is_ended_by_the_environment() -> None:
    talk = Talk("ab", "c<|im_end|>", sampling=SamplingParams(max_tokens=2))
    turn = await talk.session.respond([user_message("q")])
    assert turn.finish_reason == "length"
    await talk.session.respond([user_message("n")])
    (segment,) = talk.session.segments
    end = list(segment.completion_ids).index(END)
    assert end == 2
    assert segment.mask[end] == 0
    assert list(segment.mask[:2]) == [1, 1]


async def test_a_sampled_turn_end_is_trained_and_not_repeated() -> None:
    talk = Talk("ab<|im_end|>", "c<|im_end|>")
    await talk.session.respond([user_message("q")])
    await talk.session.respond([user_message("n")])
    (segment,) = talk.session.segments
    assert segment.sampled_ids == talk.ids("ab<|im_end|>c<|im_end|>")
    assert list(segment.completion_ids[:4]) == [*talk.ids("ab<|im_end|>"), *talk.ids("\n")]


@pytest.mark.parametrize(
    ("text", "told", "max_tokens", "expected"),
    [
        ("ab<|im_end|>", None, 3, "stop"),
        ("abc", None, 3, "length"),
        ("ab", None, 3, "stop"),
        ("ab", None, None, "stop"),
        ("ab", "length", None, "length"),
        ("abc", "stop", 3, "stop"),
    ],
)
async def test_the_finish_reason_is_inferred_where_it_is_not_told(
    text: str, told: Any, max_tokens: int | None, expected: str
) -> None:
    talk = Talk(sampling=SamplingParams(max_tokens=max_tokens))
    talk.script.answers = [talk.sample(text, finish_reason=told)]
    turn = await talk.session.respond([user_message("q")])
    assert turn.finish_reason == expected


async def test_the_templates_turn_ends_are_added_to_the_stop_ids() -> None:
    talk = Talk("a<|im_end|>", sampling=SamplingParams(stop_token_ids=(9, END)))
    await talk.session.respond([user_message("q")])
    assert talk.script.samplings[0].stop_token_ids == (9, END)


async def test_the_budget_of_a_turn_is_what_the_context_has_left() -> None:
    talk = Talk("a<|im_end|>", sampling=SamplingParams(max_tokens=1000), max_context=100)
    await talk.session.respond([user_message("q")])
    assert talk.script.samplings[0].max_tokens == 100 - len(talk.script.prompts[0])


@pytest.mark.parametrize("prompt", ["q", "a longer question"])
async def test_a_completion_has_its_own_bound_whatever_the_prompts_length(prompt: str) -> None:
    talk = Talk("a<|im_end|>", "b<|im_end|>", max_completion=40)
    await talk.session.respond([user_message(prompt)])
    await talk.session.respond([user_message("n")])
    first, second = talk.script.samplings
    written = len(talk.script.prompts[1]) - len(talk.script.prompts[0])
    assert (first.max_tokens, second.max_tokens) == (40, 40 - written)


async def test_the_tighter_of_both_bounds_holds() -> None:
    talk = Talk("a<|im_end|>", max_context=50, max_completion=40)
    await talk.session.respond([user_message("q")])
    assert talk.script.samplings[0].max_tokens == 50 - len(talk.script.prompts[0])


async def test_items_that_leave_no_room_give_no_turn_and_an_unchanged_ledger() -> None:
    talk = Talk("a<|im_end|>", max_context=60)
    await talk.session.respond([user_message("q")])
    before = list(talk.session.ledger.context_ids)
    assert await talk.session.respond([user_message("long" * 40)]) is None
    assert list(talk.session.ledger.context_ids) == before


async def test_a_prompt_that_is_too_long_is_never_sampled_from() -> None:
    talk = Talk(max_context=10)
    assert await talk.session.respond([user_message("long" * 40)]) is None
    assert talk.script.prompts == []
    assert list(talk.session.segments) == []


async def test_rewritten_history_opens_a_segment_and_every_sampled_token_is_trained_once() -> None:
    talk = Talk("<think>hm</think>a<|im_end|>", "b<|im_end|>", template=DROPS_THINKING)
    first = await talk.session.respond([user_message("q")])
    assert first.items == [reasoning("hm"), assistant_message("a")]
    await talk.session.respond([user_message("n")])
    old, new = talk.session.segments
    assert old.sampled_ids == talk.ids("<think>hm</think>a<|im_end|>")
    assert list(new.prompt_ids) == talk.ids(
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nn<|im_end|>\n<|im_start|>assistant\n"
    )
    assert new.sampled_ids == talk.ids("b<|im_end|>")
    assert talk.script.prompts[1] == list(new.prompt_ids)


async def test_an_agent_that_compacts_its_history_goes_on_in_a_segment_of_its_own() -> None:
    talk = Talk("a<|im_end|>", "b<|im_end|>", "c<|im_end|>")
    await talk.session.respond([user_message("q")])
    talk.session.rewrite_history([user_message("summary of q and a")])
    await talk.session.respond([user_message("n")])
    await talk.session.respond([user_message("m")])
    old, new = talk.session.segments
    assert old.sampled_ids == talk.ids("a<|im_end|>")
    assert list(new.prompt_ids) == talk.ids(
        "<|im_start|>user\nsummary of q and a<|im_end|>\n"
        "<|im_start|>user\nn<|im_end|>\n<|im_start|>assistant\n"
    )
    assert new.sampled_ids == talk.ids("b<|im_end|>c<|im_end|>")
    assert talk.script.prompts[2] == [
        *new.prompt_ids,
        *talk.ids("b<|im_end|>\n<|im_start|>user\nm<|im_end|>\n<|im_start|>assistant\n"),
    ]


async def test_a_compacted_history_that_does_not_fit_leaves_the_tokens_as_they_were() -> None:
    talk = Talk("a<|im_end|>", max_context=80)
    await talk.session.respond([user_message("q")])
    (before,) = talk.session.segments
    talk.session.rewrite_history([user_message("long" * 40)])
    assert await talk.session.respond([user_message("n")]) is None
    assert list(talk.session.segments) == [before]


async def test_a_strict_model_refuses_an_agent_that_compacts() -> None:
    talk = Talk("a<|im_end|>", strict=True)
    await talk.session.respond([user_message("q")])
    with pytest.raises(Unsupported, match="one segment a rollout"):
        talk.session.rewrite_history([user_message("q")])


async def test_a_strict_model_refuses_rewritten_history() -> None:
    talk = Talk("<think>hm</think>a<|im_end|>", template=DROPS_THINKING, strict=True)
    await talk.session.respond([user_message("q")])
    with pytest.raises(Unsupported, match="one segment a rollout"):
        await talk.session.respond([user_message("n")])


async def test_a_turn_of_nothing_but_its_end_can_be_answered() -> None:
    talk = Talk("<|im_end|>", "b<|im_end|>")
    turn = await talk.session.respond([user_message("q")])
    assert list(turn.items) == []
    await talk.session.respond([user_message("n")])
    (segment,) = talk.session.segments
    text = "<|im_end|>\n<|im_start|>user\nn<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    assert list(segment.completion_ids) == talk.ids(text)


async def test_an_engine_that_samples_nothing_or_lies_fails_the_model() -> None:
    talk = Talk(Generation([], []))
    with pytest.raises(ModelError, match="sampled nothing"):
        await talk.session.respond([user_message("q")])
    talk = Talk(Generation([1, 2], [-0.1]))
    with pytest.raises(ModelError, match="1 log-probabilities came with them"):
        await talk.session.respond([user_message("q")])


def test_tools_are_refused_where_the_output_format_has_no_calls() -> None:
    talk = Talk()
    talk.model.parser = output_parser(talk.tokenizer, "plain")
    with pytest.raises(Unsupported, match="no tool calls"):
        talk.model.open(tools=[TOOL], sampling=SamplingParams(), request_id="r")


async def test_ids_that_spell_no_canonical_text_stay_as_sampled() -> None:
    """A lone byte of a character, and text that would tokenise otherwise."""
    talk = Talk()
    odd = [talk.ids("é")[0], END]
    talk.script.answers = [Generation(odd, [-1.0, -2.0]), talk.sample("b<|im_end|>")]
    await talk.session.respond([user_message("q")])
    await talk.session.respond([user_message("n")])
    (segment,) = talk.session.segments
    assert list(segment.completion_ids[:2]) == odd
    assert list(segment.logprobs[:2]) == [-1.0, -2.0]


async def test_a_constraint_holds_for_its_own_turn_alone() -> None:
    talk = Talk("a<|im_end|>", "b<|im_end|>", sampling=SamplingParams(extras={"min_p": 0.1}))

    await talk.session.respond([user_message("q")], constraint={"regex": "[ab]"})
    await talk.session.respond([user_message("n")])

    assert [how.extras for how in talk.script.samplings] == [
        {"min_p": 0.1, "regex": "[ab]"},
        {"min_p": 0.1},
    ]


@pytest.mark.parametrize("constraint", [{}, {"pattern": "a"}, {"regex": "a", "grammar": "b"}])
async def test_a_constraint_that_is_none_is_refused_before_anything_is_read(
    constraint: dict[str, str],
) -> None:
    talk = Talk("a<|im_end|>")

    with pytest.raises(InvalidEnvironment, match="one key of json_schema, regex, grammar"):
        await talk.session.respond([user_message("q")], constraint=constraint)

    assert not talk.session.ledger.is_open


async def test_a_turn_is_constrained_by_its_environment_or_by_the_run_not_by_both() -> None:
    talk = Talk("a<|im_end|>", sampling=SamplingParams(extras={"json_schema": {}}))

    with pytest.raises(InvalidConfig, match="by regex, and the sampling settings by json_schema"):
        await talk.session.respond([user_message("q")], constraint={"regex": "a"})
