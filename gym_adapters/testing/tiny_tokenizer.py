"""A byte-level tokenizer with a Qwen-style chat template, made in place: nothing is downloaded.

Every byte is one token and every control word is one token, so any text round-trips and a tiny
model has few embeddings to learn. The template follows Hermes and Qwen in how turns, tool calls and
tool results are written, with one difference: tools are declared by name and parameter names alone,
because a model that pays for every character can't afford their JSON schemas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gym_adapters.extras import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "CONTROL_TOKENS", "tiny_tokenizer"]

PAD, TURN_START, TURN_END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# As in Qwen's own tokenizers these are single tokens, yet survive skip_special_tokens=True.
MARKERS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
CONTROL_TOKENS = (PAD, TURN_START, TURN_END, *MARKERS)

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content or [] -%}{{- part.text -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set opening = namespace(system='') -%}
{%- if messages and messages[0].role in ('system', 'developer') -%}
{%- set opening.system = text(messages[0].content) -%}
{%- endif -%}
{%- if opening.system or tools -%}
{{- '<|im_start|>system\\n' + opening.system -}}
{%- if tools -%}
{{- '\\nTools:' if opening.system else 'Tools:' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- ' ' + function.name + '(' -}}
{%- set parameters = (function.parameters or {}).get('properties', {}) -%}
{{- parameters.keys() | join(', ') + ')' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{%- if message.reasoning_content -%}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n' -}}
{%- endif -%}
{%- set said = text(message.content) -%}
{{- said -}}
{%- for tool_call in message.tool_calls or [] -%}
{%- set call = tool_call.function if tool_call.function is defined else tool_call -%}
{{- '\\n' if said or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": ' + call.name | tojson + ', "arguments": ' -}}
{{- call.arguments if call.arguments is string else call.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + text(message.content) -}}
{{- '\\n</tool_response><|im_end|>\\n' -}}
{%- elif not (loop.first and message.role in ('system', 'developer')) -%}
{{- '<|im_start|>' + message.role + '\\n' + text(message.content) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# How `parse_response` of transformers reads a sampled turn back; TRL's own tool loop needs it.
RESPONSE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "role": {"const": "assistant"},
        "reasoning_content": {"type": "string", "x-regex": r"^<think>\n?(.*?)\n?</think>"},
        "content": {
            "type": "string",
            "x-regex": r"^(?:<think>.*?</think>\n?)?(.*?)\n?(?:<tool_call>|<\|im_end\|>|\Z)",
        },
        "tool_calls": {
            "type": "array",
            "x-regex-iterator": r"<tool_call>((?:(?!</?tool_call>).)+)</tool_call>",
            "items": {
                "type": "object",
                "x-parser": "json",
                "x-parser-args": {"transform": "{type: 'function', function: @}"},
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "arguments": {"type": "object", "additionalProperties": {}},
                        },
                        "required": ["name", "arguments"],
                    },
                },
            },
        },
    },
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer of one token a byte plus `CONTROL_TOKENS`; 265 ids in all.

    Its chat template takes tools (Responses or chat shape), tool calls, tool results and
    ``reasoning_content``, preserves prefixes, and marks the assistant's tokens for
    ``return_assistant_tokens_mask``. ``<|im_end|>`` ends a turn and the text; padding has its own
    id. ``save_pretrained`` keeps all of it.

    Raises:
        MissingExtra: Without transformers.
    """
    require("transformers", "transformers", "the tiny tokenizer")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in (PAD, TURN_START, TURN_END)]
    )
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKERS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[TURN_START],
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        response_schema=RESPONSE_SCHEMA,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
