"""`inverse-critical` and `policy-critical`: the heads of `pair` and `policy`, judged where it matters.

The MSE of normalised actions over the control steps that decide, instead of over all: with it the error of 27
checkpoints ranked success at Spearman -.87, without at -.61 (arXiv 2606.29898). Simulated demonstrations say
which steps those are: the phases in which their expert is near contact, and the last half second before the
first success. For other data they are those at which a gripper's target changes by more than
`GRIPPER_CHANGE` of its range within one step either side, and those slower than `SLOW` of the median speed.
The published weights for steps of a chunk that are never executed are all 1 here, as the loop executes whole
chunks. The heads are those of the plain questions, which are trained first where they are not finished.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lary_policy.actions import Embodiment
from lary_policy.data.simulated import SimulatedSource
from lary_policy.errors import DatasetError
from lary_policy.heads import load_head
from lary_policy.machine import is_main_process
from lary_policy.runs.questions.pair import of_actions
from lary_policy.runs.questions.registry import Question, register_question
from lary_policy.runs.questions.state import of_scene
from lary_policy.scores import SampleScores, bootstrap_ratio_ci, evaluate_action

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing

GRIPPER_CHANGE = 0.05  # of the opening: five times what a held gripper's target wanders
_HZ = 20.0  # of our own tasks
SLOW = 0.25  # of the median speed: pauses before grasp and release, not the ends of free motions


def critical_steps(actions: Tensor, anchors: Tensor, embodiment: Embodiment) -> Tensor:
    """Tell from actions alone which steps are critical, see the head of this file.

    Args:
        actions: Absolute targets `[N k a]`.
        anchors: Poses before the first step of each chunk `[N a]`.
        embodiment: Their layout.

    Returns:
        bool `[N k]`.
    """
    moved = torch.cat([anchors[:, None], actions], 1).diff(dim=1)
    grips = [i for g in embodiment.groups if g.kind == "gripper" for i in g.indices]
    moving = [i for g in embodiment.groups if g.kind == "position" for i in g.indices]
    moving = moving or [i for g in embodiment.groups if g.kind == "joint" for i in g.indices]
    changes = (moved[..., grips].abs() > GRIPPER_CHANGE).any(-1)
    near = F.max_pool1d(changes.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
    speed = moved[..., moving].norm(dim=-1)
    return near | (speed < SLOW * speed.median())


def of_critical(context: RunContext, data: RunData) -> tuple[Any, ...]:
    """Return what the heads, and the choice of critical steps, depend on."""
    if not isinstance(data.source, SimulatedSource):
        return of_actions(context, data)
    # How many steps before success are critical follows from the rate.
    hz = data.embodiment.control_hz if data.embodiment else _HZ
    return (*of_actions(context, data), *of_scene(context, data), *((hz,) if hz != _HZ else ()))


def run_critical(probing: Probing) -> dict[str, Any]:
    """Judge the head of the plain question on critical steps."""
    from lary_policy.runs.actions import action_data
    from lary_policy.runs.probe import Jobs, run_probes
    from lary_policy.runs.questions.registry import find_question

    job, context = probing.job, probing.context
    plain = replace(job, probe=replace(job.probe, mode=find_question(job.probe.mode).asks or ""))
    ((*_, trained),) = run_probes(context, [Jobs([plain], lambda: probing.splits)])
    if not is_main_process():
        return {}
    known = action_data(replace(probing, job=plain))
    head, meta = load_head(plain.cell(context).folder, context.device)
    scores, by_sample = [], {}
    for split in job.data.spec.report_splits:
        part = known.parts[split]
        found = evaluate_action(
            head, known.batches[split], known.scaling.of_rows(part.robots), known.layout,
            targets=part.targets, device=context.device,
        )  # fmt: skip
        chosen = _critical(probing, split, part.rows.rows, part.rows.actions(), part.anchors)
        counts, errors = chosen.sum(1), found.squared_error.mean(2).double()
        some = counts > 0
        if not some.any():
            raise DatasetError(
                expected=f"critical steps in split {split} of {job.data.name}",
                got=f"none in {len(chosen)} chunks",
                fix=f"Leave the question `{job.probe.mode}` out.",
            )
        sums, episodes = (errors * chosen).sum(1), part.episodes.numpy()
        measured = {"mse": bootstrap_ratio_ci(sums.numpy(), counts.numpy(), episodes)}
        if not chosen.all():
            rest = (errors * ~chosen).sum(1).numpy()
            measured["mse/rest"] = bootstrap_ratio_ci(rest, (~chosen).sum(1).numpy(), episodes)
        scores += probing.scores(meta, split, measured, int(some.sum()), 0.0)
        items = tuple(np.array(part.items)[some.numpy()].tolist())
        values = tuple((sums[some] / counts[some]).tolist())
        by_sample[split] = SampleScores("mse", items, tuple(map(str, part.episodes[some].tolist())), values)
    kept = ("num_params", "best_epoch", "precision", "member", "history")
    return {
        **probing.facts(probing.aside()), **{name: trained[name] for name in kept}, "seconds": 0.0,
        "scores": scores, "samples": {split: one.to_dict() for split, one in by_sample.items()},
    }  # fmt: skip


def _critical(probing: Probing, split: str, rows: Any, actions: Tensor, anchors: Tensor) -> Tensor:
    data = probing.job.data
    if isinstance(data.source, SimulatedSource):
        return data.source.scene(split, rows).critical
    if data.embodiment is None:
        raise DatasetError(expected="a source with actions", got=data.name, fix="Leave the question out.")
    return critical_steps(actions, anchors, data.embodiment)


register_question(
    Question(
        "inverse-critical", "inverse model, critical steps", "actions", run_critical, of_critical, asks="pair"
    ),
    Question(
        "policy-critical", "policy mode, critical steps", "actions", run_critical, of_critical, asks="policy"
    ),
)
