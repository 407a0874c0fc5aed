"""The page: one HTML file that carries its styles, figures and videos, and asks the network for nothing."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from lary_policy.paths import atomic_write, resolve_inside
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.correlate import MIN_POINTS, correlate
from lary_policy.report.figures import probe_suite
from lary_policy.report.paper import reference_keys
from lary_policy.report.parts import Trajectory, Video
from lary_policy.report.statements import answers, question
from lary_policy.report.tables import probe_tables, rollout_table
from lary_policy.scores import Score, mode_label, target_label

VIDEO_BUDGET_BYTES = 11_000_000  # of base64 text; leaves 4 MB for figures in a page of at most 15 MB


@dataclass(frozen=True)
class EmbeddedVideo:
    """A video with its data, or the reason why it is not on the page.

    Attributes:
        video: The video.
        data: base64 of the mp4 file, or empty.
        missing: Why there is no data, or empty.
    """

    video: Video
    data: str = ""
    missing: str = ""

    @property
    def outcome(self) -> str:
        """Say which tiled episodes succeeded."""
        if not self.video.seeds:
            return "Outcome of the tiled episodes was not recorded."
        marks = ("succeeded" if ok else "failed" for ok in self.video.successes)
        return ", ".join(f"seed {s} {m}" for s, m in zip(self.video.seeds, marks, strict=True))


def embed_videos(
    videos: Sequence[Video], root: Path, budget_bytes: int = VIDEO_BUDGET_BYTES
) -> tuple[EmbeddedVideo, ...]:
    """Encode the videos in order until the budget is spent; the rest, and missing files, are named as such.

    Raises:
        UnsafePathError: A path leaves `root`.
    """
    found: list[EmbeddedVideo] = []
    for video in videos:
        path = _locate(video, root)
        room = budget_bytes - sum(len(e.data) for e in found)
        if not path.is_file():
            found.append(EmbeddedVideo(video, missing="the file does not exist"))
        elif _encoded_size(path) > room:
            size = path.stat().st_size / 1e6
            found.append(
                EmbeddedVideo(video, missing=f"{size:.1f} MB are too much for this page; open the file")
            )
        else:
            found.append(_encode(video, path))
    return tuple(found)


def _locate(video: Video, root: Path) -> Path:
    path = Path(video.path)
    inside = path.is_absolute() and path.is_relative_to(root.resolve())
    return resolve_inside(root, path.relative_to(root.resolve()) if inside else path)


def _encoded_size(path: Path) -> int:
    return 4 * ((path.stat().st_size + 2) // 3)


def _encode(video: Video, path: Path) -> EmbeddedVideo:
    data = path.read_bytes()
    if data[4:8] != b"ftyp":  # every ISO base media (mp4) file begins with this box
        return EmbeddedVideo(video, missing="the file is not an mp4 video")
    return EmbeddedVideo(video, data=base64.b64encode(data).decode("ascii"))


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
    from lary_policy.report.figures import probes as plots

    colours = plots.encoder_colours(bundle.encoders())
    panels, unmatched = correlate(bundle.scores)
    return {
        "bundle": bundle,
        "colours": colours,
        "question": question(bundle),
        "on_files": not bundle.closed_loop,
        "answers": answers(bundle, panels),
        "rollouts": rollout_table(bundle.scores),
        "probes": probe_tables(bundle.scores, None if bundle.closed_loop else reference_keys(bundle.heads)),
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
    from lary_policy.report.figures import probes as plots

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
