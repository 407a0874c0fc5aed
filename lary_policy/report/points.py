"""The finished points of a study as one small file that runs on several machines add to.

A line is a view on a task in one closed loop with one training seed: what each episode came to, every offline
score of the same view, task and weights, and where the numbers come from: cell versions, settings, device and
the commit that ran its episodes. Experts and random heads, a task's ceiling and floor, have lines, too.
Points of other cell versions, other settings or another kind of device are never put together: one kind is
kept, the others are named.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.paths import MAX_JSON_BYTES, atomic_write, foreign_file, open_regular, parse_json
from lary_policy.report.bundle import ReportBundle, check_score, score_key
from lary_policy.report.compare import REFERENCE_HEADS, Measured, family_of
from lary_policy.report.driven import OUTCOMES, belonging, loops_driven
from lary_policy.report.lines import FACTS, FORMAT, RATES, SCORE, check_line
from lary_policy.report.origin import Origin
from lary_policy.scores import SampleScores, Score, bootstrap_mean_ci, find_proxy, list_proxies, wilson_ci

POINTS_FILE = "points.jsonl.gz"
_DIGITS = 6  # significant ones of a score: the intervals are far wider


@dataclass(frozen=True)
class StudyPoint:
    """One view on one task in one closed loop with one training seed.

    Attributes:
        view: Label of the view.
        task: Name of the task.
        loop: Mode of the loop.
        seed: Of training.
        facts: Further fields of its `Score`s: embodiment, head, target, split, protocol, fingerprint.
        latent: Tokens and width, or None if that is not known.
        episodes: Their seeds.
        outcomes: One number an episode for each of `OUTCOMES` that is known.
        proxies: Offline scores by proxy.
        origin: Where it comes from.
        family: That of its encoder.
    """

    view: str
    task: str
    loop: str
    seed: int
    facts: Mapping[str, str]
    latent: tuple[int, ...] | None
    episodes: tuple[str, ...]
    outcomes: Mapping[str, tuple[float, ...]]
    proxies: Mapping[str, Score]
    origin: Origin
    family: str

    @property
    def key(self) -> tuple[str, ...]:
        """What no two points of a study share."""
        facts = (self.facts[name] for name in ("target", "head", "split", "protocol"))
        return (self.view, self.task, self.loop, str(self.seed), *facts)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        outcomes: dict[str, Any] = {
            name: "".join("01"[int(v)] for v in values) if name in RATES else [round(v, 4) for v in values]
            for name, values in self.outcomes.items()
        }
        hits = {name: int(sum(self.outcomes[name])) for name in RATES if name in self.outcomes}
        return {
            "format": FORMAT, "view": self.view, "task": self.task, "loop": self.loop, "seed": self.seed,
            **self.facts, "family": self.family, "latent": self.latent, "n": len(self.episodes), "hits": hits,
            "episodes": list(self.episodes), "outcomes": outcomes,
            "proxies": {name: _short(score) for name, score in self.proxies.items()},
            "origin": asdict(self.origin),
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Any) -> StudyPoint:
        """Rebuild `to_json`; nothing is converted, and what is written twice must agree.

        Raises:
            DatasetError: See `check_line`.
            UnknownNameError: As well.
            ShapeError: An offline score is outside its interval.
        """
        check_line(raw)
        point = cls(
            raw["view"], raw["task"], raw["loop"], raw["seed"], {name: raw[name] for name in FACTS},
            None if raw["latent"] is None else tuple(raw["latent"]), tuple(raw["episodes"]),
            {name: tuple(map(float, values)) for name, values in raw["outcomes"].items()}, {},
            Origin(**raw["origin"]), raw["family"],
        )  # fmt: skip
        proxies = {name: point._score(name, one) for name, one in raw["proxies"].items()}
        return replace(point, proxies=proxies)

    def _score(self, proxy: str, raw: Mapping[str, Any]) -> Score:
        """Return the score of a proxy that `to_json` wrote."""
        known = find_proxy(proxy)
        same = {name: self.facts[name] for name in ("embodiment", "protocol", "fingerprint")}
        found = Score.from_dict({
            **raw, **same, "stage": "probe", "encoder": self.view, "task": self.task, "mode": known.question,
            "metric": known.metric, "seed": self.seed, "seconds": 0.0,
        })  # fmt: skip
        check_score(found)
        return found

    def measured(self) -> list[Measured]:
        """Return the scores of its outcomes with their episodes."""
        found = []
        for name, values in self.outcomes.items():
            rate = name in RATES
            one = wilson_ci(round(sum(values)), len(values)) if rate else bootstrap_mean_ci(values)
            score = Score.of(
                one, stage="rollout", encoder=self.view, task=self.task, mode=self.loop, metric=name,
                n=len(values), seed=self.seed, seconds=0.0, **self.facts,
            )  # fmt: skip
            found.append(Measured(score, SampleScores(name, self.episodes, self.episodes, values)))
        return found


def _short(score: Score) -> dict[str, Any]:
    """Return what a point does not say itself of a score, in as many digits as mean something."""
    found = {name: value for name, value in score.to_dict().items() if name in SCORE}
    found["value"] = float(f"{score.value:.{_DIGITS}g}")
    found["ci95"] = score.ci95 and [float(f"{end:.{_DIGITS}g}") for end in score.ci95]
    return found


def loop_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a closed loop of a page from all others, of its result or `vars` of its score."""
    return tuple(str(row[name]) for name in ("task", "encoder", "mode", "target", "head", "seed"))


def study_points(bundle: ReportBundle, origin: Origin) -> tuple[StudyPoint, ...]:
    """Return the finished points of a run: closed loops with the offline scores that belong to them.

    Experts and random heads, ceiling and floor of a task, are among them without offline scores. The commit
    of a point is that of its closed loop, see `ReportBundle.commits`.
    """
    offline: dict[tuple[str, ...], list[Score]] = defaultdict(list)
    for score in bundle.scores:
        if score.stage == "probe":
            offline[score.encoder, score.task, score.protocol, score.mode, score.metric].append(score)
    found = []
    loops = [loops_driven(bundle.measured, references=one).values() for one in (False, True)]
    for runs in itertools.chain(*loops):
        by_seed: dict[int, dict[str, Measured]] = defaultdict(dict)
        for run in runs:
            by_seed[run.score.seed][run.score.metric] = run
        for seed, outcomes in sorted(by_seed.items()):
            s = outcomes["success"].score
            latent = bundle.latents.get(s.encoder)
            known = {m: outcomes[m].samples for m in OUTCOMES if m in outcomes}
            order = known["success"].items
            by_item = {m: dict(zip(k.items, k.values, strict=True)) for m, k in known.items()}
            commit = bundle.commits.get(loop_key(vars(s)), origin.commit)
            found.append(
                StudyPoint(
                    s.encoder, s.task, s.mode, seed, {name: str(getattr(s, name)) for name in FACTS},
                    None if latent is None else tuple(latent), order,
                    {m: tuple(values[i] for i in order) for m, values in by_item.items()},
                    _proxies(s, offline), replace(origin, commit=commit),
                    bundle.families.get(s.encoder) or family_of(s.encoder),
                )
            )  # fmt: skip
    return tuple(found)


def _proxies(s: Score, offline: Mapping[tuple[str, ...], Sequence[Score]]) -> dict[str, Score]:
    """Return the offline scores, of the same training seed, that belong to a closed loop's success."""
    found: dict[str, Score] = {}
    for name, proxy in list_proxies().items() if s.head not in REFERENCE_HEADS else ():
        asked = offline.get((s.encoder, s.task, s.protocol, proxy.question, proxy.metric), ())
        same, why = belonging([one for one in asked if one.seed == s.seed], {s.fingerprint}, s.target, s.head)
        if same and not why:
            found[name] = same[0]
    return found


def write_points(path: Path, points: Iterable[StudyPoint]) -> None:
    """Write points, sorted, as gzipped lines of JSON; equal points make equal bytes."""
    lines = [json.dumps(p.to_json(), sort_keys=True, allow_nan=False) for p in sorted(points, key=_place)]
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress("".join(f"{one}\n" for one in lines).encode(), 9, mtime=0))


def _place(point: StudyPoint) -> tuple[str, ...]:
    return (point.task, point.loop, *point.key)


def read_points(paths: Sequence[Path]) -> tuple[StudyPoint, ...]:
    """Read the points of several files.

    Raises:
        DatasetError: A file is missing, damaged or of another format, or a line of it is wrong in itself;
            the message names line, field and fault.
    """
    found = []
    for path in paths:
        fix = f"Restore the file, or write it anew: `lary report` puts {POINTS_FILE} into the run's folder."
        with foreign_file("points of a study", path, fix):
            with open_regular(path) as (file, _), gzip.GzipFile(fileobj=file) as packed:
                text = packed.read(MAX_JSON_BYTES + 1)
            if len(text) > MAX_JSON_BYTES:
                raise ValueError(f"more than {MAX_JSON_BYTES} bytes unpacked")
            lines = text.decode().splitlines()
        for number, line in enumerate(lines, 1):
            with foreign_file(f"a point in line {number}", path, fix):
                try:
                    found.append(StudyPoint.from_json(parse_json(line)))
                except LaryPolicyError as error:
                    where, how = f"{error.expected}, in line {number} of {path}", f"{error.fix} {fix}".strip()
                    raise DatasetError(expected=where, got=error.got, fix=how) from error
    return tuple(found)


def merge_points(
    points: Sequence[StudyPoint],
    versions: Mapping[str, int] | None = None,
    like: Origin | None = None,
) -> tuple[tuple[StudyPoint, ...], tuple[str, ...]]:
    """Return the points that can be compared, and sentences about those left out.

    Args:
        points: Of several files.
        versions: Cell versions to keep; None keeps the kind of which there are most points.
        like: Origin of other numbers that they are to be compared with; None for no others.

    Raises:
        DatasetError: No point is left.
    """
    kinds = Counter(
        p.origin.kind
        for p in points
        if versions in (None, p.origin.versions) and (like is None or like.kind == p.origin.kind)
    )
    if not kinds and like is not None and points:
        raise DatasetError(
            expected=f"points of a study of {like.words()}, of the same settings",
            got="; ".join(sorted({like.apart(p.origin) for p in points})),
            fix="Leave out what changes settings or device, or pass points=[<file>] of a study with these.",
        )
    if not kinds:
        there = sorted({p.origin.words() for p in points})
        raise DatasetError(
            expected="points of a study of this version's cells"
            + (f", {', '.join(f'{k} {v}' for k, v in versions.items())}" if versions else ""),
            got="; ".join(there) or "no points",
            fix="Run `lary suite suite=study` with this version, or use the version that wrote them.",
        )
    chosen, notes = kinds.most_common(1)[0][0], []
    kept: dict[tuple[str, ...], StudyPoint] = {}
    others = Counter(p.origin.words() for p in points if p.origin.kind != chosen)
    notes += [f"{n} points of {words} or of other settings are left out." for words, n in others.items()]
    for point in points:
        if point.origin.kind == chosen:
            first = kept.setdefault(point.key, point)
            if (first.outcomes, first.proxies) != (point.outcomes, point.proxies):
                notes.append(
                    f"{', '.join(point.key[:4])}: measured twice, differently; the first one counts."
                )
    return tuple(kept.values()), tuple(dict.fromkeys(notes))


def points_bundle(points: Sequence[StudyPoint], notes: Sequence[str] = (), **words: Any) -> ReportBundle:
    """Return what a report shows of points alone.

    Args:
        points: That can be compared, see `merge_points`.
        notes: About those left out.
        words: `title`, `suite` and further fields of the bundle.
    """
    points = sorted(points, key=_place)  # whichever file was read first: intervals follow from the order
    measured = [one for point in points for one in point.measured()]
    known = [m.score for m in measured if m.score.metric != "speed"]
    known += [score for point in points for score in point.proxies.values()]
    scores = {score_key(score): score for score in known}
    return ReportBundle(
        scores=tuple(scores.values()), measured=tuple(measured), warnings=tuple(notes),
        latents={p.view: p.latent for p in points if p.latent},
        families={p.view: p.family for p in points}, **words,
    )  # fmt: skip
