"""All stages of a run in order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lary_policy.progress import console, progress
from lary_policy.stages.cells import point_latest, write_json
from lary_policy.stages.config import EncoderChoice, SuiteConfig
from lary_policy.stages.context import RunContext, environment
from lary_policy.stages.data import TaskData, run_data
from lary_policy.stages.extract import run_extract
from lary_policy.stages.probe import ProbeJob, load_splits, probe_cell, run_probe
from lary_policy.stages.report import Results, run_report
from lary_policy.stages.rollout import RolloutJob, run_rollout

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


def run_suite(config: SuiteConfig, *, until: str = "report", verb: str = "suite") -> SuiteOutcome:
    """Run the stages up to `until`; finished cells are reused, interrupted ones continue.

    Args:
        config: What to run.
        until: Last stage, one of `STAGES`.
        verb: Name used for the run's folder.

    Raises:
        LaryPolicyError: A name is unknown, weights are absent, data are unusable, the disk is full, ...
    """
    context = RunContext.create(config)
    folder = config.output_dir / (config.run or f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}")
    resolved = yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)
    write_json(
        folder / "run.json",
        {"environment": environment(context), "config": _plain(dataclasses.asdict(config))},
    )
    results, spent = Results(), {}
    steps: dict[str, Callable[[], None]] = {
        "data": lambda: results.data.extend(run_data(context, task) for task in config.tasks),
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


def _extract(context: RunContext, results: Results) -> None:
    for data, choice in _grid(context, results):
        results.extract.append(run_extract(context, data, choice))


def _probe(context: RunContext, results: Results) -> None:
    for data, choice in _grid(context, results):
        jobs = [ProbeJob(data, choice, probe) for probe in context.config.probes]
        unfinished = any(not probe_cell(context, job).done for job in jobs)
        splits = load_splits(context, data, choice) if unfinished else None
        results.probe += [run_probe(context, job, splits) for job in jobs]


def _rollout(context: RunContext, results: Results) -> None:
    c = context.config
    for data in results.data:
        jobs = [RolloutJob(data, rollout, choice) for rollout in c.rollouts for choice in c.encoders]
        floor = [RolloutJob(data, rollout, c.encoders[-1], random=True) for rollout in c.rollouts]
        ceiling = [RolloutJob(data, rollout) for rollout in c.rollouts]
        results.rollout += [run_rollout(context, job) for job in (*ceiling, *jobs, *floor)]


def _grid(context: RunContext, results: Results) -> list[tuple[TaskData, EncoderChoice]]:
    return [(data, choice) for data in results.data for choice in context.config.encoders]


def _plain(value: Any) -> Any:
    """Turn tuples and paths into what YAML and JSON know."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def print_outcome(outcome: SuiteOutcome) -> None:
    """Print seconds of each stage and where the results are."""
    console.print(
        "\nseconds of this run: " + ", ".join(f"{k} {v:.1f}" for k, v in outcome.stage_seconds.items())
    )
    recorded = outcome.results.stage_seconds()
    console.print(
        "seconds of the cells when computed: " + ", ".join(f"{k} {v:.1f}" for k, v in recorded.items())
    )
