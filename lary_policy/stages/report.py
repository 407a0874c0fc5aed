"""Stage `report`: gather what is finished into one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lary_policy.actions import Embodiment
from lary_policy.report import (
    CodebookUse,
    Confusion,
    ConstantDimension,
    ReportBundle,
    Trajectory,
    Video,
    collect_failures,
    write_report,
)
from lary_policy.scores import Score
from lary_policy.stages.context import RunContext, environment
from lary_policy.stages.data import TaskData
from lary_policy.stages.row_counts import missing_rows
from lary_policy.types import EpisodeResult, Quarantined


@dataclass
class Results:
    """Results of all finished cells of a run.

    Attributes:
        data: One entry a task.
        extract: Results of `run_extract`.
        probe: Results of `run_probe`.
        rollout: Results of `run_rollout`.
        finished_only: Whether unfinished cells are left out instead of computed.
        unfinished: The cells that were left out for that reason.
    """

    data: list[TaskData] = field(default_factory=list)
    extract: list[dict[str, Any]] = field(default_factory=list)
    probe: list[dict[str, Any]] = field(default_factory=list)
    rollout: list[dict[str, Any]] = field(default_factory=list)
    finished_only: bool = False
    unfinished: list[str] = field(default_factory=list)

    def wants(self, name: str, done: bool) -> bool:
        """Tell whether a cell belongs to this run; one that is left out is noted in `unfinished`."""
        if self.finished_only and not done:
            self.unfinished.append(name)
        return done or not self.finished_only

    def stage_seconds(self) -> dict[str, float]:
        """Return the seconds each stage took when its cells were computed."""
        stages = {"extract": self.extract, "probe": self.probe, "rollout": self.rollout}
        seconds = {"data": sum(d.seconds for d in self.data)}
        return {**seconds, **{name: sum(r["seconds"] for r in rows) for name, rows in stages.items()}}

    def scores(self) -> list[Score]:
        """Return the scores of all probes and rollouts."""
        return [Score.from_dict(s) for r in (*self.probe, *self.rollout) for s in r["scores"]]


def run_report(context: RunContext, results: Results, folder: Path, config_yaml: str) -> Path:
    """Write report.html and report.json into `folder` and return the page's path."""
    bundle = report_bundle(context, results, config_yaml)
    return write_report(bundle, folder, media_root=context.cache)


def report_bundle(context: RunContext, results: Results, config_yaml: str) -> ReportBundle:
    """Gather everything one report shows."""
    return ReportBundle(
        title="Which latents drive a robot?",
        suite=context.config.name,
        scores=tuple(results.scores()),
        trajectories=tuple(
            _trajectory(r, context.embodiment_of(r["task"])) for r in results.probe if "trajectory" in r
        ),
        confusions=tuple(
            Confusion(r["encoder"], r["task"], tuple(r["confusion"]["labels"]), r["confusion"]["counts"])
            for r in results.probe
            if "confusion" in r
        ),
        videos=tuple(_video(r) for r in results.rollout),
        quarantined=tuple(_quarantined(results)),
        inputs_checked=sum(r["requested"] for r in results.extract),
        failures=tuple(f for r in results.rollout for f in _failures(r)),
        constant_dims=tuple(_constant(results.probe)),
        stage_seconds=results.stage_seconds(),
        environment=environment(context),
        config_yaml=config_yaml,
        codebooks=tuple(_codebook(r) for r in results.extract if r["codebook"]),
        notes=tuple(_notes(results)),
    )


def _trajectory(row: dict[str, Any], embodiment: Embodiment) -> Trajectory:
    units = tuple(unit for _, unit in sorted((i, g.unit) for g in embodiment.groups for i in g.indices))
    labels = embodiment.labels
    t = row["trajectory"]
    return Trajectory(
        row["encoder"],
        row["task"],
        row["mode"],
        row["target"],
        t["episode"],
        labels,
        t["true"],
        t["predicted"],
        units,
    )


def _episodes(row: dict[str, Any]) -> list[EpisodeResult]:
    return [EpisodeResult(**e) for e in row["episodes"]]


def _video(row: dict[str, Any]) -> Video:
    filmed = _episodes(row)[:4]
    who = "scripted expert" if row["encoder"] == "-" else f"{row['encoder']}, {row['head']} head"
    return Video(
        row["video"],
        f"{row['task']}, {row['mode']} mode, {who}: first episodes, green frame while it succeeds",
        tuple(e.seed for e in filmed),
        tuple(e.success for e in filmed),
    )


def _failures(row: dict[str, Any]) -> Sequence[Any]:
    return collect_failures(row["encoder"], row["head"], row["task"], row["mode"], _episodes(row))


def _quarantined(results: Results) -> list[Quarantined]:
    rows = [q for d in results.data for q in d.failed]
    rows += [Quarantined(**q) for r in (*results.extract, *results.probe) for q in r["quarantined"]]
    return list(dict.fromkeys(rows))


def _constant(probes: Sequence[dict[str, Any]]) -> list[ConstantDimension]:
    found = {(r["task"], r["target"], label): value for r in probes for label, value in r.get("constant", ())}
    return [ConstantDimension(*key, value) for key, value in sorted(found.items())]


def _codebook(row: dict[str, Any]) -> CodebookUse:
    names = ("codes", "used", "perplexity", "dead", "tokens")
    return CodebookUse(row["encoder"], row["task"], **{name: row["codebook"][name] for name in names})


def _notes(results: Results) -> list[str]:
    missing = [*missing_rows(results.probe)]
    missing += [f"Not finished, so not on this page: {name}." for name in results.unfinished]
    return missing + [
        f"{r['task']}, {r['encoder']}: {r['requested']} frame files, {r['unique']} unique {r['unit']}s, "
        f"{r['encoded']} encoded and {r['reused']} already in the store."
        for r in results.extract
    ]
