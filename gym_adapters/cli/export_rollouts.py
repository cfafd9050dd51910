"""``gym-adapters export sft|dpo|kto|reward-model|grpo``: files made from stored rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gym_adapters.training_data.export import Export, ExportReport

__all__ = ["add_rollout_exports"]

SELECTION, PAIRS = "Which rollouts", "Which pairs"

Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a run, or a file of rollouts (ours or NeMo Gym's)."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.JSONL")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file.")]
Licence = Annotated[
    str | None, typer.Option(help="SPDX identifier for the card. Default: the environment's.")
]
DropThinking = Annotated[
    bool, typer.Option("--drop-thinking", help="Leave out what the model thought.")
]
MinReward = Annotated[float | None, typer.Option(rich_help_panel=SELECTION, help="Least reward.")]
MaxReward = Annotated[
    float | None, typer.Option(rich_help_panel=SELECTION, help="Greatest reward.")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=SELECTION, help="Most sampled tokens.")
]
KeepTruncated = Annotated[
    bool,
    typer.Option(
        "--keep-truncated", rich_help_panel=SELECTION, help="Also attempts that a budget cut."
    ),
]
NoToolErrors = Annotated[
    bool,
    typer.Option(
        "--no-tool-errors", rich_help_panel=SELECTION, help="No attempts with a failed tool call."
    ),
]
NearDuplicates = Annotated[
    float | None,
    typer.Option(
        "--near-duplicates",
        metavar="SIMILARITY",
        rich_help_panel=SELECTION,
        help="Leave out attempts this similar to another at the same task (0.9, say): Jaccard "
        "similarity of three-word runs, by MinHash.",
    ),
]
TaskShare = Annotated[
    tuple[float, float],
    typer.Option(
        metavar="FROM TO",
        rich_help_panel=SELECTION,
        help="Tasks of this share only, by a hash of their ids: 0 0.9 for training, 0.9 1 for "
        "validation.",
    ),
]
MinMargin = Annotated[
    float, typer.Option(min=0.0, rich_help_panel=PAIRS, help="Least difference of rewards.")
]


def sft_command(
    run: Run,
    output: Output,
    form: Annotated[str, typer.Option("--format", help="trl, nemo-customizer or openai.")] = "trl",
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens", help="Token ids and labels as sampled: nothing is rendered again."
        ),
    ] = False,
    shape: Annotated[
        str, typer.Option(help="Of TRL's rows: prompt-completion or messages.")
    ] = "prompt-completion",
    min_reward: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=SELECTION,
            help="Least reward. Default: what counts as a pass in the run.",
        ),
    ] = None,
    max_reward: MaxReward = None,
    max_tokens: MaxTokens = None,
    per_task: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=SELECTION, help="Most attempts at one task."),
    ] = None,
    keep_truncated: KeepTruncated = False,
    no_tool_errors: NoToolErrors = False,
    near_duplicates: NearDuplicates = None,
    task_share: TaskShare = (0.0, 1.0),
    drop_thinking: DropThinking = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write good attempts for supervised fine-tuning.

    For example

      [bold]gym-adapters export sft run/ -o sft.jsonl[/]
      Chat messages with tools and tool results, for TRL with assistant_only_loss=True.

      [bold]gym-adapters export sft run/ -o sft.jsonl --tokens[/]
      The very tokens that were sampled, with labels: TRL takes them as they are.
    """
    from gym_adapters.training_data.chat_rows import Dialect
    from gym_adapters.training_data.export import Export, export_sft
    from gym_adapters.training_data.pass_mark import PassMark
    from gym_adapters.training_data.selection import Selection
    from gym_adapters.training_data.sft import SftShape

    selection = Selection(
        min_reward=min_reward,
        max_reward=max_reward,
        max_tokens=max_tokens,
        truncated=keep_truncated,
        tool_errors=not no_tool_errors,
        near_duplicates=near_duplicates,
        per_task=per_task,
        task_share=task_share,
        passes=PassMark.of_source(run) if min_reward is None else None,
    )
    export = Export(run, output, selection, overwrite, licence, drop_thinking)
    dialect = Dialect(_one_of(form, "trl", "nemo-customizer", "openai"))
    kind = SftShape(_one_of(shape, *SftShape))
    _tell(export, export_sft(export, dialect=dialect, shape=kind, tokens=tokens))


def dpo_command(
    run: Run,
    output: Output,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="trl, openai, nemo-customizer, nemo-customizer-tulu3 or nemo-rl."
        ),
    ] = "trl",
    pairs_per_task: Annotated[
        int, typer.Option(min=1, rich_help_panel=PAIRS, help="Most; those of greatest margin.")
    ] = 1,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", rich_help_panel=PAIRS, help="All pairs of a task.")
    ] = False,
    min_margin: MinMargin = 0.0,
    length_ratio: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            rich_help_panel=PAIRS,
            help="Most that one side may be as a multiple of the other's length.",
        ),
    ] = None,
    min_reward: MinReward = None,
    max_reward: MaxReward = None,
    max_tokens: MaxTokens = None,
    keep_truncated: KeepTruncated = False,
    no_tool_errors: NoToolErrors = False,
    near_duplicates: NearDuplicates = None,
    task_share: TaskShare = (0.0, 1.0),
    drop_thinking: DropThinking = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write pairs of attempts at one task, the better against the worse, for DPO.

    The prompt is kept whole, with all turns that both attempts have in common.

    For example

      [bold]gym-adapters export dpo run/ -o dpo.jsonl --length-ratio 1.3[/]
      Of each task the best against the worst, where neither is much longer.
    """
    export = _export(
        run,
        output,
        (min_reward, max_reward, max_tokens),
        (keep_truncated, no_tool_errors),
        near_duplicates,
        task_share,
        (drop_thinking, licence, overwrite),
    )
    _pairs(export, form, "dpo", None if all_pairs else pairs_per_task, min_margin, length_ratio)


def reward_model_command(
    run: Run,
    output: Output,
    form: Annotated[str, typer.Option("--format", help="trl or nemo-rl.")] = "trl",
    pairs_per_task: Annotated[
        int, typer.Option(min=1, rich_help_panel=PAIRS, help="Most; those of greatest margin.")
    ] = 1,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", rich_help_panel=PAIRS, help="All pairs of a task.")
    ] = False,
    min_margin: MinMargin = 0.0,
    length_ratio: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            rich_help_panel=PAIRS,
            help="Most that one side may be as a multiple of the other's length.",
        ),
    ] = None,
    keep_truncated: KeepTruncated = False,
    near_duplicates: NearDuplicates = None,
    task_share: TaskShare = (0.0, 1.0),
    drop_thinking: DropThinking = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write pairs of attempts for training a reward model.

    For example

      [bold]gym-adapters export reward-model run/ -o pairs.jsonl --all-pairs --min-margin 0.2[/]
    """
    export = _export(
        run,
        output,
        (None, None, None),
        (keep_truncated, False),
        near_duplicates,
        task_share,
        (drop_thinking, licence, overwrite),
    )
    per_task = None if all_pairs else pairs_per_task
    _pairs(export, form, "reward-model", per_task, min_margin, length_ratio)


def kto_command(
    run: Run,
    output: Output,
    form: Annotated[str, typer.Option("--format", help="trl; no other trainer has it.")] = "trl",
    threshold: Annotated[
        float | None,
        typer.Option(help="Least reward of a desirable attempt. Default: a pass in the run."),
    ] = None,
    min_margin: MinMargin = 0.0,
    max_tokens: MaxTokens = None,
    keep_truncated: KeepTruncated = False,
    no_tool_errors: NoToolErrors = False,
    near_duplicates: NearDuplicates = None,
    task_share: TaskShare = (0.0, 1.0),
    drop_thinking: DropThinking = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write attempts called desirable or undesirable, for KTO.

    For example

      [bold]gym-adapters export kto run/ -o kto.jsonl[/]
    """
    from gym_adapters.training_data.export import export_kto

    _one_of(form, "trl")
    export = _export(
        run,
        output,
        (None, None, max_tokens),
        (keep_truncated, no_tool_errors),
        near_duplicates,
        task_share,
        (drop_thinking, licence, overwrite),
    )
    _tell(export, export_kto(export, threshold=threshold, min_margin=min_margin))


def grpo_command(
    run: Run,
    output: Output,
    form: Annotated[str, typer.Option("--format", help="trl, nemo-customizer or nemo-rl.")] = "trl",
    agent: Annotated[
        str | None, typer.Option(help="NeMo Gym agent of the rows that name none.")
    ] = None,
    min_pass_rate: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.0,
    max_pass_rate: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    only_mixed: Annotated[
        bool,
        typer.Option("--only-mixed", help="No tasks whose attempts all got the same reward."),
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Reward that counts as a pass. Default: that of the run.")
    ] = None,
    task_share: TaskShare = (0.0, 1.0),
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the tasks of a run, with how often they were solved, for reinforcement learning.

    For example

      [bold]gym-adapters export grpo run/ -o train.jsonl --only-mixed[/]
    """
    from gym_adapters.training_data.chat_rows import Dialect
    from gym_adapters.training_data.export import export_grpo

    export = _export(
        run,
        output,
        (None, None, None),
        (True, False),
        None,
        task_share,
        (False, licence, overwrite),
    )
    report = export_grpo(
        export,
        dialect=Dialect(_one_of(form, "trl", "nemo-customizer", "nemo-rl")),
        agent=agent,
        min_pass_rate=min_pass_rate,
        max_pass_rate=max_pass_rate,
        only_mixed=only_mixed,
        threshold=threshold,
    )
    _tell(export, report)


def add_rollout_exports(app: typer.Typer) -> None:
    """Add the commands to ``gym-adapters export``."""
    app.command("sft")(sft_command)
    app.command("dpo")(dpo_command)
    app.command("kto")(kto_command)
    app.command("reward-model")(reward_model_command)
    app.command("grpo")(grpo_command)


def _export(
    run: Path,
    output: Path,
    bounds: tuple[float | None, float | None, int | None],
    flags: tuple[bool, bool],
    near_duplicates: float | None,
    task_share: tuple[float, float],
    writing: tuple[bool, str | None, bool],
) -> Export:
    from gym_adapters.training_data.export import Export
    from gym_adapters.training_data.selection import Selection

    min_reward, max_reward, max_tokens = bounds
    truncated, no_tool_errors = flags
    drop_thinking, licence, overwrite = writing
    selection = Selection(
        min_reward,
        max_reward,
        max_tokens,
        truncated,
        not no_tool_errors,
        near_duplicates,
        task_share=task_share,
    )
    return Export(run, output, selection, overwrite, licence, drop_thinking)


def _pairs(
    export: Export,
    form: str,
    kind: str,
    per_task: int | None,
    min_margin: float,
    length_ratio: float | None,
) -> None:
    from gym_adapters.training_data.export import export_pairs
    from gym_adapters.training_data.preferences import PairFormat, PairRule

    target = PairFormat(_one_of(form, *PairFormat))
    rule = PairRule(per_task, min_margin, length_ratio)
    _tell(export, export_pairs(export, target=target, rule=rule, kind=kind))


def _one_of(text: str, *known: str) -> str:
    from gym_adapters.errors import InvalidConfig

    if text not in known:
        raise InvalidConfig(f"{text!r} is not among what this command writes: {', '.join(known)}")
    return text


def _tell(export: Export, report: ExportReport) -> None:
    from gym_adapters.training_data.written_file import card_path

    print(f"{report.rows} rows of {report.tally.read} rollouts written to {export.output}")
    for reason, count in report.tally.left_out.most_common():
        print(f"  left out: {count} ({reason})")
    for what, count in report.tally.notes.most_common():
        if count:
            print(f"  {what}: {count}")
    print(f"card: {card_path(export.output)}")
