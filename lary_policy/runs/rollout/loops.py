"""Cells of the closed loop: who drives which task, how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lary_policy.runs.cells import Cell
from lary_policy.runs.config import RolloutConfig, RunConfig
from lary_policy.runs.context import RunContext, RunData
from lary_policy.runs.probe import Job, jobs_of

_KEYED = 4  # once the number of filmed episodes; still in keys, so that finished cells stay what they are


@dataclass(frozen=True, eq=False)
class Loop:
    """One cell of the closed-loop table.

    Attributes:
        data: Demonstrations of the task.
        rollout: Mode and target.
        job: The trained head, or None for the scripted expert.
        random: Whether the head keeps random weights.
    """

    data: RunData
    rollout: RolloutConfig
    job: Job | None = None
    random: bool = False

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        if self.job is None:
            return f"{self.data.label}-expert"
        seed = f"-seed{self.job.seed}" if self.job.seed else ""
        who = f"{self.job.view.label}{'-random' if self.random else ''}-{self.rollout.mode}"
        return f"{self.data.label}-{who}-{self.rollout.target}-{self.job.probe.head_label}{seed}"

    def cell(self, context: RunContext) -> Cell:
        """Return the cell of the loop; that of the expert, who sees no goals, is the same in every mode."""
        c = context.config
        head = () if self.job is None else (self.job.cell(context).key, self.rollout, self.random)
        # Each task has its own world, whose looks and size of frames the goals' content tells.
        cameras = context.cameras(self.data.task or "")
        world = (self.data.task, cameras, c.image_px, c.stride, c.looks, c.rollout_level)
        how: tuple[Any, ...] = (c.episodes, c.stop_at_success, c.batch_invariant, _KEYED)
        if (steps := self.steps(c)) < self.steps():
            how += ("max_episode_steps", steps)
        if (against := self.against(context)) is not None:
            how += ("until decided", against.cell(context).key)
        inputs = (self.data.goals_digest, world, *head, *how)
        return context.cell("rollout", self.label, *inputs)

    def steps(self, config: RunConfig | None = None) -> int:
        """Control steps after which its episodes end; those of the task without the configuration."""
        from lary_envs.tasks import task_spec

        own = task_spec(self.data.task).max_steps if self.data.task else 0
        return own if config is None else config.episode_steps(own)

    def against(self, context: RunContext) -> Loop | None:
        """Return the first encoder's loop, whose success decides how many episodes this one runs, if any."""
        first = context.views(self.data.protocol)[0]
        alone = self.job is None or (self.job.view == first and not self.random)
        if alone or self.job is None or not context.config.stop_when_decided:
            return None
        return replace(self, job=replace(self.job, view=first), random=False)


def loops_of(context: RunContext, data: RunData) -> list[Loop]:
    """Return the closed loops of a task: expert, then every trained head, then one random head a mode.

    The random head, a floor, stands behind the encoder that takes least time.
    """
    found: list[Loop] = []
    for rollout in context.config.loops:
        jobs = [
            job
            for view in context.views(data.protocol)
            for job in jobs_of(context, data, view)
            if rollout.uses(job.probe)
        ]
        found.append(Loop(data, rollout))
        found += [Loop(data, rollout, job) for job in jobs]
        cheapest = min(jobs, key=lambda job: job.view.spec.gflops_per_frame, default=None)
        found += [Loop(data, rollout, cheapest, random=True)] if cheapest else []
    return found
