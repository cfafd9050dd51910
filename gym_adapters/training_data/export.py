"""Files for trainers from stored rollouts, each with a card that says how it was made.

A file is written whole or not at all, and never empty. The card (``FILE.card.json``) names the
source run, what was asked for, how many rollouts went in, how many did not and why, and the
licence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gym_adapters.errors import GymAdaptersError, InvalidConfig, Unsupported, UsageError
from gym_adapters.registry import load_environment
from gym_adapters.training_data.chat_rows import Dialect
from gym_adapters.training_data.collation import agent_named
from gym_adapters.training_data.pass_mark import ROUNDING, PassMark
from gym_adapters.training_data.preferences import (
    Attempt,
    PairFormat,
    PairRule,
    kto_row,
    pair_row,
    pairs,
)
from gym_adapters.training_data.profile import PROFILE, TaskProfile
from gym_adapters.training_data.rows import Row
from gym_adapters.training_data.selection import Selection, Tally, selected
from gym_adapters.training_data.sft import SftShape, sft_row, token_rows
from gym_adapters.training_data.stored import Place, StoredRollouts
from gym_adapters.training_data.written_file import WrittenFile

__all__ = [
    "Export",
    "ExportReport",
    "export_grpo",
    "export_kto",
    "export_pairs",
    "export_sft",
]

_TOOL_RESULTS_TRAINED = (
    "TRL's trainer counts every token after the prompt, tool results and replies included."
)


@dataclass(frozen=True, slots=True)
class Export:
    """What every export needs to know.

    Attributes:
        source: Folder of a run, or file of rollouts (ours or NeMo Gym's).
        output: The file to write.
        selection: Which rollouts.
        overwrite: Whether the file may be replaced.
        licence: SPDX identifier for the card; by default that of the environment's data.
        drop_thinking: Leave out what the model thought.
    """

    source: Path
    output: Path
    selection: Selection = field(default_factory=Selection)
    overwrite: bool = False
    licence: str | None = None
    drop_thinking: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of it: rows written, and what was read and left out."""

    rows: int
    tally: Tally


def export_sft(
    export: Export,
    *,
    dialect: Dialect = Dialect.TRL,
    shape: SftShape = SftShape.PROMPT_COMPLETION,
    tokens: bool = False,
) -> ExportReport:
    """Write rollouts for supervised fine-tuning.

    Args:
        export: Source, file and selection.
        dialect: Whose messages.
        shape: Of TRL's rows.
        tokens: Write token ids and labels, exactly as sampled, in place of messages (TRL only).

    Raises:
        UsageError: If no row is left, the file is there already, or the format can't hold them.
        InvalidRow: If a line of the source is no rollout.
    """
    if tokens and dialect is not Dialect.TRL:
        raise Unsupported(f"{dialect} takes messages, not token ids. Fix: leave out --tokens")
    if dialect is Dialect.NEMO_RL:
        raise Unsupported("NeMo RL reads OpenAI's chat format for SFT. Fix: --format openai")

    def rows(source: StoredRollouts, tally: Tally) -> Iterator[Row]:
        for _, rollout in selected(source, export.selection, tally):
            try:
                if tokens:
                    yield from token_rows(rollout)
                    continue
                row, dropped = sft_row(rollout, dialect, shape, drop_thinking=export.drop_thinking)
            except Unsupported as reason:
                tally.left_out[str(reason)] += 1
                continue
            tally.notes["thinking dropped"] += dropped
            yield row

    kind = "sft-tokens" if tokens else "sft"
    options = {} if tokens or dialect is not Dialect.TRL else {"shape": shape.value}
    return _written(export, kind, dialect.value, rows, options)


def export_pairs(
    export: Export,
    *,
    target: PairFormat = PairFormat.TRL,
    rule: PairRule | None = None,
    kind: str = "dpo",
) -> ExportReport:
    """Write pairs of attempts, for DPO or for a reward model.

    The source is read twice: to choose the pairs, and to write them. About 200 bytes a rollout are
    kept meanwhile.

    Args:
        export: Source, file and selection.
        target: How a pair is written.
        rule: Which attempts make a pair.
        kind: ``dpo`` or ``reward-model``.

    Raises:
        UsageError: As for `export_sft`.
        InvalidRow: If a line of the source is no rollout.
    """
    if kind == "reward-model" and target not in (PairFormat.TRL, PairFormat.NEMO_RL):
        raise Unsupported(f"{target} has no format for reward models. Fix: --format trl")
    chosen_by = rule if rule is not None else PairRule()

    def rows(source: StoredRollouts, tally: Tally) -> Iterator[Row]:
        attempts: defaultdict[str, list[Attempt]] = defaultdict(list)
        for place, rollout in selected(source, export.selection, tally):
            attempts[rollout.task_id].append(Attempt.of(place, rollout))
        for group in attempts.values():
            found = pairs(group, chosen_by)
            if not found:
                tally.left_out["task without a pair: too few attempts, or margins or lengths"] += 1
            for pair in found:
                chosen, rejected = source.at([pair.chosen.place, pair.rejected.place])
                try:
                    yield pair_row(chosen, rejected, target, drop_thinking=export.drop_thinking)
                except Unsupported as reason:
                    tally.left_out[str(reason)] += 1

    options: dict[str, Any] = {"pairs": asdict(chosen_by)}
    if target is PairFormat.TRL:
        options["note"] = _TOOL_RESULTS_TRAINED
    return _written(export, kind, target.value, rows, options)


def export_kto(
    export: Export, *, threshold: float | None = None, min_margin: float = 0.0
) -> ExportReport:
    """Write attempts called desirable or not, for TRL's KTO.

    Args:
        export: Source, file and selection.
        threshold: Least reward of a desirable one; by default what counts as a pass in the run.
        min_margin: An undesirable one lies at least so far below; those between are left out.

    Raises:
        UsageError: As for `export_sft`.
        InvalidRow: If a line of the source is no rollout.
    """
    mark = PassMark.of_source(export.source, threshold)

    def rows(source: StoredRollouts, tally: Tally) -> Iterator[Row]:
        for _, rollout in selected(source, export.selection, tally):
            reward, least = rollout.reward, mark.of(rollout)
            if reward is None or least - min_margin + 2 * ROUNDING < reward < least:
                tally.left_out["between desirable and undesirable"] += 1
                continue
            try:
                row = kto_row(rollout, reward >= least, drop_thinking=export.drop_thinking)
            except Unsupported as reason:
                tally.left_out[str(reason)] += 1
                continue
            tally.notes["desirable" if row["label"] else "undesirable"] += 1
            yield row

    options = {"pass_mark": asdict(mark), "min_margin": min_margin, "note": _TOOL_RESULTS_TRAINED}
    return _written(export, "kto", Dialect.TRL.value, rows, options)


def export_grpo(
    export: Export,
    *,
    dialect: Dialect = Dialect.TRL,
    agent: str | None = None,
    min_pass_rate: float = 0.0,
    max_pass_rate: float = 1.0,
    only_mixed: bool = False,
    threshold: float | None = None,
) -> ExportReport:
    """Write the tasks of a run as rows for more reinforcement learning, labelled by difficulty.

    They are NeMo Gym rows: `trl_spec(tasks=...)`, NeMo RL and NeMo Customizer read them.

    Args:
        export: Source, file and selection.
        dialect: NeMo's demand an ``agent_ref``.
        agent: Name of the agent, for rows that name none.
        min_pass_rate: Leave out harder tasks.
        max_pass_rate: Leave out easier ones.
        only_mixed: Leave out tasks whose attempts all got the same reward: they teach GRPO nothing.
        threshold: Reward that counts as a pass; by default the run's.

    Raises:
        UsageError: As for `export_sft`.
        InvalidRow: If a line of the source is no rollout.
    """
    if dialect is Dialect.OPENAI:
        raise Unsupported("OpenAI takes no environments. Fix: --format trl, or one of NeMo's")
    mark = PassMark.of_source(export.source, threshold)

    def rows(source: StoredRollouts, tally: Tally) -> Iterator[Row]:
        first: dict[str, Place] = {}
        profiles: dict[str, TaskProfile] = {}
        for place, rollout in selected(source, export.selection, tally):
            if rollout.reward is not None:
                first.setdefault(rollout.task_id, place)
                profiles.setdefault(rollout.task_id, TaskProfile()).add(
                    rollout.reward, mark.of(rollout)
                )
        for task_id, place in first.items():
            known = profiles[task_id]
            if not min_pass_rate <= known.pass_rate <= max_pass_rate:
                tally.left_out["task outside of the pass rates"] += 1
            elif only_mixed and known.spread == 0.0:
                tally.left_out["task whose attempts all got the same reward"] += 1
            else:
                row = agent_named(dict(source.at([place])[0].row), agent)
                if dialect is not Dialect.TRL and not row.get("agent_ref"):
                    raise InvalidConfig(f"{dialect} needs an agent_ref in every row. Fix: --agent")
                yield {**row, PROFILE: known.to_json()}

    options = {"pass_mark": asdict(mark), "pass_rates": [min_pass_rate, max_pass_rate]}
    return _written(export, "grpo", dialect.value, rows, {**options, "only_mixed": only_mixed})


def _written(
    export: Export,
    kind: str,
    target: str,
    rows: Callable[[StoredRollouts, Tally], Iterator[Row]],
    options: Mapping[str, Any],
) -> ExportReport:
    source, tally = StoredRollouts(export.source), Tally()
    if source.holds(export.output):
        raise InvalidConfig(f"{export.output} holds the rollouts themselves: name another file")
    with WrittenFile(export.output, overwrite=export.overwrite) as file:
        for row in rows(source, tally):
            file.write(row)
        if not file.rows:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in tally.left_out.most_common())
            raise UsageError(
                f"no row is left of {tally.read} rollouts ({reasons or 'there are none'}), so "
                f"{export.output} is not written"
            )
        file.describe(
            {
                "kind": kind,
                "format": target,
                "source": _source_facts(source),
                "selection": export.selection.to_json(),
                "options": {**options, "drop_thinking": export.drop_thinking},
                "counts": tally.to_json(),
                "licence": export.licence or _licence(source),
            }
        )
    return ExportReport(file.rows, tally)


def _source_facts(source: StoredRollouts) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(source.path)}
    if source.manifest is not None:
        kept = ("environment", "environment_version", "model", "template_hash", "seed", "input")
        data = source.manifest.to_json()
        facts |= {key: data[key] for key in (*kept, "library_version", "sessions")}
    return facts


def _licence(source: StoredRollouts) -> str | None:
    """That of the environment's own data, where the run used no other rows."""
    manifest = source.manifest
    if manifest is None:
        return None
    try:
        entry = load_environment(manifest.environment)
    except (GymAdaptersError, ImportError):
        return None
    own = manifest.input.startswith("generated: ") or manifest.input == str(entry.example_path)
    return entry.card.licence if own and entry.card is not None else None
