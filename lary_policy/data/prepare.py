"""Makes the SSv2 and EgoDex clips of the benchmark, forward and reversed (protocol section 1.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lary_policy.data.cutting import Segment, write_segment
from lary_policy.data.parallel import Failure, for_each
from lary_policy.data.seeds import Cut, plan_cuts, required_clips
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.paths import resolve_inside
from lary_policy.progress import OnProgress
from lary_policy.types import Quarantined

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
        segments = _segments([c for c in todo if c.reverse == reverse], roots, output, quarantined)
        for i, result in for_each(write_segment, segments, workers=workers, timeout_s=timeout_s):
            if isinstance(result, Failure):
                name = str(segments[i].target.relative_to(output.resolve()))
                quarantined.append(Quarantined(name, result.reason, "prepare"))
            else:
                made += 1
            if on_progress is not None:
                on_progress(made + len(quarantined), len(todo))
    return PrepareReport(len(required), made, len(wanted) - len(todo), tuple(quarantined))


def _segments(
    cuts: Sequence[Cut], roots: Mapping[str, Path], output: Path, quarantined: list[Quarantined]
) -> list[Segment]:
    segments = []
    for cut in cuts:
        try:
            segments.append(_segment(cut, roots, output))
        except LaryPolicyError as error:
            quarantined.append(Quarantined(cut.clip, str(error), "prepare"))
    return segments


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
