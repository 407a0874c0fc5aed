"""Regression probes on a source: actions from what changed between two frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from lary_policy.actions import (
    ActionContract,
    Embodiment,
    Scaling,
    action_target,
    build_targets,
    fit_scaling,
    load_embodiment,
    target_embodiment,
)
from lary_policy.data import PairTable
from lary_policy.errors import DatasetError
from lary_policy.heads import save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.machine import is_main_process
from lary_policy.scores import ActionEvaluation, estimates, evaluate_action
from lary_policy.stages.cells import Cell
from lary_policy.stages.given_statistics import given_scaling
from lary_policy.stages.row_counts import count_rows
from lary_policy.stages.source_data import SourceContext
from lary_policy.stages.source_latents import Samples
from lary_policy.stages.source_probe import SourceJob, Splits, common_result, head_meta, scores_of, train_head
from lary_policy.types import Quarantined


@dataclass(frozen=True)
class Actions:
    """Physical targets of the usable rows of one split.

    Attributes:
        samples: Their latents.
        targets: `[N k a]`.
        robots: Robot type of each row.
        items: Where each row stands.
        episodes: Of each row, int64 `[N]`.
    """

    samples: Samples
    targets: Tensor
    robots: tuple[str, ...]
    items: tuple[str, ...]
    episodes: Tensor

    def batches(self, scaling: Scaling) -> LatentBatches:
        """Return what heads are trained and evaluated on."""
        scaled = scaling.normalise(self.targets, self.robots, self.items)
        return LatentBatches(self.samples.bank, self.samples.index, scaled.float())


def probe_actions(context: SourceContext, job: SourceJob, splits: Splits, cell: Cell) -> dict[str, Any]:
    """Train, evaluate and save one action head; only the first of several processes has a result."""
    spec, config = job.data.spec, context.config
    if spec.embodiment is None:
        raise DatasetError(expected="a source with actions", got=spec.key, fix="Train class probes on it.")
    embodiment = load_embodiment(spec.embodiment)
    layout = target_embodiment(embodiment, config.rotation)
    parts = {name: _actions(job, name, some, embodiment, config.rotation) for name, some in splits.items()}
    train = parts[spec.train_split]
    scaling = given_scaling(config, job.data, job.target) or fit_scaling(
        spec.key, job.data.protocol, job.target, train.targets, train.robots, train.items,
        layout=layout, unknown=config.unknown_robots,  # type: ignore[arg-type]
    )  # fmt: skip
    batches = {name: part.batches(scaling) for name, part in parts.items()}
    meta = head_meta(
        context,
        job,
        batches[spec.train_split],
        chunk=train.targets.shape[1],
        action_dim=layout.action_dim,
        stats=scaling.everything,
        contract=ActionContract.of(layout, job.target),
        rotation=config.rotation,
    )
    head, trained = train_head(context, job, meta, batches, cell)
    if not is_main_process():
        return {}
    save_head(cell.folder, head, meta)
    scores: list[dict[str, Any]] = []
    found: dict[str, ActionEvaluation] = {}
    for split in spec.report_splits:
        part = parts[split]
        of_rows = scaling.of_rows(part.robots)
        found[split] = evaluate_action(
            head, batches[split], of_rows, layout, targets=part.targets, device=context.device
        )
        measured = estimates(found[split], part.episodes.numpy())
        scores += scores_of(context, job, meta, split, measured, len(batches[split]), trained.seconds)
    first = spec.report_splits[0]
    constant = scaling.everything.constant(train.targets)
    return {
        **common_result(job, trained, _aside(splits)),
        "scores": scores,
        "rows": {name: _count(job, name, some, parts[name]) for name, some in splits.items()},
        "constant": [[layout.labels[i], scaling.everything.mean[i]] for i in constant],
        "statistics": scaling.origin,
        "unknown_robots": {name: scaling.unknown(part.robots) for name, part in parts.items()},
        "trajectory": _trajectory(first, parts[first], found[first], layout),
    }


def _actions(job: SourceJob, split: str, samples: Samples, embodiment: Embodiment, rotation: str) -> Actions:
    table = job.data.table(split)
    if not isinstance(table, PairTable):
        raise job.data.spec.wrong_kind("pairs")
    rows = table.select(samples.kept)
    # A disturbance inside a chunk cannot be told from its two frames (only simulated data have any).
    clean = (rows.noise_steps() == 0).nonzero().flatten()
    if not len(clean):
        raise DatasetError(
            expected=f"an undisturbed chunk in split {split} of {job.data.spec.key}",
            got=f"{len(rows)} chunks, each with a disturbance",
            fix="Collect more demonstrations, or with less disturbance.",
        )
    rows, samples = rows.select(clean), replace(samples, index=samples.index[clean])
    name = action_target(job.target).name
    targets = build_targets(
        name, rows.actions(), rows.anchors(), embodiment, rotation=rotation, protocol=job.data.protocol
    )
    items = tuple(rows.item(row) for row in rows.rows)
    return Actions(samples, targets, rows.robot_types(), items, rows.episodes())


def _count(job: SourceJob, split: str, samples: Samples, part: Actions) -> dict[str, Any]:
    disturbed = len(samples.kept) - len(part.items)
    return count_rows(job.data.table(split), len(samples.kept), len(part.items), disturbed=disturbed)


def _aside(splits: Splits) -> list[Quarantined]:
    return [q for samples in splits.values() for q in samples.quarantined]


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
