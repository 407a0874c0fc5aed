"""The stages of a run on a source in order: extract, probe, report."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path

import yaml

from lary_policy.console import console, progress
from lary_policy.errors import ConfigError
from lary_policy.heads.training import agree, connect, first_alone, first_then_all
from lary_policy.machine import is_main_process, resolve_device
from lary_policy.stages.cells import point_latest, write_json
from lary_policy.stages.context import machine_facts
from lary_policy.stages.given_statistics import check_statistics
from lary_policy.stages.report import Results
from lary_policy.stages.row_counts import missing_rows
from lary_policy.stages.source_config import SourceConfig
from lary_policy.stages.source_data import SourceContext
from lary_policy.stages.source_latents import extract_cell, load_samples, run_extract
from lary_policy.stages.source_probe import jobs_of, probe_cell, run_probe
from lary_policy.stages.source_report import run_source_report
from lary_policy.stages.suite import SuiteOutcome, plain

STAGES = ("extract", "probe", "report")


def run_source_suite(
    config: SourceConfig, *, until: str = "report", verb: str = "suite", finished_only: bool = False
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
        LaryPolicyError: A name is unknown, weights or files are absent, data are unusable, ...
    """
    connect(resolve_device(config.device))
    with progress(f"read {config.source}"):
        context = first_then_all(lambda: _read(config))
    folder = config.output_dir / (config.run or f"{verb}-{config.source}-{time.strftime('%Y%m%d-%H%M%S')}")
    settings = plain(dataclasses.asdict(config))
    facts = machine_facts(context.device, context.cores, config.seed, config.protocol)
    if is_main_process():
        write_json(folder / "run.json", {"environment": facts, "config": settings})
    results, spent = Results(finished_only=finished_only), {}
    report: Path | None = None
    for stage in STAGES[: STAGES.index(until) + 1]:
        started = time.perf_counter()
        if stage != "report":
            {"extract": _extract, "probe": _probe}[stage](context, results)
        elif is_main_process():
            with progress("report"):
                text = yaml.safe_dump(settings, sort_keys=False)
                report = run_source_report(context, results, folder, text, facts)
        spent[stage] = time.perf_counter() - started
    for line in missing_rows(results.probe):
        console.print(f"    {line}", soft_wrap=True, markup=False)
    if report is not None:
        point_latest(config.output_dir, folder)
    return SuiteOutcome(folder, report, spent, results)


def _read(config: SourceConfig) -> SourceContext:
    context = SourceContext.create(config)
    check_statistics(context)
    for data in context.data:
        _ = data.digest
    return context


def _extract(context: SourceContext, results: Results) -> None:
    for data in context.data:
        for choice in context.choices(data.protocol):
            cell = extract_cell(context, data, choice)
            if results.wants(f"extract {cell.label}", agree(cell.done)):
                extract = partial(run_extract, context, data, choice)
                results.extract.append(first_alone(extract, cell.result))
    if not results.extract:
        raise ConfigError(
            expected=f"something finished under {context.config.output_dir / 'cache'}",
            got="no latents of these settings",
            fix="Run `lary suite` with the same settings first.",
        )


def _probe(context: SourceContext, results: Results) -> None:
    for data in context.data:
        for choice in context.choices(data.protocol):
            jobs = jobs_of(context, data, choice)
            done = agree([probe_cell(context, job).done for job in jobs])
            wanted = [
                job
                for job, whole in zip(jobs, done, strict=True)
                if results.wants(f"probe {job.label}", whole)
            ]
            todo = agree(not all(probe_cell(context, job).done for job in wanted))
            splits = load_samples(context, data, choice) if todo else {}
            results.probe += [run_probe(context, job, splits) for job in wanted]
