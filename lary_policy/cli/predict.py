"""`lary predict`: which success to expect of an encoder on each task, from probes and a study's points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lary_policy.cli.compose import compose, wants_help
from lary_policy.cli.help import run_help
from lary_policy.console import busy
from lary_policy.errors import ConfigError, DatasetError
from lary_policy.paths import configs_dir, write_json

if TYPE_CHECKING:
    from lary_policy.report import Foretold, StudyPoint
    from lary_policy.runs import RunConfig
    from lary_policy.scores import Score

TOO_WIDE = 0.5  # intervals of success that reach over half of what is possible
POINTS = ("points", "null", "files points.jsonl.gz of a study, as [a,b]; null = those of the package")


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code.

    Raises:
        LaryPolicyError: Anything wrong with names, settings, weights or the study's points.
    """
    if wants_help(arguments):
        print(run_help(verb, arguments, [POINTS]))
        return 0
    with busy("lary predict"):
        from lary_policy.runs import run_config

        raw = compose(verb, [*_study(arguments), *arguments], extra=("points",))
        paths = points_of(raw.pop("points", None))
        config = run_config(raw)
        if not config.tasks:
            raise ConfigError(
                expected="tasks of a study", got=f"source={config.source}", fix="Leave source out."
            )
        if not any(word.startswith(("tasks=", "env=")) for word in arguments):
            points, _ = study_for(paths, config)
            config = replace(config, tasks=tuple(dict.fromkeys(p.task for p in points)))
        done = predict_success(config, paths)
    print("\n".join(forecast_lines(done)))
    print(done.folder)
    return 0


def points_of(given: object) -> list[Path]:
    """Return the files of points that were typed.

    Raises:
        ConfigError: It is no list of files.
    """
    if given is None:
        return []
    if not isinstance(given, list) or not given:
        raise ConfigError(
            expected="a list of files points.jsonl.gz",
            got=f"points={given}",
            fix="Write points=[outputs/latest/points.jsonl.gz], for example.",
        )
    return [Path(str(one)) for one in given]


def _study(arguments: Sequence[str]) -> list[str]:
    return [] if any(word.startswith("suite=") for word in arguments) else ["suite=study"]


@dataclass(frozen=True)
class SuccessForecast:
    """What `lary predict` found.

    Attributes:
        folder: Of the run, with `predict.json`.
        found: The expected success of each view on each task in each loop.
        rows: The study's measured views and the foretold ones, best first within a task and loop.
        notes: About points that were left out.
    """

    folder: Path
    found: tuple[Foretold, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def committed_points() -> list[Path]:
    """Return the file of points that comes with the package, or nothing where it has none."""
    return sorted((configs_dir() / "points").glob("*.jsonl.gz"))


def study_for(paths: Sequence[Path], config: RunConfig) -> tuple[tuple[StudyPoint, ...], tuple[str, ...]]:
    """Return the points that the probes of a run can be compared with, and sentences about the others.

    Raises:
        DatasetError: There are none: no file, or only points of other cell versions, settings or devices.
    """
    from lary_policy.report import merge_points, read_points
    from lary_policy.runs import STAGE_VERSIONS, RunContext

    if not paths:
        raise DatasetError(
            expected="points of a finished study",
            got="none: this version of the package comes without",
            fix="Run `lary suite suite=study` and pass points=[outputs/latest/points.jsonl.gz].",
        )
    return merge_points(read_points(paths), STAGE_VERSIONS, RunContext.create(config, until="data").origin())


def predict_success(config: RunConfig, paths: Sequence[Path] = ()) -> SuccessForecast:
    """Probe the encoders of a run on its tasks and say which success to expect of them.

    Nothing is rolled out and no goals are collected: demonstrations, latents and probes are all it needs.
    What is finished is reused.

    Args:
        config: Encoders, tasks and questions; the settings of the study.
        paths: Files `points.jsonl.gz` of the study; nothing for those of the package.

    Raises:
        DatasetError: There are too few points of the study, or none that can be compared.
    """
    from lary_policy.report import foretell, foretold_rows, points_bundle, require_points
    from lary_policy.runs import run_suite
    from lary_policy.scores import list_proxies

    points, notes = study_for(paths or committed_points(), config)
    bundle = points_bundle(points, title="", suite="")
    known = {(p.loop, p.facts["target"], p.facts["head"]) for p in points if p.proxies}
    driven = bundle.driven[0]
    for loop in dict.fromkeys(p.loop for p in points):  # before minutes are spent on probes
        there = [p for p in driven if p.loop == loop]
        require_points(loop, there, tuple(list_proxies()), config.tasks)
    outcome = run_suite(replace(config, rollouts=()), until="probe", verb="predict")
    scores = outcome.results.scores()
    found: list[Foretold] = []
    for view in config.encoders:
        for loop, target, head in sorted(known):
            mine = [p for p in driven if p.loop == loop]
            found += foretell(mine, view.label, _offline(scores, view.label, config.tasks, target, head))
    rows = foretold_rows(driven, found)
    result = {"foretold": [asdict(one) for one in found], "table": rows, "notes": list(notes)}
    write_json(outcome.folder / "predict.json", result, seal=True)
    return SuccessForecast(outcome.folder, tuple(found), tuple(rows), notes)


def _offline(
    scores: Sequence[Score], view: str, tasks: Sequence[str], target: str, head: str
) -> dict[str, dict[str, float]]:
    """Return the scores of a view that belong to a loop's head, by task and proxy; means over seeds."""
    from lary_policy.report import belonging
    from lary_policy.scores import list_proxies

    asked: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.encoder == view:
            asked[score.task, score.mode, score.metric].append(score)
    found: dict[str, dict[str, float]] = {}
    for task in tasks:
        found[task] = {}
        for name, proxy in list_proxies().items():
            candidates = asked[task, proxy.question, proxy.metric]
            same, _ = belonging(candidates, {s.fingerprint for s in candidates}, target, head)
            if same:
                found[task][name] = float(np.mean([s.value for s in same]))
    return found


def forecast_lines(forecast: SuccessForecast) -> list[str]:
    """Return the table in columns; measured views without, foretold ones with their interval."""
    from lary_policy.scores import list_proxies

    found, named = [], list_proxies()
    for row in forecast.rows:
        ends = row["interval"]
        said = "measured" if ends is None else f"expected [{ends[0]:.2f}, {ends[1]:.2f}]"
        found.append((row["task"], row["loop"], f"{row['success']:.2f}", said, row["view"]))
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in found]
    for one in {f.loop: f for f in forecast.found}.values():
        ends = np.array([f.interval for f in forecast.found if f.loop == one.loop])
        width = float((ends[:, 1] - ends[:, 0]).mean())
        verdict = ", too wide to tell encoders apart" if width > TOO_WIDE else ""
        lines.append(
            f"{one.loop}: from {', '.join(named[name].words for name in one.proxies)} of the {one.points} "
            f"points that have all of them ({one.missing} lack one); such intervals cover "
            f"{one.coverage:.0%} of them when left out, a {one.left_out_by} at a time, and are "
            f"{width:.2f} wide{verdict}."
        )
    return [*lines, *forecast.notes]
