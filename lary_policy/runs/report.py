"""The report of a run: results as plain data into one page, for every source; nothing is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lary_policy.errors import UnknownNameError
from lary_policy.report import (
    POINTS_FILE,
    Attention,
    ClassTail,
    CodebookUse,
    Confusion,
    ConstantDimension,
    EpisodeFailure,
    HeadInfo,
    LamPoint,
    Measured,
    Origin,
    ReportBundle,
    Trajectory,
    Video,
    collect_failures,
    loop_key,
    merge_points,
    points_bundle,
    read_points,
    write_points,
    write_report,
)
from lary_policy.runs.cells import point_latest, run_folder
from lary_policy.runs.context import STAGE_VERSIONS
from lary_policy.runs.results import Result, Results
from lary_policy.runs.rows import SplitTables, compositions, missing_rows, split_sizes
from lary_policy.scores import SampleScores, Score, is_decided
from lary_policy.types import EpisodeResult, Quarantined

_LARGEST_CONFUSION = 60  # classes; a larger matrix says nothing at the size of a page
_LISTED = 12  # unfinished cells named one by one
_FILMED = 4  # episodes tiled into a film whose result does not say which


def run_report(
    results: Results,
    folder: Path,
    *,
    title: str,
    suite: str,
    config_yaml: str = "",
    facts: Mapping[str, str] | None = None,
    media_root: Path | None = None,
    data: Sequence[SplitTables] = (),
    origin: Origin | None = None,
    lams: Sequence[LamPoint] = (),
) -> Path:
    """Write the page and its tables into `folder`, replacing what an earlier call left there.

    It may be called whenever a cell is finished: the page says what it does not hold yet.

    Args:
        results: Of all cells that are finished.
        folder: Where to write; made if it does not exist.
        title: Heading of the page.
        suite: Name of the run, e.g. `quick` or `calvin, protocol lary`.
        config_yaml: The resolved configuration.
        facts: Versions, device, revision, seeds: whatever is needed to repeat the run.
        media_root: The folder that the films' paths are relative to; defaults to `folder`.
        data: Opened sources whose splits are described.
        origin: Where the numbers come from, if points of a study are to be written, too.
        lams: Trained latent action models, for their curves.

    Returns:
        Path of the HTML file.

    Raises:
        ConfigError: Nothing is finished, or two results claim to be the same measurement.
        ShapeError: A number is not finite or outside its interval.
        StoreError: The disk is full or not writable.
    """
    if not lams:
        results.require_some()
    bundle = report_bundle(
        results,
        title=title,
        suite=suite,
        config_yaml=config_yaml,
        facts=facts or {},
        data=data,
        origin=origin,
    )
    return write_report(replace(bundle, lams=tuple(lams)), folder, media_root=media_root)


def points_page(paths: Sequence[Path], folder: Path) -> ReportBundle:
    """Write the page of the points of several runs into `folder`, and all that can be compared as one file.

    Args:
        paths: Files `points.jsonl.gz` that `run_report` wrote, on any machine.
        folder: Where to write; made if it does not exist.

    Raises:
        DatasetError: A file is missing or damaged, or holds points of other cell versions only.
    """
    points, notes = merge_points(read_points(paths), STAGE_VERSIONS)
    origins = {f"points, commit {p.origin.commit}": p.origin.device for p in points}
    bundle = points_bundle(
        points, notes, title="Which offline score foretells success?", suite="committed points",
        environment=origins,
    )  # fmt: skip
    write_points(folder / POINTS_FILE, points)
    write_report(bundle, folder)
    return bundle


def report_points(paths: Sequence[Path], output_dir: Path, name: str | None = None) -> Path:
    """Write the page of the points of several runs and return its path; errors are those of `points_page`.

    Args:
        paths: Files `points.jsonl.gz`.
        output_dir: Where the page's folder goes.
        name: Of the folder; None for one with the date.
    """
    folder = run_folder(output_dir, name, "report")
    points_page(paths, folder)
    point_latest(output_dir, folder)
    return folder / "report.html"


def report_bundle(
    results: Results,
    *,
    title: str,
    suite: str,
    config_yaml: str = "",
    facts: Mapping[str, str] | None = None,
    data: Sequence[SplitTables] = (),
    origin: Origin | None = None,
) -> ReportBundle:
    """Gather everything one report shows, see `run_report`."""
    probes = results.probe
    return ReportBundle(
        title=title,
        suite=suite,
        scores=tuple(results.scores()),
        trajectories=tuple(_trajectory(r, probes) for r in probes if "trajectory" in r),
        confusions=tuple(_confusion(r, probes) for r in probes if _drawable(r)),
        videos=tuple(_videos(results.rollout)),
        measured=tuple(one for r in (*probes, *results.rollout) for one in _measured(r)),
        quarantined=tuple(_quarantined(results)),
        inputs_checked=sum(r["requested"] for r in results.extract),
        failures=tuple(failure for r in results.rollout for failure in _failures(r)),
        constant_dims=tuple(_constant(probes)),
        stage_seconds=results.stage_seconds(),
        environment=facts or {},
        config_yaml=config_yaml,
        codebooks=tuple(_codebook(r) for r in results.extract if r["codebook"]),
        heads=tuple(_head(r) for r in probes if "member" in r),
        tails=tuple(_tail(r) for r in probes if "classes" in r),
        attention=tuple(sample for r in probes for sample in _attention(r)),
        splits=tuple(size for one in data for size in split_sizes(one)),
        compositions=tuple(made_of for one in data for made_of in compositions(one)),
        notes=tuple(dict.fromkeys(_notes(results, data))),
        warnings=tuple(_warnings(results)),
        latents={r["encoder"]: r["latent"] for r in probes if "latent" in r},
        origin=origin,
        families=_families(results),
        commits={loop_key(r): r["commit"] for r in results.rollout if "commit" in r},
        closed_loop=bool(results.data or results.rollout),
    )


def _families(results: Results) -> dict[str, str]:
    """Return the families that encoders declare, by view."""
    from lary_policy.encoders import lineage_of

    views = {row["encoder"] for row in (*results.probe, *results.rollout)}
    named = {view: lineage_of(view.partition("@")[0]) for view in views}
    return {view: family for view, family in named.items() if family}


def _where(row: Result, rows: Iterable[Result]) -> str:
    """Name the task of a head, and whatever else tells it from the run's other heads asked the same."""
    same = [r for r in rows if all(r[n] == row[n] for n in ("task", "encoder", "mode", "target"))]
    told = {"protocol": row["protocol"], "head": row["head"], "seed": f"seed {row['seed']}"}
    varying = [words for name, words in told.items() if len({r[name] for r in same}) > 1]
    return f"{row['task']} ({', '.join(varying)})" if varying else row["task"]


def _trajectory(row: Result, rows: Iterable[Result]) -> Trajectory:
    t = row["trajectory"]
    return Trajectory(
        row["encoder"], _where(row, rows), row["mode"], row["target"], t["episode"], tuple(t["labels"]),
        t["true"], t["predicted"], tuple(t["units"]),
    )  # fmt: skip


def _drawable(row: Result) -> bool:
    return "confusion" in row and len(row["confusion"]["labels"]) <= _LARGEST_CONFUSION


def _confusion(row: Result, rows: Iterable[Result]) -> Confusion:
    c = row["confusion"]
    return Confusion(row["encoder"], _where(row, rows), tuple(c["labels"]), c["counts"], row["mode"])


def _episodes(row: Result) -> list[EpisodeResult]:
    return [EpisodeResult(**e) for e in row["episodes"]]


def _videos(rows: Iterable[Result]) -> Iterable[Video]:
    """Yield the films; the scripted expert's is the same in every mode and shown once a task."""
    seen: set[str] = set()
    for row in rows:
        expert = row["encoder"] == "-"
        if not row.get("video") or (expert and row["task"] in seen):
            continue
        if expert:
            seen.add(row["task"])
        episodes = _episodes(row)
        seeds = row.get("filmed", [e.seed for e in episodes[:_FILMED]])
        filmed = [e for e in episodes if e.seed in seeds]
        speed = f", at {row['film_speed']:g} x real time" if row.get("film_speed", 1) != 1 else ""
        who = "scripted expert" if expert else f"{row['mode']} mode, {row['encoder']}, {row['head']} head"
        yield Video(
            row["video"],
            f"{row['task']}, {who}: green frame while it succeeds{speed}.",
            tuple(e.seed for e in filmed),
            tuple(e.success for e in filmed),
            reference=expert or row["head"] == "random",
        )


def _measured(row: Result) -> Iterable[Measured]:
    """Yield the scores of a result that are known sample by sample, or episode by episode."""
    scores = [Score.from_dict(s) for s in row["scores"]]
    known = [(split, SampleScores.from_dict(raw)) for split, raw in row.get("samples", {}).items()]
    for episodes in [_episodes(row)] if "episodes" in row else []:
        seeds = tuple(str(e.seed) for e in episodes)
        for metric in ("success", "success_at_end", "progress"):
            ended = tuple(float(getattr(e, metric)) for e in episodes)
            known.append(("", SampleScores(metric, seeds, seeds, ended)))
        yield from _speed(row, scores, episodes, seeds)
    for split, samples in known:
        found = [s for s in scores if s.metric == samples.metric and split in ("", s.split)]
        yield from (Measured(s, samples) for s in found)


def _speed(
    row: Result, scores: Sequence[Score], episodes: Sequence[EpisodeResult], seeds: tuple[str, ...]
) -> Iterator[Measured]:
    """Yield the share of its steps that each episode had left at its first success, see `OUTCOMES`."""
    from lary_envs.tasks import task_spec

    try:
        steps = row.get("max_episode_steps") or task_spec(row["task"]).max_steps
    except UnknownNameError:  # of a task that is no more
        return
    left = tuple(1 - e.first_success_step / steps if e.first_success_step else 0.0 for e in episodes)
    for score in scores:
        if score.metric == "success":
            yield Measured(
                replace(score, metric="speed", value=sum(left) / len(left), ci95=None),
                SampleScores("speed", seeds, seeds, left),
            )


def _failures(row: Result) -> Sequence[EpisodeFailure]:
    return collect_failures(row["encoder"], row["head"], row["task"], row["mode"], _episodes(row))


def _quarantined(results: Results) -> dict[Quarantined, None]:
    rows = [q for d in results.data for q in d["failed"]]
    rows += [q for r in (*results.extract, *results.probe) for q in r["quarantined"]]
    return dict.fromkeys(q if isinstance(q, Quarantined) else Quarantined(**q) for q in rows)


def _constant(probes: Iterable[Result]) -> list[ConstantDimension]:
    found = {(r["task"], r["target"], label): value for r in probes for label, value in r.get("constant", ())}
    return [ConstantDimension(*key, value) for key, value in sorted(found.items())]


def _codebook(row: Result) -> CodebookUse:
    names = ("codes", "used", "perplexity", "dead", "tokens")
    return CodebookUse(row["encoder"], row["task"], **{name: row["codebook"][name] for name in names})


def _head(row: Result) -> HeadInfo:
    names = ("encoder", "task", "protocol", "head", "target", "num_params", "best_epoch", "seconds", "seed")
    lr, decay = row["member"]
    return HeadInfo(
        **{name: row[name] for name in names},
        reference_key=row["reference_key"] or "",
        lr=lr,
        weight_decay=decay,
        statistics=row.get("statistics", ""),
    )


def _tail(row: Result) -> ClassTail:
    names, train, test, f1 = (tuple(c[n] for c in row["classes"]) for n in ("name", "train", "test", "f1"))
    return ClassTail(row["encoder"], row["task"], row["protocol"], row["head"], names, train, test, f1)


def _attention(row: Result) -> list[Attention]:
    shared = {name: row[name] for name in ("encoder", "task", "protocol")}
    return [Attention(**shared, **one) for one in row.get("attention", ())]


def _warnings(results: Results) -> Iterable[str]:
    """Yield what a reader must know before the numbers: what is missing, and which numbers mean little."""
    if results.pending:
        yield f"This run goes on: {results.pending} steps are done; this page is rewritten as others are."
    yield from results.warnings
    missing = results.unfinished
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        yield f"Not finished, so not on this page: {', '.join(missing[:_LISTED])}{more}."
    yield from dict.fromkeys(text for r in results.probe for text in _said(r))


def _said(row: Result) -> list[str]:
    """Return what the evaluation of a head warns of: collapsed heads, single numbers that fill the error."""
    who = f"{row['task']}, {row['encoder']}, {row['mode']}, {row['target']}, {row['head']}"
    return [f"{who}: {text}" for text in row.get("warnings", ())]


def _notes(results: Results, data: Sequence[SplitTables]) -> list[str]:
    notes = list(results.notes)
    for one in data:
        spec, counts = one.spec, ", ".join(f"{split} {len(one.table(split))}" for split in one.splits)
        notes.append(
            f"{one.name}, protocol {one.protocol}: rows {counts}; heads learn on {spec.train_split}, are "
            f"chosen on {spec.select_split} and reported on {', '.join(spec.report_splits)}."
        )
    for r in results.extract:
        notes.append(
            f"{r['task']}, protocol {r['protocol']}, {r['encoder']}: {r['requested']} inputs, {r['unique']} "
            f"unique {r['unit']}s, {r['encoded']} encoded and {r['reused']} already in the store."
        )
    for r in results.rollout:
        asked = r.get("question")
        if asked:
            told = "differs" if is_decided(asked["evidence"]) else "is not told apart"
            who = f"{r['task']}, {r['mode']}, {r['encoder']}, {r['head']}"
            notes.append(
                f"{who}: after {asked['episodes']} episodes success {told} from that of "
                f"{asked['differs_from']} (e-value {asked['evidence']:.3g}; 20 decide)."
            )
    notes += missing_rows(results.probe)
    return notes + [text for r in results.probe for text in _probe_notes(r)]


def _probe_notes(row: Result) -> list[str]:
    """Say what a reader must know about one probe's data."""
    where = f"{row['task']}, protocol {row['protocol']}"
    notes = []
    unknown = {split: count for split, count in row.get("unknown_robots", {}).items() if count}
    if unknown:
        counts = ", ".join(f"{count} of split {split}" for split, count in unknown.items())
        notes.append(f"{where}: rows of robot types without statistics of their own: {counts}.")
    found, stated = row.get("num_classes") or (None, None)
    if stated is not None and found != stated:
        notes.append(f"{where}: the training split has {found} classes, its publisher states {stated}.")
    return notes
