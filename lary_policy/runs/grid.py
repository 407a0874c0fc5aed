"""The grid of a run: data x encoder views x questions and heads x seeds, one job each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lary_policy.encoders import EncoderView
from lary_policy.heads import HEAD_FORMAT
from lary_policy.runs.cells import Cell
from lary_policy.runs.config import Probe
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.questions import find_question


@dataclass(frozen=True, eq=False)
class Job:
    """One head to train.

    Attributes:
        data: What it learns from.
        view: Whose latents it reads.
        probe: Question and head.
        seed: Added to that of the head's configuration.
    """

    data: RunData
    view: EncoderView
    probe: Probe
    seed: int

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.data.label}-{self.view.label}-{self.probe.label}{seed}"

    def cell(self, context: RunContext) -> Cell:
        """Return the cell of the trained head."""
        p = self.probe
        # What changes the numbers of one kind of probe must not make cells of the other kind be run again.
        own = find_question(p.mode).depends(context, self.data)
        latents = context.latents_key(self.data, self.view)
        return context.cell("probe", self.label, latents, p, self.data.protocol, self.seed, own, HEAD_FORMAT)


def pairs_of(context: RunContext) -> Iterator[tuple[RunData, EncoderView]]:
    """Yield each opened data with each encoder view."""
    for data in context.data:
        for view in context.views(data.protocol):
            yield data, view


def jobs_of(context: RunContext, data: RunData, view: EncoderView) -> list[Job]:
    """Return the heads that a run trains on one view's latents of some data."""
    grid = itertools.product(data.probes(context.config), context.config.every_seed)
    return [Job(data, view, probe, seed) for probe, seed in grid]
