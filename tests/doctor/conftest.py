"""Models on disk, good ones and ones with something wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra gym-adapters[transformers]")
pytest.importorskip("torch", reason="needs the extra gym-adapters[transformers]")

from gym_adapters.doctor.machine import GIB, Machine
from gym_adapters.testing.tiny_model import tiny_policy

MakeModel = Callable[..., Path]

# Thinking before the last question of the user is left out, as several families do it.
DROPS_THINKING = """\
{%- set last = namespace(user=0) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content and loop.index0 > last.user %}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{{- (m.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# Says that calls look one way and writes them in another.
WRITES_OTHER_CALLS = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) }}
{{- 'Call as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}{% endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') }}
{%- for c in m.tool_calls or [] %}
{{- '<call ' + c.function.name + '>' + (c.function.arguments | tojson) + '</call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

SHOWS_NO_TOOLS = """\
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

ENDS_NO_TURN = """\
{%- for m in messages %}{{ m.role + ': ' + (m.content or '') + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""

# As GLM writes: what opens the next turn ends this one.
ENDS_WITH_THE_NEXT = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

REFUSES_QUESTIONS = """\
{%- if messages[-1].role == 'user' and messages | length > 1 %}
{{- raise_exception('no') }}{% endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + (m.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATES = {
    "ends with the next": ENDS_WITH_THE_NEXT,
    "refuses questions": REFUSES_QUESTIONS,
    "drops thinking": DROPS_THINKING,
    "writes other calls": WRITES_OTHER_CALLS,
    "shows no tools": SHOWS_NO_TOOLS,
    "ends no turn": ENDS_NO_TURN,
}


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A copy of the tiny policy, with keys of its JSON files changed; ``None`` takes a key out."""

    def make(
        *,
        template: str | None = None,
        config: dict[str, Any] | None = None,
        generation: dict[str, Any] | None = None,
        tokenizer: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.glob('model-*')))}"
        shutil.copytree(tiny_policy().model_path, folder)
        changes = {
            "config.json": config,
            "generation_config.json": generation,
            "tokenizer_config.json": tokenizer,
        }
        for name, changed in changes.items():
            if changed:
                data = json.loads((folder / name).read_text())
                data.update(changed)
                kept = {key: value for key, value in data.items() if value is not None}
                (folder / name).write_text(json.dumps(kept))
        if template is not None:
            (folder / "chat_template.jinja").write_text(TEMPLATES[template])
        return folder

    return make


@pytest.fixture
def machine() -> Machine:
    """One good GPU."""
    return Machine((("a GPU", 80 * GIB),), 64 * GIB, 8, "2.13.0+cu130", False, {}, None)
