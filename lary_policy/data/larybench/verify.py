"""Complete check of a key of the benchmark; what `lary data verify source=...` runs (section 1.8)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lary_policy.actions import load_embodiment
from lary_policy.data import layout
from lary_policy.data.integrity import NO_CHECKSUMS, IntegrityReport, MediaFile, check_file
from lary_policy.data.larybench.clip_csv import parse_indices
from lary_policy.data.larybench.pair_rows import Cells, PairFile, check_fields, class_of, step_of
from lary_policy.data.larybench.sets import BenchmarkSet, require_stride
from lary_policy.data.parallel import Failure, for_each
from lary_policy.data.splits import find_shared
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.types import Quarantined

if TYPE_CHECKING:
    from lary_policy.data.larybench.source import LaryBenchSource

_SPAN = re.compile(r"action_(\d+)to(\d+)$")


@dataclass(frozen=True)
class RowContent:
    """What one row stands for.

    Attributes:
        files: Files it names.
        name: Names the sample: two rows with the same are duplicates.
        twin: Shared by a sample and the one that is the same backwards.
        label: Its class, or "" in a dataset of actions.
    """

    files: tuple[MediaFile, ...]
    name: str
    twin: str
    label: str


def read_content(data: BenchmarkSet, action_dim: int, file: PairFile, cells: Cells) -> RowContent:
    """Check a row (of actions of `action_dim` numbers; 0 for classes) and return what it stands for.

    Raises:
        DatasetError: A cell is empty or contradicts another.
        UnsafePathError: A path leaves the root.
    """
    check_fields(cells)
    if data.kind == "clips":
        return _clip(file, cells)
    if data.embodiment is None:
        return _labelled_pair(file, cells)
    return _pair(data, action_dim, file, cells)


def _clip(file: PairFile, cells: Cells) -> RowContent:
    video, indices = cells["video_path"], parse_indices(cells["sample_indices"])
    path = PurePosixPath(video)
    twin = str(path.with_name(path.name.replace("_rev.", ".")))
    media = MediaFile("clip", file.resolver(video, ""), (indices[-1],))
    return RowContent((media,), video, twin, class_of(cells))


def _labelled_pair(file: PairFile, cells: Cells) -> RowContent:
    paths = [file.resolver(cells[column], "") for column in ("src_img", "tgt_img")]
    names = [str(path.relative_to(file.resolver.root.resolve())) for path in paths]
    files = tuple(MediaFile("image", path) for path in paths)
    return RowContent(files, " > ".join(names), " and ".join(sorted(names)), class_of(cells))


def _pair(data: BenchmarkSet, action_dim: int, file: PairFile, cells: Cells) -> RowContent:
    stride = require_stride(data)
    src, tgt = (file.resolver(cells[column], layout.IMAGES) for column in ("src_img", "tgt_img"))
    action = file.resolver(cells["action"], layout.ACTIONS)
    _check_steps(src, tgt, action, stride)
    if data.statistics == "per_robot" and not cells.get("robot_type", "").strip():
        raise DatasetError(
            expected="a robot type",
            got="a blank one",
            fix="Complete the row, or pass unknown_robots=pool where statistics are used.",
        )
    images = (MediaFile("image", src), MediaFile("image", tgt))
    chunk = MediaFile("action", action, (stride, action_dim))
    return RowContent((*images, chunk), f"{src} > {tgt}", "", "")


def _check_steps(src: Path, tgt: Path, action: Path, stride: int) -> None:
    """Raise DatasetError unless frames and action are of the same episode and of the right steps."""
    first, last = step_of(src), step_of(tgt)
    span = _SPAN.search(action.stem)
    if first is None or last is None or span is None:
        return  # names without numbers say nothing that could be wrong
    if last - first != stride or (int(span[1]), int(span[2])) != (first, last - 1):
        raise DatasetError(
            expected=f"frames {stride} steps apart and the action from the first to before the second",
            got=f"{src.name}, {tgt.name} and {action.name}",
            fix="Correct the row, or choose the key with the stride of this CSV.",
        )
    if len({path.parent.name for path in (src, tgt, action)}) > 1:
        raise DatasetError(
            expected="frames and action of one episode",
            got=f"files in folders {src.parent.name}, {tgt.parent.name} and {action.parent.name}",
            fix="Correct the row; the benchmark's own VLABench CSVs have some without the episode's folder.",
        )


@dataclass
class _Found:
    """What the CSVs say."""

    problems: list[Quarantined] = field(default_factory=list)
    rows: int = 0
    files: dict[Path, MediaFile] = field(default_factory=dict)
    uses: dict[Path, list[str]] = field(default_factory=lambda: defaultdict(list))
    samples: dict[str, list[RowContent]] = field(default_factory=lambda: defaultdict(list))
    recordings: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def verify_benchmark(
    source: LaryBenchSource,
    *,
    limit: int | None = None,
    **options: Any,
) -> IntegrityReport:
    """Check every CSV of a source and read every file that they name, completely.

    Found are: missing or unreadable CSVs; rows with empty cells, unsafe paths, frames, actions and episodes
    that contradict each other, or blank robot types; images and clips that do not decode completely, clips
    whose container lies about its length or that end before a frame to see; actions that are missing, of
    another size or not finite; duplicate rows; classes that training lacks, of a single row, or of another
    number than stated; recordings, frames (by content) and mirrored twins that two splits share.

    The protocol of the source decides on the splits that must not share anything; options are those of
    `verify_source`.
    """
    found = _Found()
    for split in source.spec.splits:
        _read_csvs(source, split, found, limit)
    digests: dict[Path, str] = {}
    files = list(found.files.values())
    for i, result in for_each(check_file, files, **options):
        if isinstance(result, Failure):
            uses = found.uses[files[i].path]
            reason = f"{result.reason} (named by {len(uses)} rows, the first {uses[0]})"
            found.problems.append(Quarantined(str(files[i].path), reason, f"{files[i].kind}s"))
        else:
            digests[files[i].path] = result
    found.problems.extend(_duplicates(found))
    found.problems.extend(_labels(source, found))
    found.problems.extend(_leaks(found, digests))
    kinds = Counter(file.kind for file in files)
    checked = {"csv": len(source.data.splits), "rows": found.rows, **{f"{k}s": n for k, n in kinds.items()}}
    return IntegrityReport(source.root, checked, tuple(dict.fromkeys(found.problems)), (NO_CHECKSUMS,))


def _read_csvs(source: LaryBenchSource, split: str, found: _Found, limit: int | None) -> None:
    try:
        files = source.files(split)
    except LaryPolicyError as error:
        found.problems.append(Quarantined(source.data.key, str(error), "csv"))
        return
    embodiment = source.data.embodiment
    action_dim = 0 if embodiment is None else load_embodiment(embodiment).action_dim
    for file in files:
        for line, cells in file.rows[:limit]:
            found.rows += 1
            item = f"{file.path.name}:{line}"
            try:
                content = read_content(source.data, action_dim, file, cells)
            except LaryPolicyError as error:
                found.problems.append(Quarantined(item, str(error), "rows"))
                continue
            _remember(found, split, item, content, source.recording(file, cells))


def _remember(found: _Found, split: str, item: str, content: RowContent, recording: str) -> None:
    found.samples[split].append(content)
    found.recordings[split].add(recording)
    for media in content.files:
        known = found.files.setdefault(media.path, media)
        if media.kind == "clip" and media.needs > known.needs:
            found.files[media.path] = media
        found.uses[media.path].append(item)


def _duplicates(found: _Found) -> Iterator[Quarantined]:
    for split, samples in found.samples.items():
        for name, count in Counter(sample.name for sample in samples).items():
            if count > 1:
                yield Quarantined(split, f"{name} stands in {count} rows", "duplicates")


def _labels(source: LaryBenchSource, found: _Found) -> Iterator[Quarantined]:
    if source.spec.num_classes is None:
        return
    train = source.spec.train_split
    counts = {split: Counter(s.label for s in samples) for split, samples in found.samples.items()}
    known = counts.get(train, Counter())
    if len(known) != source.spec.num_classes:
        reason = f"{len(known)} classes, the benchmark has {source.spec.num_classes}"
        yield Quarantined(train, reason, "labels")
    for label, count in known.items():
        if count == 1:
            yield Quarantined(train, f"class '{label}' has a single row", "labels")
    for split, others in counts.items():
        for label in sorted(others.keys() - known.keys()):
            yield Quarantined(split, f"class '{label}' ({others[label]} rows) is not in {train}", "labels")


def _leaks(found: _Found, digests: dict[Path, str]) -> Iterator[Quarantined]:
    yield from find_shared("recordings", found.recordings)
    media = {
        split: {
            digests[file.path]
            for sample in samples
            for file in sample.files
            if file.kind != "action" and file.path in digests
        }
        for split, samples in found.samples.items()
    }
    yield from find_shared("frames or clips", media)
    twins = {split: {s.twin for s in samples if s.twin} for split, samples in found.samples.items()}
    yield from find_shared("samples or their mirrored twins", twins)
