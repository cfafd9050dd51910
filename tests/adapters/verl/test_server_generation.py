from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gym_adapters.adapters.verl.server_generation import ServerGenerator
from gym_adapters.errors import ModelError, Unsupported
from gym_adapters.generation.protocol import SamplingParams, TokenGenerator


@dataclass
class Output:
    token_ids: list[int] = field(default_factory=lambda: [5, 6])
    log_probs: list[float] | None = field(default_factory=lambda: [-0.1, -0.2])
    stop_reason: str | None = "completed"
    num_preempted: int | None = None
    extra_fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Manager:
    outputs: list[Output]
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Output:
        self.asked.append({"id": request_id, "prompt": prompt_ids, **sampling_params})
        return self.outputs.pop(0)


async def turn(generator: ServerGenerator, **sampling: Any) -> Any:
    return await generator.generate((1, 2), SamplingParams(**sampling), request_id="r")


async def test_a_turn_is_passed_on_to_the_token() -> None:
    manager = Manager([Output()])
    generator = ServerGenerator(manager, fallback_version=4)
    assert isinstance(generator, TokenGenerator)
    generation = await turn(
        generator, max_tokens=9, temperature=0.5, stop_token_ids=(7,), seed=3, stop=("END",)
    )
    assert (generation.token_ids, generation.logprobs) == ([5, 6], [-0.1, -0.2])
    # verl says "completed" for a turn that its budget cut too.
    assert generation.finish_reason is None
    assert manager.asked == [
        {
            "id": "r",
            "prompt": [1, 2],
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": -1,
            "logprobs": True,
            "stop_token_ids": [7],
            "max_tokens": 9,
            "stop": ["END"],
            "seed": 3,
        }
    ]


async def test_versions_are_gathered_over_the_turns() -> None:
    resumed = {"global_steps": 6, "min_global_steps": 5, "max_global_steps": 6}
    outputs = [Output(extra_fields={"global_steps": 4}), Output(extra_fields=resumed), Output()]
    generator = ServerGenerator(Manager(outputs), fallback_version=8)
    stamped = [(await turn(generator)).weights_version for _ in range(3)]
    assert stamped == [4, 6, 8]
    assert (min(generator.versions), max(generator.versions)) == (4, 8)


async def test_preemptions_are_added_up_where_they_are_told() -> None:
    generator = ServerGenerator(
        Manager([Output(), Output(num_preempted=2), Output(num_preempted=1)]), fallback_version=0
    )
    await turn(generator)
    assert generator.preempted is None
    await turn(generator)
    await turn(generator)
    assert generator.preempted == 3


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (Output(log_probs=None), "calculate_log_probs=True"),
        (Output(log_probs=[-0.1]), "1 log-probabilities for 2 tokens"),
        (Output(stop_reason="aborted"), "aborted"),
    ],
)
async def test_what_can_not_be_trained_on_is_a_failure_of_the_model(
    output: Output, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        await turn(ServerGenerator(Manager([output]), fallback_version=0))


async def test_media_is_refused() -> None:
    generator = ServerGenerator(Manager([]), fallback_version=0)
    with pytest.raises(Unsupported, match="text only"):
        await generator.generate((1,), SamplingParams(), request_id="r", media=[{}])


async def test_a_constraint_is_refused() -> None:
    manager = Manager([Output()])
    with pytest.raises(Unsupported, match="regex"):
        await turn(ServerGenerator(manager, fallback_version=4), extras={"regex": "a"})
    assert manager.asked == []
