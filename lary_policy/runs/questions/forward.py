"""`forward`: what the present frame's latent becomes after a chunk of actions.

A head of the action expert's architecture and size sees the latent z of the present frame and the chunk a
of k actions (normalised, where other heads see the measured pose) and predicts the change to the latent z' of
the frame k steps later. Latents of all tokens and cameras together are described by their `COMPONENTS`
principal components on the training split, as many for every view, so that wide latents are not asked more
than narrow ones. With sums over samples and components, weighted by what they vary:

    r2   = 1 - sum |z' - (z + f(z, a))|^2 / sum |z' - mean z'|^2      (in the target latent's own spread)
    gain = 1 - sum |z' - (z + f(z, a))|^2 / sum |z' - z|^2            (against copying the present latent)

Reconstruction by a forward model ranks 41 latent-action designs better than probes do, weakly across latent
widths (arXiv 2608.19613).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lary_policy.actions import ActionStats
from lary_policy.heads import save_head
from lary_policy.heads.training import LatentBatches, predict
from lary_policy.latents import COMPONENTS, Components
from lary_policy.machine import is_main_process
from lary_policy.runs.questions.pair import of_actions
from lary_policy.runs.questions.registry import Question, register_question
from lary_policy.scores import Metric, SampleScores, bootstrap_ratio_ci, register_metric

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing

VERSION = 1  # raised when the same inputs give another answer
_ROWS = 256  # latents read at once


def run_forward(probing: Probing) -> dict[str, Any]:
    """Train a head on the latents to come, report what it explains of them."""
    from lary_policy.runs.actions import action_data

    spec = probing.job.data.spec
    known = action_data(probing)
    ends = {split: _ends(probing, split) for split in known.parts}
    train = known.parts[spec.train_split]
    basis = Components.fit(torch.cat(ends[spec.train_split]))
    now = {split: basis.of(first) for split, (first, _) in ends.items()}
    then = {split: basis.of(last) for split, (_, last) in ends.items()}
    change = then[spec.train_split] - now[spec.train_split]
    spread = float(change.std()) or 1.0
    stats = ActionStats(tuple(change.double().mean(0).tolist()), (spread,) * change.shape[1], len(change))
    chunk = ActionStats.fit(train.targets.flatten(1))
    batches = {
        split: LatentBatches(
            part.bank,
            probing.samples(split).present()[_clean(probing, split)],
            stats.normalise(then[split] - now[split])[:, None],
            chunk.normalise(part.targets.flatten(1)).float(),
        )
        for split, part in known.parts.items()
    }
    meta = probing.meta(
        batches[spec.train_split], chunk=1, action_dim=change.shape[1], stats=stats, proprio_stats=chunk
    )
    head, trained = probing.train(meta, batches)
    if not is_main_process():
        return {}
    save_head(probing.cell.folder, head, meta)
    scores, by_sample = [], {}
    for split in spec.report_splits:
        part = known.parts[split]
        moved = stats.denormalise(predict(head, batches[split], device=probing.context.device)[:, 0])
        error = (then[split] - now[split] - moved).square().sum(1).double()
        own = (then[split] - then[split].mean(0)).square().sum(1).double()
        copied = (then[split] - now[split]).square().sum(1).double()
        episodes = part.episodes.numpy()
        measured = {
            name: bootstrap_ratio_ci(error.numpy(), against.numpy(), episodes).map(lambda one: 1 - one)
            for name, against in (("r2", own), ("gain", copied))
        }
        scores += probing.scores(meta, split, measured, len(error), trained.seconds)
        values = tuple((error / copied.mean()).tolist())
        clusters = tuple(map(str, part.episodes.tolist()))
        by_sample[split] = SampleScores("forward_error", part.items, clusters, values).to_dict()
    result = probing.result(trained, probing.aside())
    return {**result, "scores": scores, "samples": by_sample, "variance_held": basis.share}


def _clean(probing: Probing, split: str) -> Tensor:
    """Return the usable rows without a disturbance, as `action_data` takes them."""
    return torch.nonzero(probing.rows(split).noise_steps() == 0).flatten()


def _ends(probing: Probing, split: str) -> tuple[Tensor, Tensor]:
    """Return the latents `[N D]` of the source and target frames of the undisturbed rows of a split."""
    samples = probing.samples(split)
    index = samples.index[_clean(probing, split)]
    parts = [
        torch.cat([samples.bank[some].flatten(1).float() for some in index[:, side].split(_ROWS)])
        for side in (0, 1)
    ]
    return parts[0], parts[1]


def of_forward(context: RunContext, data: RunData) -> tuple[Any, ...]:
    """Return what the answer depends on."""
    return (VERSION, COMPONENTS, *of_actions(context, data))


register_metric(Metric("gain", "explained beyond copying", True, order=9))
register_question(
    Question("forward", "forward model", "actions", run_forward, of_forward, asks="forward", of_frames=True)
)
