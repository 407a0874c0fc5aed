"""All stages of a run in order: collect, encode, probe, roll out, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from lary_policy.console import Tally, busy, console, counted, progress
from lary_policy.data import write_checksums
from lary_policy.errors import ConfigError
from lary_policy.frames import remember_digests
from lary_policy.heads.training import agree, connect, first_then_all
from lary_policy.machine import is_main_process, resolve_device
from lary_policy.paths import sweep_temporaries
from lary_policy.runs.actions import check_statistics
from lary_policy.runs.cells import plain, point_latest, run_folder
from lary_policy.runs.collect import collected, open_task, recorded, run_collect
from lary_policy.runs.config import DEFAULT_HEADS, SMALL_ROWS, RunConfig
from lary_policy.runs.context import ABOUT_TASKS, STAGES, RunContext, about_task
from lary_policy.runs.encode import extract_cell, load_splits, run_extract
from lary_policy.runs.probe import Jobs, jobs_of, pairs_of, run_probes
from lary_policy.runs.questions import find_question
from lary_policy.runs.report import run_report
from lary_policy.runs.results import Result, Results
from lary_policy.runs.rollout import loops_of, run_rollouts
from lary_policy.runs.rows import missing_rows

_BELOW = 4  # levels of an output folder that hold files of ours: shards are in cache/latents/<store>/shards
PAGE_SHARE = 0.01  # of a run's time, at most, goes into rewriting its page: cells may end every second
# Of the report, of files and of tasks.
TITLES = {False: "What do these latents know of action?", True: "Which latents drive a robot?"}


@dataclass(frozen=True)
class SuiteOutcome:
    """What a run left behind.

    Attributes:
        folder: The run's folder: resolved config, environment, report.
        report: Path of report.html, or None when the run ended before that stage.
        stage_seconds: Seconds of each stage in this run (reused cells cost almost nothing).
        results: Results of all cells.
    """

    folder: Path
    report: Path | None
    stage_seconds: dict[str, float]
    results: Results


def run_suite(
    config: RunConfig, *, until: str = "report", verb: str = "suite", finished_only: bool = False
) -> SuiteOutcome:
    """Run the stages up to `until`; finished cells are reused, interrupted ones continue.

    In several processes of a launcher, all train heads together; the first one does and writes the rest.

    Args:
        config: What to run.
        until: Last stage, one of `STAGES`.
        verb: Name used for the run's folder.
        finished_only: Compute nothing: report what is on disk and name in the report what is not.

    Raises:
        ConfigError: `finished_only`, and nothing is finished.
        LaryPolicyError: A name is unknown, weights or files are absent, data are unusable, the disk is full.
    """
    connect(resolve_device(config.device))
    context = first_then_all(lambda: _opened(config, until))
    label = verb if config.tasks else f"{verb}-{config.source}"
    folder = agree(run_folder(config.output_dir, config.run, label) if is_main_process() else Path())
    if is_main_process():
        sweep_temporaries(config.output_dir, again=True, levels=_BELOW)
        context.record(folder, computes=not finished_only)
    notes, spent = [*_small(context, until), *unasked(context, until)], {}
    results = Results(finished_only=finished_only, notes=notes)
    for line in results.notes:
        console.print(f"    {line}", soft_wrap=True, markup=False)
    page = Page(context, results, folder, until)
    steps = {"data": _data, "extract": _extract, "probe": _probe, "rollout": _rollout}
    with counted() as tally:
        for stage in STAGES[: STAGES.index(until) + 1]:
            started = time.perf_counter()
            tally.planned = planned(context, until)
            for _ in steps[stage](context, results) if stage != "report" else ():
                if stage == "data":
                    tally.planned = planned(context, until)
                page.refresh(tally)
            if stage == "report" and is_main_process():
                with progress("report"):
                    page.write()
            spent[stage] = time.perf_counter() - started
    for line in missing_rows(results.probe):
        console.print(f"    {line}", soft_wrap=True, markup=False)
    if until == "data" and is_main_process():
        for line in (line for task in config.tasks for line in recorded(context, task)):
            console.print(f"  {line}", soft_wrap=True, markup=False)
    if is_main_process():
        write_checksums(folder)
    if page.path is not None:
        point_latest(config.output_dir, folder)
    return SuiteOutcome(folder, page.path, spent, results)


@dataclass(eq=False)
class Page:
    """The report of a run while it goes on.

    Attributes:
        context: The run.
        results: What is finished.
        folder: Of the run.
        until: Its last stage; the page belongs to `report`.
        path: Of the page, once it is there.
    """

    context: RunContext
    results: Results
    folder: Path
    until: str
    path: Path | None = None
    _due: float = 0.0

    def refresh(self, tally: Tally) -> None:
        """Rewrite the page, unless it comes next, nothing was computed, or writing took its share of time."""
        started = time.monotonic()
        wanted = self.until == "report" and is_main_process() and not self.results.finished_only
        if not wanted or not tally.computed or started < self._due or tally.ends:
            return
        self.results.pending = tally.far
        first = self.path is None
        with busy("report"):
            self.write()
        self.results.pending = ""
        self._due = time.monotonic() + (1 / PAGE_SHARE - 1) * (time.monotonic() - started)
        if first:
            console.print(f"  page of this run, rewritten as it goes on: {self.path}", soft_wrap=True)

    def write(self) -> None:
        """Write it from all results."""
        config = self.context.config
        self.path = run_report(
            self.results,
            self.folder,
            title=TITLES[bool(config.tasks)],
            suite=config.name if config.tasks else f"{config.source}, protocol {config.protocol}",
            config_yaml=yaml.safe_dump(plain(config), sort_keys=False),
            facts=self.context.facts(),
            media_root=self.context.cache,
            data=self.context.data,
            origin=self.context.origin() if config.tasks else None,
        )


def _opened(config: RunConfig, until: str) -> RunContext:
    """Open the data of a run and read its rows; the first of several processes may download some."""
    context = RunContext.create(config, until=until)
    check_statistics(context)
    for data in context.data:
        for split in data.splits:
            data.table(split)  # what is wrong with the files is said before anything is written
    remember_digests(context.cache / "digests.sqlite")
    for data in context.data:
        with progress(f"read {data.label}"):
            _ = data.digest
    return context


def _small(context: RunContext, until: str) -> Iterator[str]:
    """Say of which data the small heads are trained because they have few rows."""
    for data in context.data if STAGES.index(until) >= STAGES.index("probe") else ():
        if context.config.is_small(data.protocol, data.rows):
            heads = dict.fromkeys(probe.head.label for probe in data.probes(context.config))
            usual = ",".join(DEFAULT_HEADS[data.protocol, data.about[0]])
            yield (
                f"{data.label}: {data.rows} training rows, fewer than {SMALL_ROWS:,}, so its heads are small "
                f"({', '.join(heads)}); heads=[{usual}] trains those of larger data."
            )


def unasked(context: RunContext, until: str) -> Iterator[str]:
    """Name the tasks that some questions are not asked of, and what windows of every step cost."""
    config = context.config
    if config.dense and STAGES.index(until) >= STAGES.index("extract"):
        yield (
            "windows=dense: every control step of the training demonstrations is recorded and encoded, about "
            f"{config.stride} times the frames."
        )
    if not config.tasks or STAGES.index(until) < STAGES.index("probe"):
        return
    for probe in config.probes_for("native", ABOUT_TASKS, "pairs"):
        without = [task for task in config.tasks if probe.about not in about_task(task)]
        if without:
            yield f"Question {probe.mode} is not asked of {', '.join(without)}: no {probe.about} there."
        pairs = [v.label for v in config.encoders if not find_question(probe.mode).fits_latent(v.spec.latent)]
        if pairs:
            yield f"Question {probe.mode} is not asked of {', '.join(pairs)}: no latent of one frame there."


def planned(context: RunContext, until: str) -> dict[str, int]:
    """Return how many steps each stage of a run has; tasks that are not opened yet count as the opened do."""
    config, stages = context.config, STAGES[: STAGES.index(until) + 1]
    # Of a task demonstrations are collected, goals where a closed loop follows some, and every control step
    # where a head learns from it.
    count = dict.fromkeys(STAGES, 0)
    count["data"] = (1 + bool(config.loops) + config.dense) * len(config.tasks)
    for data in context.data:
        views = context.views(data.protocol)
        loops = loops_of(context, data) if data.task and "rollout" in stages else ()
        found = {"extract": len(views), "probe": sum(len(jobs_of(context, data, view)) for view in views)}
        for stage, number in {**found, "rollout": len(loops)}.items():
            count[stage] += number
    if not context.data and "probe" in stages:
        many, seeds = len(config.encoders), len(config.every_seed)
        probes = config.probes_for("native", ABOUT_TASKS, "pairs")
        heads = [sum(loop.uses(probe) for probe in probes) * many * seeds for loop in config.loops]
        count |= {"extract": many, "probe": len(probes) * many * seeds}
        count["rollout"] = sum(2 + number if number else 1 for number in heads)
    for stage in ("extract", "probe", "rollout"):  # of the tasks still to come
        count[stage] = count[stage] * max(len(context.data), len(config.tasks)) // max(1, len(context.data))
    return {stage: number for stage, number in {**count, "report": 1}.items() if stage in stages}


def _data(context: RunContext, results: Results) -> Iterator[None]:
    for task in context.config.tasks:
        there = collected(context, task)
        if not results.wants(f"data {task}", there):
            continue
        make = open_task if results.finished_only else run_collect
        data = first_then_all(partial(make, context, task))
        context.data.append(data)
        results.data.append({"task": task, "seconds": data.seconds, "failed": data.failed})
        yield
    if not context.data:
        raise _nothing(context, "no demonstrations of these settings")


def _extract(context: RunContext, results: Results) -> Iterator[None]:
    for data, view in pairs_of(context):
        cell = extract_cell(context, data, view)
        if results.wants(f"extract {cell.label}", agree(cell.done)):
            results.extract.append(run_extract(context, data, view))
            yield


def _probe(context: RunContext, results: Results) -> Iterator[None]:
    groups = []
    for data, view in pairs_of(context):
        jobs = jobs_of(context, data, view)
        done = agree([job.cell(context).done for job in jobs])
        pairs = zip(jobs, done, strict=True)
        wanted = [job for job, finished in pairs if results.wants(f"probe {job.label}", finished)]
        latent = view.spec.latent_of(context.shelf.image_px(view), view.weights)
        size = data.rows * latent.tokens * latent.width
        groups.append(Jobs(wanted, partial(load_splits, context, data, view), size))
    found: dict[tuple[int, int], Result] = {}
    for number, place, result in run_probes(context, groups):
        found[number, place] = result
        results.probe = [found[at] for at in sorted(found)]
        yield


def _rollout(context: RunContext, results: Results) -> Iterator[None]:
    loops = [loop for data in context.data for loop in loops_of(context, data)]
    done = agree([loop.cell(context).done for loop in loops])
    pairs = zip(loops, done, strict=True)
    wanted = [loop for loop, finished in pairs if results.wants(f"rollout {loop.label}", finished)]
    found: dict[int, Result] = {}
    for place, result in run_rollouts(context, wanted):
        found[place] = result
        results.rollout = [found[place] for place in sorted(found)]
        yield


def _nothing(context: RunContext, got: str) -> ConfigError:
    return ConfigError(
        expected=f"something finished under {context.cache}",
        got=got,
        fix="Run `lary suite` with the same settings first.",
    )
