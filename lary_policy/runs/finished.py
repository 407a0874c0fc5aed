"""Everything finished in an output folder, whichever runs made it, told apart by what can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lary_policy.console import console
from lary_policy.encoders import check_installed, find_encoder
from lary_policy.errors import LaryPolicyError
from lary_policy.paths import read_json
from lary_policy.report import POINTS_FILE, Origin, StudyPoint, study_points, write_points
from lary_policy.runs.cells import RESULT, RUN_FILE, Cell, every_start, point_latest, run_folder
from lary_policy.runs.collect import collected, open_task
from lary_policy.runs.config import run_config
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import extract_cell
from lary_policy.runs.lam import lam_points
from lary_policy.runs.probe import jobs_of, pairs_of
from lary_policy.runs.report import report_bundle, run_report
from lary_policy.runs.results import Result, Results
from lary_policy.runs.rollout import loops_of

STAGES = ("extract", "probe", "rollout")  # of cells that hold results
_NAMED = 4  # cells named one by one
_SAME = ("task", "protocol", "encoder", "head", "mode", "target", "seed", "split")


def report_everything(output_dir: Path, name: str | None = None, trust: Sequence[str] = ()) -> Path:
    """Write a page of all finished probes and rollouts under an output folder, whatever run made them.

    Runs on tasks are set up again from their `run.json` to know which cells are theirs. Results that cannot
    be compared, of other settings or another kind of device, never stand on one page: the kind of which there
    are most does, and the page names the runs of the others. Results of files stand beside. All points of all
    kinds go into `points.jsonl.gz`, each with its origin. What no run asks for, such as cells of other
    versions, is counted, named and left out.

    Args:
        output_dir: The folder of the runs and their cache.
        name: Of the folder in it that the page goes to; `report-<date>-<time>` by default.
        trust: Own encoders, `package.module:Attribute`, that runs may name though they are not installed.

    Returns:
        Path of the HTML file.

    Raises:
        ConfigError: Nothing is finished.
        StoreError: A result is damaged, or the disk is full.
    """
    for own in trust:
        find_encoder(own)
    first, *others = everything_finished(output_dir)
    lams, left_out = lam_points(output_dir)
    if not lams:
        first.results.require_some()
    first.results.warnings += left_out
    for note in first.results.warnings:
        console.print(f"    {note}", soft_wrap=True, markup=False)
    folder = run_folder(output_dir, name, "report")
    page = run_report(
        first.results, folder, title="What is finished so far?", suite="everything finished",
        media_root=output_dir / "cache", origin=first.origin, lams=lams,
    )  # fmt: skip
    if first.origin is not None and others:
        write_points(folder / POINTS_FILE, [point for kind in (first, *others) for point in kind.points()])
    point_latest(output_dir, folder)
    return page


@dataclass(frozen=True, eq=False)
class Asked:
    """What one run of an output folder asked for.

    Attributes:
        run: Name of its folder.
        origin: What its points share.
        cells: Folders of its cells, finished or not.
    """

    run: str
    origin: Origin
    cells: frozenset[Path]


@dataclass(eq=False)
class Kind:
    """Finished results that can be compared.

    Attributes:
        origin: What they share; None where no run says it.
        runs: Names of the runs that asked for them.
        results: Of several cells that measured the same the latest.
    """

    origin: Origin | None = None
    runs: list[str] = field(default_factory=list)
    results: Results = field(default_factory=lambda: Results(finished_only=True))
    _rows: dict[tuple[object, ...], Result] = field(default_factory=dict)

    def put(self, stage: str, row: Result) -> bool:
        """Add a result and tell whether it replaces an older one of the same measurement."""
        key = (stage, *(row.get(name) for name in _SAME))
        known = key in self._rows
        self._rows[key] = row
        return known

    def settle(self) -> None:
        """Turn what was put into results."""
        for stage in STAGES:
            getattr(self.results, stage).extend(row for key, row in self._rows.items() if key[0] == stage)
        self.results.rollout = list(_per_loop(self.results.rollout))

    @property
    def count(self) -> int:
        """Probes and closed loops."""
        return len(self.results.probe) + len(self.results.rollout)

    def points(self) -> tuple[StudyPoint, ...]:
        """Return them as points of a study."""
        if self.origin is None or not self.count:
            return ()
        return study_points(report_bundle(self.results, title="", suite="", origin=self.origin), self.origin)


def asked_by_runs(output_dir: Path) -> tuple[list[Asked], list[str]]:
    """Set up the runs on tasks of an output folder again, oldest first; nothing is computed.

    Returns:
        The runs, and sentences about those that cannot be set up.
    """
    found, notes, known = [], [], set()
    files = [path for path in output_dir.glob(f"*/{RUN_FILE}") if not path.parent.is_symlink()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
        try:
            raw = read_json(path)
            if "lam" in raw:  # a training, which has a figure of its own
                continue
            settings = {**raw["config"], "device": str(raw["environment"]["device"])}
            told = json.dumps({n: v for n, v in settings.items() if n not in ("run", "name")}, sort_keys=True)
            if settings.get("tasks") and told not in known:
                found.append(_asked(path.parent.name, settings, output_dir))
            known.add(told)
        except (LaryPolicyError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, LaryPolicyError) else f"its {RUN_FILE} lacks {error}"
            notes.append(
                f"Run {path.parent.name} cannot be set up again; what only it asked for is left out: {why}"
            )
    return found, notes


def _asked(run: str, settings: Mapping[str, Any], output_dir: Path) -> Asked:
    for view in settings["encoders"]:
        if ":" in view["name"] and not view["name"].startswith("auto:"):
            # A file names it, which is no reason to import anything.
            check_installed(view["name"], "lary report trust={}")
    context = RunContext.create(replace(run_config(settings), output_dir=output_dir), until="extract")
    context.data += [open_task(context, task) for task in context.config.tasks if collected(context, task)]
    cells = [extract_cell(context, data, view) for data, view in pairs_of(context)]
    cells += [job.cell(context) for data, view in pairs_of(context) for job in jobs_of(context, data, view)]
    cells += [loop.cell(context) for data in context.data for loop in loops_of(context, data)]
    return Asked(run, context.origin(), frozenset(cell.folder for cell in cells))


def everything_finished(output_dir: Path) -> list[Kind]:
    """Return all finished results of an output folder by what keeps them apart, the most of them first.

    A probe whose head drives in two sorts of worlds is in both kinds. Results of files, which have no points,
    stand with the first kind, whose warnings say what is left out.
    """
    asked, lines = asked_by_runs(output_dir)
    kinds: dict[str, Kind] = {}
    for one in asked:
        kinds.setdefault(one.origin.kind, Kind(one.origin)).runs.append(one.run)
    unasked, files, strays, older, unread = Kind(), [], [], 0, 0
    starts = every_start(output_dir)
    for stage, cell in _cells(output_dir / "cache"):
        if cell.is_older:
            unread += 1
            continue
        row = {**cell.result(), "commit": cell.commit(starts)}
        homes = {one.origin.kind for one in asked if cell.folder in one.cells}
        if homes:
            older += sum([kinds[name].put(stage, row) for name in homes])
        elif not _of_task(row):
            files.append((stage, row))
        elif asked:
            strays.append(cell)
        else:
            older += unasked.put(stage, row)
    found = [*kinds.values()] or [unasked]
    for kind in found:
        kind.settle()
    found.sort(key=lambda kind: -kind.count)
    rest = Kind()
    older += sum([rest.put(stage, row) for stage, row in files])
    rest.settle()
    for stage in STAGES:
        getattr(found[0].results, stage).extend(getattr(rest.results, stage))
    counts = {
        "older results of the same measurements": older,
        "results that an earlier version wrote": unread,
    }
    not_set_up = len(lines)
    lines += [f"{count} {what} are left out." for what, count in counts.items() if count]
    found[0].results.warnings += [*lines, *_strays(strays, not_set_up), *_others(found)]
    return [kind for kind in found if kind is found[0] or kind.count]


def _cells(cache: Path) -> Iterator[tuple[str, Cell]]:
    """Yield stage and cell of every finished result, those finished last at the end."""
    for stage in STAGES:
        for path in sorted((cache / stage).glob(f"*/{RESULT}"), key=lambda path: path.stat().st_mtime_ns):
            yield stage, Cell.at(path.parent)


def _of_task(row: Result) -> bool:
    from lary_envs.tasks import task_spec
    from lary_policy.errors import UnknownNameError

    try:
        task_spec(row["task"])
    except UnknownNameError:
        return False
    return True


def _strays(cells: Sequence[Cell], not_set_up: int) -> Iterator[str]:
    """Name the cells of tasks that no run of the folder asks for, as far as the runs could be set up."""
    if cells:
        named = ", ".join(f"{cell.stage}/{cell.folder.name}" for cell in cells[:_NAMED])
        more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
        other = "of other cell versions or of settings that no run of this folder has"
        if not_set_up:
            yield (
                f"{len(cells)} results under cache are of the runs that cannot be set up (above), {other}, "
                f"and are left out: {named}{more}."
            )
        else:
            yield (
                f"{len(cells)} results under cache are {other}, and are left out: {named}{more}. "
                "`lary report` with their settings shows them; delete the folders to be rid of them."
            )


def _others(kinds: Sequence[Kind]) -> Iterator[str]:
    """Name the kinds that are not on the page, and what keeps them from it."""
    for kind in kinds[1:]:
        if kind.count and kind.origin is not None and kinds[0].origin is not None:
            runs = ", ".join(kind.runs[:_NAMED])
            apart = kinds[0].origin.apart(kind.origin)
            yield (
                f"{kind.count} results of other settings cannot be compared with these ({apart}) and "
                f"are left out; each of these runs has a page of its own: {runs}."
            )


def _per_loop(rows: Sequence[Result]) -> Iterator[Result]:
    """Yield rollouts, the expert's once for each mode and target of its task: it is the same in all."""
    loops: dict[str, dict[tuple[str, str], None]] = {}
    for row in rows:
        if row["head"] != "expert":
            loops.setdefault(row["task"], {})[row["mode"], row["target"]] = None
    latest = {(row["task"], row["head"]): row for row in rows if row["head"] == "expert"}
    for row in [row for row in rows if row["head"] != "expert"] + [*latest.values()]:
        own = (row["mode"], row["target"])
        for mode, target in loops.get(row["task"], {own: None}) if row["head"] == "expert" else (own,):
            asked = {"mode": mode, "target": target}
            yield {**row, **asked, "scores": [{**score, **asked} for score in row["scores"]]}
