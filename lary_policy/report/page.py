"""The page: one HTML file that carries its styles, figures and videos, and asks the network for nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from lary_policy.machine import abreast, available_cores, uncollected
from lary_policy.paths import atomic_write, resolve_inside
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.compare import Evidence
from lary_policy.report.correlate import correlate
from lary_policy.report.paper import paper_source, reference_keys, reproduced, side_by_side
from lary_policy.report.parts import Video
from lary_policy.report.points import POINTS_FILE, study_points, write_points
from lary_policy.report.statements import answers, constants, question
from lary_policy.report.tables import ResultTable, league_table, probe_tables, result_table, rollout_table
from lary_policy.scores import Score, mode_label, target_label

if TYPE_CHECKING:
    from lary_policy.report.figures import Section

VIDEO_BUDGET_BYTES = 11_000_000  # of base64 text; leaves 4 MB for figures in a page of at most 15 MB


@dataclass(frozen=True)
class EmbeddedVideo:
    """A video with its data, or the reason why it is not on the page.

    Attributes:
        video: The video.
        data: base64 of the mp4 file, or empty.
        missing: Why there is no data, or empty.
        poster: base64 of a JPEG of its last frame, which shows how the episodes ended; empty without data.
        file: The file, or empty where it lies outside the folder of films.
    """

    video: Video
    data: str = ""
    missing: str = ""
    poster: str = ""
    file: Path | None = None

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
            why = f"{path.stat().st_size / 1e6:.1f} MB are too much for this page; open the file"
            found.append(EmbeddedVideo(video, missing=why, file=path))
        else:
            found.append(_encode(video, path))
    return tuple(abreast([partial(_with_poster, one) for one in found], available_cores()))


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
    return EmbeddedVideo(video, base64.b64encode(data).decode("ascii"), file=path)


def _with_poster(one: EmbeddedVideo) -> EmbeddedVideo:
    if not one.data or one.file is None:
        return one
    return replace(one, poster=_poster(one.file, one.file.stat().st_mtime_ns))


@lru_cache(maxsize=256)
def _poster(path: Path, written_ns: int) -> str:
    """Return a JPEG of the last frame in base64, empty where it cannot be decoded: the film says the rest."""
    import av

    try:
        with av.open(str(path)) as film:
            *_, last = film.decode(video=0)
        picture = io.BytesIO()
        last.to_image().save(picture, "JPEG", quality=70)
    except (OSError, ValueError, IndexError, av.FFmpegError):
        return ""
    return base64.b64encode(picture.getvalue()).decode("ascii")


def first_film(films: Sequence[EmbeddedVideo]) -> EmbeddedVideo | None:
    """Return the film that a reader sees first: of a trained head, the one with the most successes."""
    playable = [f for f in films if f.data]
    return max(playable, key=lambda f: (not f.video.reference, sum(f.video.successes)), default=None)


def film_links(films: Sequence[EmbeddedVideo], folder: Path | None) -> list[tuple[str, str]]:
    """Return caption and relative address of each film's file."""
    if folder is None:
        return []
    found = [(f.video.caption, os.path.relpath(f.file, folder.resolve())) for f in films if f.file]
    return [(caption, quote(path.replace(os.sep, "/"))) for caption, path in found]


_NUMBER = re.compile(r"-?\d[\d.]*(?: %)? \[[^\]<>&]*\]")
_GROUPED = re.compile(r"[|\\]")


@uncollected()
def write_report(bundle: ReportBundle, folder: Path, *, media_root: Path | None = None) -> Path:
    """Write the page, scores and league as JSON, scores as CSV, the first tables as markdown: each at once.

    Args:
        bundle: What to show.
        folder: Where `report.html`, `.json`, `.csv`, `.md`, `league.json` and, if the bundle says where its
            numbers come from, `points.jsonl.gz` go; made if it does not exist.
        media_root: The folder that video paths are relative to and may not leave; defaults to `folder`.

    Returns:
        Path of the HTML file.

    Raises:
        StoreError: The disk is full or not writable.
        UnsafePathError: A video lies outside `media_root`.
    """
    found = bundle.league
    if bundle.origin is not None:
        write_points(folder / POINTS_FILE, study_points(bundle, bundle.origin))
    texts = {
        "report.json": json.dumps([s.to_dict() for s in bundle.scores], indent=1, allow_nan=False) + "\n",
        "league.json": json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n",
        "report.csv": scores_csv(bundle.scores),
        "report.md": "\n".join(filter(None, (markdown_table(_results(bundle)), league_table(found)))),
        "report.html": render_html(bundle, media_root or folder, folder),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def scores_csv(scores: Sequence[Score]) -> str:
    """Return all scores as CSV; the ends of an interval are two columns, empty if not estimable."""
    out = io.StringIO()
    columns = [c for c in Score.columns() if c != "ci95"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, "ci95_low", "ci95_high"])
    for score in scores:
        row = score.to_dict()
        writer.writerow([*(row[c] for c in columns), *(row["ci95"] or ("", ""))])
    return out.getvalue()


def markdown_table(table: ResultTable) -> str:
    """Return the first table of the page as markdown, to be pasted elsewhere; bold is told apart from all."""
    lines = [["", *table.columns], ["---"] * (1 + len(table.columns))]
    for label, extra, results in table.rows:
        cells = []
        for result in results:
            numbers = [] if result is None else [n for n in (result.success, result.probe) if n is not None]
            words = [
                f"**{n.value}** {n.interval}" if n.mark == "best" else f"{n.value} {n.interval}"
                for n in numbers
            ]
            cells.append(" / ".join(words) or "-")
        lines.append([", ".join(filter(None, (label, extra))), *cells])
    return "".join(f"| {' | '.join(_GROUPED.sub(' ', cell) for cell in line)} |\n" for line in lines)


def render_html(bundle: ReportBundle, media_root: Path, folder: Path | None = None) -> str:
    """Return the page as text; every name from outside is escaped.

    Args:
        bundle: What to show.
        media_root: The folder that video paths are relative to and may not leave.
        folder: Where the page will lie, for its links to the films; None leaves these out.
    """
    return _template().render(_context(bundle, media_root, folder))


@cache
def _template() -> jinja2.Template:
    """Compile the template once: a page is rewritten whenever a cell is finished."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(mode=mode_label, target=target_label, whole=_keep_whole)
    return environment.get_template("template.html")


def _keep_whole(text: str) -> Markup:
    """Escape a sentence and keep each number on one line with its interval."""
    return Markup(_NUMBER.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


def _results(bundle: ReportBundle) -> ResultTable:
    return result_table(bundle.scores, correlate(bundle.scores)[0], Evidence.of(bundle.measured))


def _context(bundle: ReportBundle, media_root: Path, folder: Path | None) -> dict[str, Any]:
    """Collect what the template shows."""
    from lary_policy.report.figures import Palette, draw_sections

    palette = Palette(bundle.encoders())
    sections = draw_sections(bundle, palette)
    films = embed_videos(bundle.videos, media_root)
    evidence, keys = Evidence.of(bundle.measured), reference_keys(bundle.heads)
    return {
        "bundle": bundle,
        "colours": {name: palette[name] for name in palette.encoders},
        "question": question(bundle),
        "constant": constants(bundle.constant_dims),
        "answers": answers(bundle, correlate(bundle.scores)[0]),
        "results": _results(bundle),
        "rollouts": rollout_table(bundle.scores, evidence),
        "probes": probe_tables(bundle.scores, None if bundle.closed_loop else keys, evidence),
        "glance": [s for s in sections if s.kind.order == 0],
        "sections": [s for s in sections if s.kind.order > 0],
        "paper": side_by_side(bundle.scores, bundle.heads),
        "paper_source": paper_source(),
        "defects": reproduced(bundle.scores, bundle.heads),
        "films": films,
        "first_film": first_film(films),
        "links": film_links(films, folder),
        "contents": _contents(bundle, sections),
        "episodes": sum(s.n for s in bundle.scores if s.stage == "rollout" and s.metric == "success"),
        "fingerprints": sorted({(s.encoder, s.fingerprint) for s in bundle.scores if s.encoder != "-"}),
        "seeds": len({s.seed for s in bundle.scores}),
        "columns": Score.columns(),
    }


def _contents(bundle: ReportBundle, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Return anchor and heading of each part of the page, in its order."""
    world = bundle.closed_loop
    parts = [("closed-loop", "Closed loop")] if world else []
    parts += [("probe", "Probe scores")]
    parts += [(s.anchor, s.kind.heading) for s in sections if s.kind.order > 0]
    parts += [("videos", "Videos")] if world else [("paper", "The paper's numbers and ours")]
    parts += [("heads", "Heads")] if bundle.heads else []
    return [*parts, ("glossary", "Glossary"), ("inputs", "Inputs"), ("run", "This run")]
