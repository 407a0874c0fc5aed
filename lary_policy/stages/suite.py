"""All stages of a run in order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lary_policy.console import console, progress
from lary_policy.errors import ConfigError
from lary_policy.stages.cells import point_latest, write_json
from lary_policy.stages.config import EncoderChoice, SuiteConfig
from lary_policy.stages.context import RunContext, environment
from lary_policy.stages.data import TaskData, data_cells, run_data
from lary_policy.stages.extract import extract_cell, load_splits, run_extract
from lary_policy.stages.probe import ProbeJob, probe_cell, run_probe
from lary_policy.stages.report import Results, run_report
from lary_policy.stages.rollout import RolloutJob, rollout_cell, run_rollout
from lary_policy.stages.score_table import score_lines

STAGES = ("data", "extract", "probe", "rollout", "report")
REPORT_FILE = "report.html"


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
    config: SuiteConfig, *, until: str = "report", verb: str = "suite", finished_only: bool = False
) -> SuiteOutcome:
    """Run the stages up to `until`; finished cells are reused, interrupted ones continue.

    Args:
        config: What to run.
        until: Last stage, one of `STAGES`.
        verb: Name used for the run's folder.
        finished_only: Compute nothing: report what is on disk and name in the report what is not.

    Raises:
        ConfigError: `finished_only`, and nothing is finished.
        LaryPolicyError: A name is unknown, weights are absent, data are unusable, the disk is full, ...
    """
    context = RunContext.create(config)
    folder = config.output_dir / (config.run or f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}")
    resolved = yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)
    write_json(
        folder / "run.json",
        {"environment": environment(context), "config": plain(dataclasses.asdict(config))},
    )
    results, spent = Results(finished_only=finished_only), {}
    steps: dict[str, Callable[[], None]] = {
        "data": lambda: _data(context, results),
        "extract": lambda: _extract(context, results),
        "probe": lambda: _probe(context, results),
        "rollout": lambda: _rollout(context, results),
    }
    report: Path | None = None
    for stage in STAGES[: STAGES.index(until) + 1]:
        started = time.perf_counter()
        if stage == "report":
            with progress("report"):
                report = run_report(context, results, folder, resolved)
        else:
            steps[stage]()
        spent[stage] = time.perf_counter() - started
    if report is not None:
        point_latest(config.output_dir, folder)
    return SuiteOutcome(folder, report, spent, results)


def _data(context: RunContext, results: Results) -> None:
    for task in context.config.tasks:
        folders = [cell.folder for cell in data_cells(context, task)]
        if results.wants(f"data {task}", all(folder.exists() for folder in folders)):
            results.data.append(run_data(context, task))
    if not results.data:
        raise ConfigError(
            expected=f"something finished under {context.cache}",
            got="no demonstrations of these settings",
            fix="Run `lary suite` with the same settings first.",
        )


def _extract(context: RunContext, results: Results) -> None:
    for data, choice in _grid(context, results):
        cell = extract_cell(context, data.task, choice)
        if results.wants(f"extract {cell.label}", cell.done):
            results.extract.append(run_extract(context, data, choice))


def _probe(context: RunContext, results: Results) -> None:
    for data, choice in _grid(context, results):
        jobs = [ProbeJob(data, choice, probe) for probe in context.config.probes]
        done = {job: probe_cell(context, job).done for job in jobs}
        wanted = [job for job in jobs if results.wants(f"probe {job.label}", done[job])]
        splits = None if all(done[job] for job in wanted) else load_splits(context, data, choice)
        results.probe += [run_probe(context, job, splits) for job in wanted]


def _rollout(context: RunContext, results: Results) -> None:
    c = context.config
    for data in results.data:
        jobs = [RolloutJob(data, rollout, choice) for rollout in c.rollouts for choice in c.encoders]
        floor = [RolloutJob(data, rollout, c.encoders[-1], random=True) for rollout in c.rollouts]
        ceiling = [RolloutJob(data, rollout) for rollout in c.rollouts]
        for job in (*ceiling, *jobs, *floor):
            if results.wants(f"rollout {job.label}", rollout_cell(context, job).done):
                results.rollout.append(run_rollout(context, job))


def _grid(context: RunContext, results: Results) -> list[tuple[TaskData, EncoderChoice]]:
    return [(data, choice) for data in results.data for choice in context.config.encoders]


def plain(value: Any) -> Any:
    """Turn tuples and paths into what YAML and JSON know."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def print_outcome(outcome: SuiteOutcome) -> None:
    """Print the scores, best encoder first, and the seconds of each stage."""
    console.print()
    for line in score_lines(outcome.results.scores()):
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        "\nseconds of this run: " + ", ".join(f"{k} {v:.1f}" for k, v in outcome.stage_seconds.items())
    )
    recorded = outcome.results.stage_seconds()
    console.print(
        "seconds of the cells when computed: " + ", ".join(f"{k} {v:.1f}" for k, v in recorded.items())
    )
