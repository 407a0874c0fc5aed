"""Makes the SSv2 and EgoDex clips of the benchmark, forward and reversed (protocol section 1.7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from lary_policy.console import OnProgress
from lary_policy.data.larybench.pair_csv import read_metadata
from lary_policy.data.parallel import Failure, for_each
from lary_policy.errors import DatasetError, FrameFormatError, LaryPolicyError
from lary_policy.frames import opened_video
from lary_policy.paths import atomic_write, resolve_inside
from lary_policy.types import Quarantined

# The reference's encoder settings: x264, preset ultrafast, constant rate factor 23, no sound.
ENCODER, OPTIONS = "libx264", {"preset": "ultrafast", "crf": "23"}
_ROUNDING_S = 1e-6  # time stamps are fractions, annotations decimals
_USUAL_FPS = Fraction(30)  # where a container states no rate


@dataclass(frozen=True, slots=True)
class Segment:
    """A clip to be written.

    Attributes:
        source: Video it is cut from.
        target: File to write, an mp4.
        start_s: Where it begins.
        duration_s: How long it is; None for all that is left.
        reverse: Whether the frames come in reverse order.
    """

    source: Path
    target: Path
    start_s: float = 0.0
    duration_s: float | None = None
    reverse: bool = False


def write_segment(segment: Segment) -> int:
    """Write a clip and return its number of frames.

    Odd sizes are padded by a black row or column, as x264 needs even ones. A clip that is reversed is held in
    memory decoded.

    Raises:
        FrameFormatError: The source is missing or damaged, or has no frame in that time.
        StoreError: The disk is full or not writable.
    """
    with opened_video(segment.source) as (container, stream):
        frames = _between(container, stream, segment)
        chosen = reversed(list(frames)) if segment.reverse else frames
        with atomic_write(segment.target) as temporary:
            written = _encode(temporary, chosen, stream.average_rate or _USUAL_FPS)
            if written == 0:
                raise FrameFormatError(
                    expected=f"a complete video at {segment.source} that its annotations fit",
                    got=f"no frame from {segment.start_s} s on",
                    fix="Download it again, then start the same command: finished clips are kept.",
                )
    return written


def _between(container: Any, stream: Any, segment: Segment) -> Iterator[Any]:
    """Decode the frames of a segment; its times count from the first frame on, whatever that is stamped."""
    first_s = float((stream.start_time or 0) * stream.time_base)
    begin_s = first_s + segment.start_s - _ROUNDING_S
    if segment.start_s > 0:
        container.seek(int(begin_s / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None or frame.time < begin_s:
            continue
        if segment.duration_s is not None and frame.time >= begin_s + segment.duration_s:
            return
        yield frame


def _encode(path: Path, frames: Iterable[Any], rate: Fraction) -> int:
    """Encode frames at a constant rate and return their number."""
    import av

    count = 0
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream(ENCODER, rate=rate, options=OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            if count == 0:
                stream.width, stream.height = frame.width + frame.width % 2, frame.height + frame.height % 2
            even = _padded(frame, stream.width, stream.height)
            even.pts, even.time_base = count, 1 / rate
            out.mux(stream.encode(even))
            count += 1
        if count:
            out.mux(stream.encode(None))
    return count


def _padded(frame: Any, width: int, height: int) -> Any:
    """Return a frame of the given size in the encoder's format, with the old one at its top left."""
    import av
    import numpy as np

    if (frame.width, frame.height) == (width, height):
        return frame.reformat(format="yuv420p")
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: frame.height, : frame.width] = frame.to_ndarray(format="rgb24")[:height, :width]
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")


SEED_COLUMNS = ("video_path", "seed_output")
DATASETS = ("SSv2", "EgoDex")
_TIMES = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)")


@dataclass(frozen=True, slots=True)
class Cut:
    """One clip to be made.

    Attributes:
        clip: Its path below the folder of all clips, e.g. `SSv2/17_0_rev.mp4`.
        source: The original video, below the root of its dataset.
        dataset: `SSv2` or `EgoDex`.
        start_s: Where it begins.
        duration_s: How long it is.
        reverse: Whether its frames are in reverse order.
    """

    clip: str
    source: str
    dataset: str
    start_s: float
    duration_s: float
    reverse: bool


def parse_segments(text: str) -> tuple[tuple[int, float, float], ...]:
    """Return (line number, start, duration) in seconds of each segment in an annotation.

    All lines count for the number, blank ones and those without times too; a backslash with an n ends a line
    as well. Of each line the first `<start> - <end>` counts; segments without length are left out.
    """
    segments = []
    for number, line in enumerate(text.replace("\\n", "\n").strip().split("\n")):
        found = _TIMES.search(line)
        if found is None:
            continue
        start, end = float(found[1]), float(found[2])
        duration = round(end - start, 2)
        if duration > 0:
            segments.append((number, start, duration))
    return tuple(segments)


def required_clips(metadata: Iterable[Path]) -> frozenset[str]:
    """Return the paths of all SSv2 and EgoDex clips in the CSVs of `human_1st`.

    Raises:
        DatasetError: A CSV cannot be read or lacks the columns dataset and video_path.
    """
    return frozenset(
        row["video_path"]
        for path in metadata
        for row in read_metadata(path, ("dataset", "video_path"))[1]
        if row["dataset"] in DATASETS
    )


def plan_cuts(seeds: Path, dataset: str) -> Iterator[Cut]:
    """Yield every clip, forward and reversed, that the annotations of a dataset describe.

    Args:
        seeds: `seed_ssv2.csv` or `seed_egodex.csv`.
        dataset: `SSv2` or `EgoDex`.

    Raises:
        DatasetError: The CSV cannot be read or lacks a column.
    """
    _, rows = read_metadata(seeds, SEED_COLUMNS)
    for number, row in enumerate(rows):
        original = PurePosixPath(row["video_path"] or "")
        folder, source = dataset, original.name
        if dataset == "EgoDex":  # what follows `unzipped/` in the path lies below the dataset's root
            below = str(original).partition("unzipped/")[2]
            folder, source = f"{dataset}/{original.stem}", below or original.name
        for line, start, duration in parse_segments(row["seed_output"] or ""):
            for reverse, suffix in ((False, ""), (True, "_rev")):
                clip = f"{folder}/{number}_{line}{suffix}.mp4"
                yield Cut(clip, source, dataset, start, duration, reverse)


DEFAULT_TIMEOUT_S = 300.0  # decoding up to a segment at the end of a long video from its last key frame


@dataclass(frozen=True)
class PrepareReport:
    """What one run did.

    Attributes:
        required: Clips that the benchmark needs.
        made: Clips made now.
        kept: Clips that were there already.
        quarantined: Clips that could not be made, and those that no annotation describes.
    """

    required: int
    made: int
    kept: int
    quarantined: tuple[Quarantined, ...]


def prepare_clips(
    metadata: Sequence[Path],
    seeds: Mapping[str, Path],
    roots: Mapping[str, Path],
    output: Path,
    *,
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> PrepareReport:
    """Make every clip that the metadata name and that is not there yet; start again to continue.

    All forward clips are made first; reversed ones are made of them.

    Args:
        metadata: The CSVs of `human_1st`.
        seeds: Annotation CSV of each dataset, `SSv2` and `EgoDex`; one may be left out.
        roots: Folder of each dataset's original videos; without it, its clips are quarantined.
        output: Folder that the clips' paths start from: `<data_dir>/classification`.
        workers: Processes.
        timeout_s: Seconds for one clip.
        on_progress: Called with (clips done, clips to make).

    Raises:
        DatasetError: A CSV cannot be read.
    """
    required = required_clips(metadata)
    cuts = {cut.clip: cut for name, path in seeds.items() for cut in plan_cuts(path, name)}
    wanted = [cuts[clip] for clip in sorted(required & cuts.keys())]
    quarantined = [
        Quarantined(clip, "no annotation describes this clip", "prepare")
        for clip in sorted(required - cuts.keys())
        if clip.partition("/")[0] in seeds
    ]
    todo = [cut for cut in wanted if not _is_there(output / cut.clip)]
    made = 0
    for reverse in (False, True):
        segments = []
        for cut in (c for c in todo if c.reverse == reverse):
            try:
                segments.append(_segment(cut, roots, output))
            except LaryPolicyError as error:
                quarantined.append(Quarantined(cut.clip, str(error), "prepare"))
        for i, result in for_each(write_segment, segments, workers=workers, timeout_s=timeout_s):
            if isinstance(result, Failure):
                name = str(segments[i].target.relative_to(output.resolve()))
                quarantined.append(Quarantined(name, result.reason, "prepare"))
            else:
                made += 1
            if on_progress is not None:
                on_progress(made + len(quarantined), len(todo))
    return PrepareReport(len(required), made, len(wanted) - len(todo), tuple(quarantined))


def _segment(cut: Cut, roots: Mapping[str, Path], output: Path) -> Segment:
    target = resolve_inside(output, cut.clip)
    forward = resolve_inside(output, cut.clip.replace("_rev.mp4", ".mp4"))
    if cut.reverse and _is_there(forward):
        return Segment(forward, target, reverse=True)  # as the reference does: the finished clip backwards
    if cut.dataset not in roots:
        raise DatasetError(
            expected=f"the folder of the original videos of {cut.dataset}",
            got="none",
            fix=f"Pass {cut.dataset.lower()}_root=<folder>.",
        )
    source = resolve_inside(roots[cut.dataset], cut.source)
    return Segment(source, target, cut.start_s, cut.duration_s, reverse=cut.reverse)


def _is_there(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
