"""The study's committed files, written anew from its committed points and those of further runs.

`python benchmarks/study.py outputs/latest/points.jsonl.gz ...` puts the points together (those of other
settings are named and left out), writes `configs/points/study.jsonl.gz` and `benchmarks/results/study/` and
prints the tables of the two READMEs that show them.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path
from statistics import median

from lary_policy.report import POINTS_FILE
from lary_policy.report.figures.league import forest
from lary_policy.report.league import POOLED, League
from lary_policy.report.tables import league_table
from lary_policy.runs import points_page
from lary_policy.scores import list_proxies

ROOT = Path(__file__).resolve().parent.parent
POINTS = ROOT / "configs" / "points" / "study.jsonl.gz"
RESULTS = ROOT / "benchmarks" / "results" / "study"
LOOPS = ("subgoal", "policy")


def write_study(further: list[Path], folder: Path) -> League:
    """Write the page of all points into `folder` and the committed files from it; return the league."""
    bundle = points_page([POINTS, *further], folder)
    print(*bundle.warnings, sep="\n")
    shutil.copyfile(folder / POINTS_FILE, POINTS)
    shutil.copyfile(folder / "report.md", RESULTS / "report.md")
    for name in ("report.json", "league.json"):
        (RESULTS / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), 9, mtime=0))
    for loop in LOOPS:
        mine = [s for s in bundle.league.standings if s.loop == loop and s.readings]
        sides = ([s for s in mine if (s.task == POOLED) is one] for one in (True, False))
        (RESULTS / f"{loop}.svg").write_text(
            forest(*sides, loop).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        )
    return bundle.league


def short_table(found: League) -> str:
    """Return r and the median of single tasks in both loops, as the first README shows them."""
    head = " | ".join(f"{loop} mode | one task" for loop in LOOPS)
    lines = [f"| offline score | {head} |", f"|---{'|--:' * 2 * len(LOOPS)}|"]
    known = [s for s in found.standings if s.readings]
    first = [s.proxy for s in known if (s.loop, s.task) == (LOOPS[0], POOLED)]
    for proxy in first:
        cells = [list_proxies()[proxy].words]
        for loop in LOOPS:
            mine = [s for s in known if (s.loop, s.proxy) == (loop, proxy)]
            (pooled,) = (s.readings["pearson"] for s in mine if s.task == POOLED)
            alone = median(s.readings["pearson"].value for s in mine if s.task != POOLED)
            ends = pooled.over_episodes or ()
            interval = f" [{', '.join(map(_short, ends))}]" if ends else ""
            cells += [f"{_short(pooled.value)}{interval}", _short(alone)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


if __name__ == "__main__":
    league = write_study([Path(one) for one in sys.argv[1:]], ROOT / "outputs" / "study-points")
    print(short_table(league), league_table(league), sep="\n\n")
    print(*(duel.verdict for duel in league.duels if "cannot be told" not in duel.verdict), sep="\n")
