"""The rollouts that the exact path must give: our agent and ledger, over a scripted generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from scripted_policy import logprobs, said

from gym_adapters import Episode, EpisodeLimits, Task, load_environment
from gym_adapters.agents.tool_agent import ToolAgent
from gym_adapters.generation.protocol import Generation, SamplingParams
from gym_adapters.generation.token_chat import TokenChatModel
from gym_adapters.rollout import Rollout
from gym_adapters.testing import ScriptedGenerator
from gym_adapters.tokens.output_parser import output_parser
from gym_adapters.tokens.template_renderer import TemplateRenderer


def generator(tokenizer: Any) -> ScriptedGenerator:
    def script(prompt_ids: Sequence[int], request_id: str, turn: int) -> Generation:
        ids = said(tokenizer, prompt_ids, request_id)
        reason = "stop" if ids[-1] == tokenizer.eos_token_id else "length"
        return Generation(ids, logprobs(ids), finish_reason=reason)  # type: ignore[arg-type]

    return ScriptedGenerator(script)


async def rollouts(
    tokenizer: Any,
    environment: str,
    tasks: Sequence[Task],
    *,
    names: Sequence[str] | None = None,
    call: int = 0,
) -> list[Rollout]:
    """One rollout a task, in order, by default named as the actor's first call names them."""
    entry = load_environment(environment)
    model = TokenChatModel(
        generator(tokenizer),
        TemplateRenderer(tokenizer),
        output_parser(tokenizer),
        name="policy",
        max_context=4096,
        strict=True,
    )
    seed = int.from_bytes(blake2b(f"0:{call}".encode(), digest_size=6).digest())
    seen: Counter[str] = Counter()
    made = []
    for row, task in enumerate(tasks):
        card = entry.card
        episode = Episode(
            entry.environment,
            task,
            config=entry.config(),
            seed=seed,
            rollout_index=seen[task.task_id],
            limits=EpisodeLimits(max_turns=card.budget.max_turns if card else 32),
        )
        seen[task.task_id] += 1
        made.append(
            await ToolAgent().run(
                episode,
                model,
                sampling=SamplingParams(max_tokens=200),
                request_id=f"{call}-{row}" if names is None else names[row],
            )
        )
    return made


def stamped(rows: Sequence[dict[str, Any]], generations: int = 1) -> list[dict[str, Any]]:
    """Rows as NeMo RL gives them to the actor."""
    out: list[dict[str, Any]] = []
    for row in rows:
        for _ in range(generations):
            params = {
                **row["responses_create_params"],
                "temperature": 1.0,
                "top_p": 1.0,
                "max_output_tokens": 200,
            }
            out.append({**row, "responses_create_params": params, "_rowidx": len(out)})
    return out
