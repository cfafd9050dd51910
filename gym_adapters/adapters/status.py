"""What works where, as one table: the capability matrix, and what else one asks of a trainer.

`status_page` makes docs/status.md of it. What is said to be tested names its test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gym_adapters.adapters.capabilities import CARRIES, Adapter, Feature
from gym_adapters.adapters.trl.version import TESTED as TRL_TESTED, WITH_UNSLOTH
from gym_adapters.adapters.unsloth.version import TESTED as UNSLOTH_TESTED
from gym_adapters.adapters.verl.version import TESTED as VERL_TESTED

__all__ = ["RUNS", "Run", "Standing", "Trainer", "status_page", "versions"]


class Trainer(StrEnum):
    """A column of the page."""

    TRL = "TRL GRPO"
    TRL_ASYNC = "TRL async GRPO"
    UNSLOTH = "Unsloth"
    VERL = "verl"
    NEMO_RL = "NeMo RL, exact"
    NEMO_RL_NATIVE = "NeMo RL, native"
    OFFLINE = "files"


_ADAPTERS: Mapping[Trainer, Adapter] = {
    Trainer.TRL: Adapter.TRL_ROLLOUT,
    Trainer.TRL_ASYNC: Adapter.TRL_ASYNC,
    # TRL's trainer, rewritten: what it carries is what our rollout function carries.
    Trainer.UNSLOTH: Adapter.TRL_ROLLOUT,
    Trainer.VERL: Adapter.VERL,
    Trainer.NEMO_RL: Adapter.NEMO_RL,
    Trainer.NEMO_RL_NATIVE: Adapter.NEMO_RL_NATIVE,
    Trainer.OFFLINE: Adapter.OFFLINE,
}


class Run(StrEnum):
    """What one asks of a training run, besides what its rollouts may be."""

    PARITY = "proved to the token by `gym-adapters check`"
    VLLM = "samples with the trainer's own vLLM"
    ASYNC = "samples while it trains"
    LORA = "LoRA"
    AGENT = "an agent that is not ours (`GatewayAgent`)"
    PROCESSES = "several GPUs or nodes"
    TRAINED = "a whole training run in the tests"


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand with one of them.

    Attributes:
        says: What the table says.
        test: ``file::function`` below tests/ that shows it; ``None`` where none does.
    """

    says: str
    test: str | None = None


_PARITY = "adapters/test_parity.py::test_each_shape_is_received_as_it_was_or_refused"
_NOT_RUN = Standing("the trainer's own; not run here")
_NOTHING_SAMPLED = Standing("does not apply")

RUNS: Mapping[Run, Mapping[Trainer, Standing]] = {
    Run.PARITY: {
        Trainer.TRL: Standing("yes", _PARITY),
        Trainer.TRL_ASYNC: Standing("yes", _PARITY),
        Trainer.UNSLOTH: Standing("through TRL"),
        Trainer.VERL: Standing("yes", _PARITY),
        Trainer.NEMO_RL: Standing("yes, with a checkout", _PARITY),
        Trainer.NEMO_RL_NATIVE: Standing(
            "no: it sees decoded text. Rewards are the same, and tokens that differ are told",
            "adapters/nemo_rl/test_checkout.py"
            "::test_the_native_path_gives_the_rewards_of_our_agent_and_tells_where_tokens_differ",
        ),
        Trainer.OFFLINE: Standing("yes", _PARITY),
    },
    Run.VLLM: {
        Trainer.TRL: Standing(
            "yes: colocated or served",
            "adapters/trl/test_colocated_vllm.py"
            "::test_grpo_trains_on_what_its_colocated_engine_sampled",
        ),
        Trainer.TRL_ASYNC: Standing(
            "yes: served",
            "adapters/trl/test_served_vllm.py"
            "::test_async_grpo_trains_on_what_its_server_samples_meanwhile",
        ),
        Trainer.UNSLOTH: Standing(
            "yes: `fast_inference`",
            "adapters/unsloth/test_rewritten.py"
            "::test_rollouts_are_sampled_from_the_adapters_after_every_update",
        ),
        Trainer.VERL: Standing("yes, through its server manager; tested over a CPU replica"),
        Trainer.NEMO_RL: Standing(
            "yes: its HTTP servers",
            "adapters/nemo_rl/test_vllm_server.py"
            "::test_every_turn_reads_the_ledgers_tokens_and_gives_the_models_own_logprobs",
        ),
        Trainer.NEMO_RL_NATIVE: Standing("NeMo RL samples, with any engine it has"),
        Trainer.OFFLINE: _NOTHING_SAMPLED,
    },
    Run.ASYNC: {
        Trainer.TRL: Standing("no: use TRL async GRPO"),
        Trainer.TRL_ASYNC: Standing(
            "yes",
            "adapters/trl/test_served_vllm.py"
            "::test_async_grpo_trains_on_what_its_server_samples_meanwhile",
        ),
        Trainer.UNSLOTH: Standing("no"),
        Trainer.VERL: Standing("V1's asynchronous modes: the trainer's own; not run here"),
        Trainer.NEMO_RL: _NOT_RUN,
        Trainer.NEMO_RL_NATIVE: _NOT_RUN,
        Trainer.OFFLINE: _NOTHING_SAMPLED,
    },
    Run.LORA: {
        Trainer.TRL: _NOT_RUN,
        Trainer.TRL_ASYNC: _NOT_RUN,
        Trainer.UNSLOTH: Standing(
            "yes",
            "adapters/unsloth/test_trainers.py"
            "::test_grpo_samples_from_the_adapters_and_trains_them_alone",
        ),
        Trainer.VERL: _NOT_RUN,
        Trainer.NEMO_RL: _NOT_RUN,
        Trainer.NEMO_RL_NATIVE: _NOT_RUN,
        Trainer.OFFLINE: Standing("whatever trains on them"),
    },
    Run.AGENT: {
        Trainer.TRL: Standing(
            "yes, in environments without replies",
            "adapters/trl/test_foreign_agent.py::test_langgraphs_prebuilt_agent_is_trained",
        ),
        Trainer.TRL_ASYNC: Standing(
            "yes, in environments without replies",
            "adapters/trl/test_async_worker.py::test_a_foreign_agents_tokens_are_samples",
        ),
        Trainer.UNSLOTH: Standing("through TRL; not run here"),
        Trainer.VERL: Standing(
            "yes, in environments without replies",
            "adapters/verl/test_agent_loop.py::test_a_foreign_agents_tokens_are_rows",
        ),
        Trainer.NEMO_RL: Standing("no"),
        Trainer.NEMO_RL_NATIVE: Standing("no: NeMo RL samples each turn itself"),
        Trainer.OFFLINE: Standing("yes, as `collect` takes it"),
    },
    Run.PROCESSES: {
        Trainer.TRL: Standing(
            "`accelerate launch`, tested with two CPU processes",
            "adapters/trl/test_two_processes.py"
            "::test_two_processes_split_every_group_and_learn_the_same",
        ),
        Trainer.TRL_ASYNC: _NOT_RUN,
        Trainer.UNSLOTH: Standing("no: Unsloth shares vLLM on one GPU"),
        Trainer.VERL: _NOT_RUN,
        Trainer.NEMO_RL: _NOT_RUN,
        Trainer.NEMO_RL_NATIVE: _NOT_RUN,
        Trainer.OFFLINE: Standing("whatever trains on them"),
    },
    Run.TRAINED: {
        Trainer.TRL: Standing(
            "yes, on CPU",
            "adapters/trl/test_colocated_vllm.py"
            "::test_grpo_trains_on_what_its_colocated_engine_sampled",
        ),
        Trainer.TRL_ASYNC: Standing(
            "yes, on CPU",
            "adapters/trl/test_async_training.py"
            "::test_async_grpo_trains_on_the_ledger_and_agrees_with_its_probabilities",
        ),
        Trainer.UNSLOTH: Standing(
            "yes, on its CPU backend",
            "adapters/unsloth/test_trainers.py"
            "::test_grpo_samples_from_the_adapters_and_trains_them_alone",
        ),
        Trainer.VERL: Standing(
            "yes, on CPU",
            "adapters/verl/test_training.py::test_grpo_trains_on_what_was_sampled",
        ),
        Trainer.NEMO_RL: Standing("no: NeMo RL trains on GPUs only"),
        Trainer.NEMO_RL_NATIVE: Standing("no: NeMo RL trains on GPUs only"),
        Trainer.OFFLINE: Standing("yes, with TRL's SFT and DPO on CPU"),
    },
}
"""Nothing of this has been run on a GPU."""


def versions() -> dict[Trainer, str]:
    """What each adapter was tested with."""
    trl = f"TRL {_dotted(TRL_TESTED)}"
    nemo_rl = "NeMo RL 7ea279a (August 2026)"
    return {
        Trainer.TRL: trl,
        Trainer.TRL_ASYNC: trl,
        Trainer.UNSLOTH: f"Unsloth {_dotted(UNSLOTH_TESTED)}, {trl} and {_dotted(WITH_UNSLOTH)}",
        Trainer.VERL: f"verl {_dotted(VERL_TESTED)}",
        Trainer.NEMO_RL: nemo_rl,
        Trainer.NEMO_RL_NATIVE: nemo_rl,
        Trainer.OFFLINE: "",
    }


def status_page() -> str:
    """The tables of docs/status.md, as Markdown, and the reasons for each "no"."""
    notes: dict[str, int] = {}
    rows = [["tested with", *versions().values()]]
    rows += [[run.value, *(RUNS[run][each].says for each in Trainer)] for run in Run]
    for feature in Feature:
        rows.append([feature.value, *(_carriage(each, feature, notes) for each in Trainer)])
    rows.append(
        ["a failed rollout", *(CARRIES[_ADAPTERS[each]].failed_rollout for each in Trainer)]
    )
    reasons = [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join([*_table(["", *Trainer], rows), "", "Why not:", "", *reasons])


def _carriage(trainer: Trainer, feature: Feature, notes: dict[str, int]) -> str:
    carriage = CARRIES[_ADAPTERS[trainer]].features[feature]
    if carriage.carried:
        return f"yes; {carriage.note}" if carriage.note else "yes"
    return f"refused ({notes.setdefault(carriage.note, len(notes) + 1)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
