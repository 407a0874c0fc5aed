"""Films on the page: embedded as long as there is room, and linked where their files lie."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lary_policy.paths import resolve_inside
from lary_policy.report.parts import Video

VIDEO_BUDGET_BYTES = 11_000_000  # of base64 text; leaves 4 MB for figures in a page of at most 15 MB


@dataclass(frozen=True)
class EmbeddedVideo:
    """A video with its data, or the reason why it is not on the page.

    Attributes:
        video: The video.
        data: base64 of the mp4 file, or empty.
        missing: Why there is no data, or empty.
        file: The file, or empty where it lies outside the folder of films.
    """

    video: Video
    data: str = ""
    missing: str = ""
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
    return EmbeddedVideo(video, data=base64.b64encode(data).decode("ascii"), file=path)


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
