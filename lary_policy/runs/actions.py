"""Regression probes: actions from what changed between two frames, or from the present one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lary_policy.actions import (
    ActionContract,
    ActionStats,
    Embodiment,
    RobotStatistics,
    Scaling,
    Unknown,
    action_target,
    build_targets,
    fit_scaling,
    load_embodiment,
    target_embodiment,
)
from lary_policy.data import PairTable
from lary_policy.data.larybench import NO_COLUMN, read_statistics
from lary_policy.errors import ConfigError, DatasetError, EmbodimentError
from lary_policy.heads import save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.latents import Bank
from lary_policy.machine import is_main_process
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.probe import Probing, sample_scores
from lary_policy.runs.rows import count_rows
from lary_policy.scores import ActionEvaluation, estimates, evaluate_action

# Which of the targets the two kinds of files are of; the reference has no statistics of others.
RELATIVE = {"absolute": False, "displacement": True}


def given_scaling(config: RunConfig, data: RunData, target: str) -> Scaling | None:
    """Return the statistics that the run was given, or None if it was given none.

    Rows of unknown robot types are treated as everywhere: under `lary` they stay as they are, under `native`
    they are an error or pooled.

    Raises:
        EmbodimentError: The file is missing, damaged, or of another dataset, target or action layout.
    """
    path, embodiment = config.statistics, data.spec.embodiment
    if path is None or embodiment is None:
        return None
    if target not in RELATIVE:
        raise EmbodimentError(
            expected=f"a target that statistics files are of: {', '.join(RELATIVE)}",
            got=f"target {target} with statistics={path}",
            fix="Pass targets=[absolute], or leave statistics out to take those of the training split.",
        )
    unknown: Unknown = "identity" if data.protocol == "lary" else config.unknown_robots  # type: ignore[assignment]
    found = read_statistics(
        path,
        dataset=data.name,
        action_dim=target_embodiment(load_embodiment(embodiment), config.rotation).action_dim,
        unknown=unknown,
        relative=RELATIVE[target],
    )
    if set(found.robots) == {NO_COLUMN}:
        return Scaling(RobotStatistics({"": found.everything}, found.everything), False, f"file {path.name}")
    return Scaling(found, True, f"file {path.name}, each robot ({unknown})")


def check_statistics(context: RunContext) -> None:
    """Raise before anything is computed unless the given statistics fit all sources and targets of a run.

    Raises:
        EmbodimentError: See `given_scaling`.
        ConfigError: No source of the run has actions.
    """
    config = context.config
    if config.statistics is None:
        return
    with_actions = [data for data in context.data if "actions" in data.about]
    if not with_actions:
        raise ConfigError(
            expected="a source with actions for statistics=<file>",
            got=", ".join(data.name for data in context.data),
            fix="Leave statistics out.",
        )
    for data in with_actions:
        for target in {probe.target for probe in data.probes(config) if probe.about == "actions"}:
            given_scaling(config, data, target)


@dataclass(frozen=True)
class Actions:
    """Physical targets of the usable rows of one split.

    Attributes:
        bank: Latents `[F n d]`.
        index: Places of each row's latents `[N t c]`.
        targets: `[N k a]`.
        anchors: Measured poses at the source frames `[N a]`.
        robots: Robot type of each row.
        items: Where each row stands.
        places: Of the rows in the table of the split, int64 `[N]`.
        episodes: Of each row, int64 `[N]`.
        disturbed: Rows left out because of a disturbance inside their chunk.
        rows: The rows.
    """

    bank: Bank
    index: Tensor
    targets: Tensor
    anchors: Tensor
    robots: tuple[str, ...]
    items: tuple[str, ...]
    places: Tensor
    episodes: Tensor
    disturbed: int
    rows: PairTable

    def batches(self, scaling: Scaling, proprio: ActionStats | None) -> LatentBatches:
        """Return what heads are trained and evaluated on."""
        scaled = scaling.normalise(self.targets, self.robots, self.items)
        pose = None if proprio is None else proprio.normalise(self.anchors)
        return LatentBatches(self.bank, self.index, scaled.float(), pose)


@dataclass(frozen=True)
class ActionData:
    """What an action head is trained and judged on: samples, batches and statistics by split."""

    layout: Embodiment
    parts: dict[str, Actions]
    scaling: Scaling
    proprio: ActionStats | None
    batches: dict[str, LatentBatches]


def action_data(probing: Probing) -> ActionData:
    """Gather latents and normalised actions of all splits of a question about actions.

    Raises:
        DatasetError: The source has no actions, or a split no usable row.
    """
    job, config = probing.job, probing.context.config
    spec, probe = job.data.spec, job.probe
    if spec.embodiment is None:
        raise DatasetError(expected="a source with actions", got=spec.key, fix="Train class probes on it.")
    embodiment = load_embodiment(spec.embodiment)
    layout = target_embodiment(embodiment, config.rotation)
    parts = {split: _actions(probing, split, embodiment) for split in probing.splits}
    train = parts[spec.train_split]
    scaling = given_scaling(config, job.data, probe.target) or fit_scaling(
        spec.key, job.data.protocol, probe.target, train.targets, train.robots, train.items,
        layout=layout, unknown=config.unknown_robots,  # type: ignore[arg-type]
    )  # fmt: skip
    proprio = ActionStats.fit(train.anchors, embodiment) if probe.proprio else None
    batches = {name: part.batches(scaling, proprio) for name, part in parts.items()}
    return ActionData(layout, parts, scaling, proprio, batches)


def probe_actions(probing: Probing) -> dict[str, Any]:
    """Train, evaluate and save one action head; only the first of several processes has a result."""
    spec, probe, config = probing.job.data.spec, probing.job.probe, probing.context.config
    known = action_data(probing)
    layout, parts, scaling, batches = known.layout, known.parts, known.scaling, known.batches
    train = parts[spec.train_split]
    meta = probing.meta(
        batches[spec.train_split],
        chunk=train.targets.shape[1],
        action_dim=layout.action_dim,
        stats=scaling.everything,
        proprio_stats=known.proprio,
        contract=ActionContract.of(layout, probe.target),
        rotation=config.rotation,
    )
    head, trained = probing.train(meta, batches)
    if not is_main_process():
        return {}
    save_head(probing.cell.folder, head, meta)
    scores: list[dict[str, Any]] = []
    samples: dict[str, Any] = {}
    found: dict[str, ActionEvaluation] = {}
    for split in spec.report_splits:
        part, device = parts[split], probing.context.device
        of_rows = scaling.of_rows(part.robots)
        found[split] = evaluate_action(
            head, batches[split], of_rows, layout, targets=part.targets, device=device
        )
        measured = estimates(found[split], part.episodes.numpy())
        scores += probing.scores(meta, split, measured, len(batches[split]), trained.seconds)
        samples[split] = sample_scores(found[split], part.places, part.episodes.tolist())
    first = spec.report_splits[0]
    constant = scaling.everything.constant(train.targets)
    return {
        **probing.result(trained, probing.aside()),
        "scores": scores,
        "samples": samples,
        "warnings": list(found[first].warnings()),
        "rows": {split: _count(probing, split, part) for split, part in parts.items()},
        "constant": [[layout.labels[i], scaling.everything.mean[i]] for i in constant],
        "statistics": scaling.origin,
        "unknown_robots": {split: scaling.unknown(part.robots) for split, part in parts.items()},
        "trajectory": _trajectory(first, parts[first], found[first], layout),
    }


def _actions(probing: Probing, split: str, embodiment: Embodiment) -> Actions:
    """Pick latents and actions of the undisturbed chunks of a split.

    What a disturbance adds inside a chunk cannot be told from its two frames: as a target it is noise. The
    chunks after it are what disturbances are for, they show the way back.
    """
    job, samples = probing.job, probing.samples(split)
    kept = probing.rows(split)
    clean = torch.nonzero(kept.noise_steps() == 0).flatten()
    if not len(clean):
        raise DatasetError(
            expected=f"an undisturbed chunk in split {split} of {job.data.name}",
            got=f"{len(kept)} chunks, each with a disturbance",
            fix="Collect more demonstrations, or with less disturbance.",
        )
    rows = kept.select(clean)
    targets = build_targets(
        action_target(job.probe.target).name, rows.actions(), rows.anchors(), embodiment,
        rotation=probing.context.config.rotation, protocol=job.data.protocol,
        one_form=job.data.task is None,
    )  # fmt: skip
    return Actions(
        bank=samples.bank,
        index=(samples.change() if job.probe.mode == "pair" else samples.present())[clean],
        targets=targets,
        anchors=rows.anchors(),
        robots=rows.robot_types(),
        items=tuple(rows.item(row) for row in rows.rows),
        places=samples.kept[clean],
        episodes=rows.episodes(),
        disturbed=len(kept) - len(clean),
        rows=rows,
    )


def _count(probing: Probing, split: str, part: Actions) -> dict[str, Any]:
    table, kept = probing.job.table(split), len(probing.samples(split).kept)
    return count_rows(table, kept, len(part.items), disturbed=part.disturbed)


def _trajectory(split: str, part: Actions, found: ActionEvaluation, layout: Embodiment) -> dict[str, Any]:
    """Return the chunks of the first episode, joined in time."""
    chosen = part.episodes == part.episodes.min()
    units = tuple(unit for _, unit in sorted((i, g.unit) for g in layout.groups for i in g.indices))
    order = np.argsort(np.array([item.rpartition(":")[2] for item in part.items])[chosen.numpy()].astype(int))
    return {
        "episode": f"{split} {part.items[int(chosen.nonzero()[0])]}",
        "labels": list(layout.labels),
        "units": list(units),
        "true": found.targets[chosen][order].flatten(0, 1).tolist(),
        "predicted": found.predictions[chosen][order].flatten(0, 1).tolist(),
    }
