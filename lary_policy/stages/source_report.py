"""Stage `report` of a run on a source: gather what is finished into one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lary_policy.report import (
    Attention,
    ClassTail,
    CodebookUse,
    Confusion,
    ConstantDimension,
    HeadInfo,
    ReportBundle,
    Trajectory,
    write_report,
)
from lary_policy.stages.composition import compositions, split_sizes
from lary_policy.stages.report import Results
from lary_policy.stages.row_counts import missing_rows
from lary_policy.stages.source_data import SourceContext
from lary_policy.types import Quarantined

_LARGEST_CONFUSION = 60  # classes; a larger matrix says nothing at the size of a page


def run_source_report(
    context: SourceContext, results: Results, folder: Path, config_yaml: str, facts: Mapping[str, str]
) -> Path:
    """Write report.html and report.json into `folder` and return the page's path."""
    bundle = source_bundle(context, results, config_yaml, facts)
    return write_report(bundle, folder, media_root=context.config.output_dir / "cache")


def source_bundle(
    context: SourceContext, results: Results, config_yaml: str, facts: Mapping[str, str]
) -> ReportBundle:
    """Gather everything one report shows."""
    return ReportBundle(
        title="What do these latents know of action?",
        suite=f"{context.config.source}, protocol {context.config.protocol}",
        scores=tuple(results.scores()),
        trajectories=tuple(_trajectory(r) for r in results.probe if "trajectory" in r),
        confusions=tuple(_confusion(r) for r in results.probe if _drawable(r)),
        quarantined=tuple(_quarantined(results.extract) | _quarantined(results.probe)),
        inputs_checked=sum(r["requested"] for r in results.extract),
        constant_dims=tuple(_constant(results.probe)),
        stage_seconds=results.stage_seconds(),
        environment=facts,
        config_yaml=config_yaml,
        codebooks=tuple(_codebook(r) for r in results.extract if r["codebook"]),
        heads=tuple(_head(r) for r in results.probe),
        tails=tuple(_tail(r) for r in results.probe if "classes" in r),
        attention=tuple(a for r in results.probe for a in _attention(r)),
        splits=tuple(size for data in context.data for size in split_sizes(data)),
        compositions=tuple(made_of for data in context.data for made_of in compositions(data)),
        notes=tuple(_notes(context, results)),
        closed_loop=False,
    )


def _head(row: Mapping[str, Any]) -> HeadInfo:
    names = ("encoder", "task", "protocol", "head", "target", "num_params", "best_epoch", "seconds", "seed")
    lr, decay = row["member"]
    return HeadInfo(
        **{name: row[name] for name in names},
        reference_key=row["reference_key"] or "",
        lr=lr,
        weight_decay=decay,
        statistics=row.get("statistics", ""),
    )


def _tail(row: Mapping[str, Any]) -> ClassTail:
    names, train, test, f1 = (tuple(c[n] for c in row["classes"]) for n in ("name", "train", "test", "f1"))
    return ClassTail(row["encoder"], row["task"], row["protocol"], row["head"], names, train, test, f1)


def _attention(row: Mapping[str, Any]) -> list[Attention]:
    shared = {name: row[name] for name in ("encoder", "task", "protocol")}
    return [Attention(**shared, **one) for one in row.get("attention", ())]


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    t = row["trajectory"]
    mode = row["mode"]
    where = f"{row['task']} ({row['protocol']}, {row['head']})"
    return Trajectory(
        row["encoder"], where, mode, row["target"], t["episode"], tuple(t["labels"]), t["true"],
        t["predicted"], tuple(t["units"]),
    )  # fmt: skip


def _drawable(row: Mapping[str, Any]) -> bool:
    return "confusion" in row and len(row["confusion"]["labels"]) <= _LARGEST_CONFUSION


def _confusion(row: Mapping[str, Any]) -> Confusion:
    c = row["confusion"]
    where = f"{row['task']} ({row['protocol']}, {row['head']})"
    return Confusion(row["encoder"], where, tuple(c["labels"]), c["counts"], row["mode"])


def _quarantined(rows: Sequence[Mapping[str, Any]]) -> dict[Quarantined, None]:
    return dict.fromkeys(Quarantined(**q) for r in rows for q in r["quarantined"])


def _constant(rows: Sequence[Mapping[str, Any]]) -> list[ConstantDimension]:
    found = {(r["task"], r["target"], label): value for r in rows for label, value in r.get("constant", ())}
    return [ConstantDimension(*key, value) for key, value in sorted(found.items())]


def _codebook(row: Mapping[str, Any]) -> CodebookUse:
    names = ("codes", "used", "perplexity", "dead", "tokens")
    return CodebookUse(row["encoder"], row["task"], **{name: row["codebook"][name] for name in names})


def _notes(context: SourceContext, results: Results) -> list[str]:
    notes = [f"Not finished, so not on this page: {name}." for name in results.unfinished]
    for data in context.data:
        counts = ", ".join(f"{split} {len(data.table(split))}" for split in data.splits)
        s = data.spec
        notes.append(
            f"{s.key}, protocol {data.protocol}: rows {counts}; heads learn on {s.train_split}, are chosen "
            f"on {s.select_split} and reported on {', '.join(s.report_splits)}."
        )
    for r in results.extract:
        notes.append(
            f"{r['task']}, {r['protocol']}, {r['encoder']}: {r['requested']} inputs, {r['unique']} unique "
            f"{r['unit']}s, {r['encoded']} encoded and {r['reused']} already in the store."
        )
    notes += missing_rows(results.probe)
    notes += [text for r in results.probe for text in _probe_notes(r)]
    return list(dict.fromkeys(notes))


def _probe_notes(row: Mapping[str, Any]) -> list[str]:
    """Say what a reader must know about one probe's data."""
    where = f"{row['task']}, protocol {row['protocol']}"
    notes = []
    unknown = {split: count for split, count in row.get("unknown_robots", {}).items() if count}
    if unknown:
        counts = ", ".join(f"{count} of split {split}" for split, count in unknown.items())
        notes.append(f"{where}: rows of robot types without statistics of their own: {counts}.")
    found, stated = row.get("num_classes", (None, None))
    if stated is not None and found != stated:
        notes.append(f"{where}: the training split has {found} classes, its publisher states {stated}.")
    return notes
