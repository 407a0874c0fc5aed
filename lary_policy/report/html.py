"""The page: one HTML file that carries its styles, figures and videos, and asks the network for nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lary_policy.paths import atomic_write
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.correlate import MIN_POINTS, correlate
from lary_policy.report.labels import mode_label, target_label
from lary_policy.report.media import embed_videos
from lary_policy.report.parts import Trajectory
from lary_policy.report.probe_page import probe_suite
from lary_policy.report.side_by_side import reference_keys
from lary_policy.report.statements import answers, on_files, question
from lary_policy.report.tables import probe_tables, rollout_table
from lary_policy.types import Score

_NUMBER = re.compile(r"-?\d[\d.]*(?: %)? \[[^\]<>&]*\]")


def write_report(bundle: ReportBundle, folder: Path, *, media_root: Path | None = None) -> Path:
    """Write `report.html` and `report.json` into `folder`, each replaced only when it is complete.

    Args:
        bundle: What to show.
        folder: Where to write; made if it does not exist.
        media_root: The folder that video paths are relative to and may not leave; defaults to `folder`.

    Returns:
        Path of the HTML file.

    Raises:
        StoreError: The disk is full or not writable.
        UnsafePathError: A video lies outside `media_root`.
    """
    page = render_html(bundle, media_root or folder)
    scores = json.dumps([s.to_dict() for s in bundle.scores], indent=1, allow_nan=False)
    for name, text in (("report.json", scores + "\n"), ("report.html", page)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def read_scores(path: Path) -> tuple[Score, ...]:
    """Read a `report.json` back."""
    return tuple(Score.from_dict(row) for row in json.loads(path.read_text(encoding="utf-8")))


def render_html(bundle: ReportBundle, media_root: Path) -> str:
    """Return the page as text; every name from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(mode=mode_label, target=target_label, whole=_keep_whole)
    return environment.get_template("template.html").render(_context(bundle, media_root))


def _keep_whole(text: str) -> Markup:
    """Escape a sentence and keep each number on one line with its interval."""
    return Markup(_NUMBER.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


def _context(bundle: ReportBundle, media_root: Path) -> dict[str, Any]:
    """Collect what the template shows."""
    from lary_policy.report import plots  # matplotlib is only needed here

    colours = plots.encoder_colours(bundle.encoders())
    panels, unmatched = correlate(bundle.scores)
    return {
        "bundle": bundle,
        "colours": colours,
        "question": question(bundle),
        "on_files": on_files(bundle),
        "answers": answers(bundle, panels),
        "rollouts": rollout_table(bundle.scores),
        "probes": probe_tables(bundle.scores, reference_keys(bundle.heads) if bundle.heads else None),
        "scatters": [
            {"panel": panel, "svg": Markup(plots.scatter(panel, colours, f"s{i}"))}
            for i, panel in enumerate(panels)
        ],
        "unmatched": unmatched,
        "suite": probe_suite(bundle, colours),
        "trajectories": _trajectories(bundle, colours),
        "confusions": [
            {
                "matrix": c,
                "svg": Markup(plots.confusion(c, colours.get(c.encoder, plots.PALETTE[0]), f"c{i}")),
            }
            for i, c in enumerate(bundle.confusions)
        ],
        "videos": embed_videos(bundle.videos, media_root),
        "episodes": sum(s.n for s in bundle.scores if s.stage == "rollout" and s.metric == "success"),
        "fingerprints": sorted({(s.encoder, s.fingerprint) for s in bundle.scores if s.encoder != "-"}),
        "seeds": len({s.seed for s in bundle.scores}),
        "min_points": MIN_POINTS,
        "columns": Score.columns(),
    }


def _trajectories(bundle: ReportBundle, colours: dict[str, str]) -> list[dict[str, Any]]:
    """Draw the trajectories, those of the same episode and truth together, one figure a dimension."""
    from lary_policy.report import plots

    groups: dict[tuple[Any, ...], list[Trajectory]] = {}
    for t in bundle.trajectories:
        groups.setdefault((t.task, t.mode, t.target, t.episode, t.labels, t.true), []).append(t)
    drawn = []
    for number, members in enumerate(groups.values()):
        figures = [
            Markup(plots.trajectory(members, d, colours, f"t{number}-{d}"))
            for d in range(len(members[0].labels))
        ]
        drawn.append({"first": members[0], "encoders": [m.encoder for m in members], "figures": figures})
    return drawn
