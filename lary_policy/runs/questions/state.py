"""`state`: where things are in the present frame.

A head of the action expert's architecture and size maps the latent of the present frame to the named state of
the world: positions of tools, objects and goals (m), rotations as six numbers, gripper openings (fraction),
normalised by mean and deviation over the training split; quantities that never change there are left out.
Scored by R2, over numbers by their variance on the reported split: such a probe foretells success at Pearson
r .75 over nine encoders where the MSE of actions reaches -.29 (arXiv 2602.04880). Also reported: MSE in
training deviations, RMS distance in cm and angle in degrees of each quantity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lary_policy.actions import STD_FLOOR, ActionGroup, ActionStats, Embodiment
from lary_policy.data.simulated import SimulatedSource
from lary_policy.errors import DatasetError
from lary_policy.heads import save_head
from lary_policy.heads.training import LatentBatches
from lary_policy.machine import is_main_process
from lary_policy.runs.questions.registry import Question, register_question
from lary_policy.scores import SampleScores, estimates, evaluate_action

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing

VERSION = 1  # raised when the same inputs give another answer


def with_scene(data: RunData) -> SimulatedSource:
    """Return a source whose scene has named states.

    Raises:
        DatasetError: It has none.
    """
    if not isinstance(data.source, SimulatedSource):
        raise DatasetError(
            expected="simulated demonstrations, whose scene has named states",
            got=data.name,
            fix="Leave the question `state` out.",
        )
    return data.source


def of_scene(_: RunContext, data: RunData) -> tuple[Any, ...]:
    """Return what the scene of some data depends on."""
    tables = {split: data.table(split) for split in data.splits}
    return VERSION, with_scene(data).scene_digest(tables)  # type: ignore[arg-type]


def varying(layout: Embodiment, state: torch.Tensor) -> tuple[Embodiment, list[int]]:
    """Return the layout of the groups of which some number of `state` `[N q]` varies, and its numbers."""
    std = state.double().std(0, correction=0)
    kept = [g for g in layout.groups if any(std[i] >= STD_FLOOR for i in g.indices)]
    order = [i for g in kept for i in g.indices]
    place = {old: new for new, old in enumerate(order)}
    groups = tuple(
        ActionGroup(g.name, g.kind, g.arm, tuple(place[i] for i in g.indices), g.labels, g.convention, g.unit)
        for g in kept
    )
    return Embodiment(layout.name, groups, layout.control_hz), order


def run_state(probing: Probing) -> dict[str, Any]:
    """Train a head on the state, report its errors; only the first of several processes has a result."""
    data, spec = probing.job.data, probing.job.data.spec
    source, parts, rows = with_scene(data), {}, {}
    for split in probing.splits:
        rows[split] = probing.rows(split)
        parts[split] = source.scene(split, rows[split].rows)
    train = parts[spec.train_split]
    layout, order = varying(train.layout, train.state)
    stats = ActionStats.fit(train.state[:, order], layout)
    batches = {
        split: LatentBatches(
            probing.samples(split).bank,
            probing.samples(split).present(),
            stats.normalise(part.state[:, None, order]),
        )
        for split, part in parts.items()
    }
    meta = probing.meta(
        batches[spec.train_split], chunk=1, action_dim=layout.action_dim, stats=stats, target="state"
    )
    head, trained = probing.train(meta, batches)
    if not is_main_process():
        return {}
    save_head(probing.cell.folder, head, meta)
    scores, by_sample = [], {}
    for split in spec.report_splits:
        true = parts[split].state[:, None, order]
        found = evaluate_action(
            head, batches[split], stats, layout, targets=true, device=probing.context.device
        )
        episodes = rows[split].episodes()
        measured = estimates(found, episodes.numpy())
        scores += probing.scores(meta, split, measured, len(true), trained.seconds)
        items = [rows[split].item(row) for row in rows[split].rows]
        by_sample[split] = SampleScores.of(found, items, episodes.tolist()).to_dict()
    constant = [g.name for g in train.layout.groups if g.name not in {k.name for k in layout.groups}]
    result = probing.result(trained, probing.aside())
    return {**result, "scores": scores, "samples": by_sample, "constant_quantities": constant}


register_question(
    Question("state", "state of the scene", "scene", run_state, of_scene, asks="state", targets=("state",))
)
