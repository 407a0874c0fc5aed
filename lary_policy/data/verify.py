"""Complete checks of any source; what `lary data verify source=...` runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lary_policy.console import OnProgress
from lary_policy.data.clips import ClipTable
from lary_policy.data.integrity import DEFAULT_TIMEOUT_S, NO_CHECKSUMS, IntegrityReport
from lary_policy.data.pairs import PairTable
from lary_policy.data.parallel import Failure, for_each
from lary_policy.data.spec import Source
from lary_policy.data.splits import Moments, find_shared, moments_of, shared_moments
from lary_policy.errors import FrameFormatError, LaryPolicyError
from lary_policy.frames import Frame, decode_frames, file_digest, frame_id
from lary_policy.types import Quarantined

_AT_ONCE = 64  # frames of one file that a process decodes for one answer
Tables = dict[str, PairTable | ClipTable]


def verify_source(
    source: Source,
    *,
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> IntegrityReport:
    """Read everything that a source reads, completely, and say what is wrong.

    A source with a method `verify` of the same arguments is asked; of others every row and frame of every
    split is checked, see `verify_tables`.

    Args:
        source: Any source.
        workers: Processes that read files; 0 reads them here, without time limit.
        timeout_s: Seconds for one file.
        limit: Rows of each split that are looked at; None for all.
        on_progress: Called with (files done, files in all).
    """
    own: Any = getattr(source, "verify", None)
    check = verify_tables if own is None else lambda _, **options: own(**options)
    found: IntegrityReport = check(
        source, workers=workers, timeout_s=timeout_s, limit=limit, on_progress=on_progress
    )
    return found


def verify_tables(
    source: Source, *, root: Path | None = None, limit: int | None = None, **options: Any
) -> IntegrityReport:
    """Check the tables of every split of a source and decode every frame that they name.

    Found are: splits that cannot be read; rows that were set aside; rows that stand twice; frames that do not
    decode; recordings and moments (by content) that two splits share. The report is on the folder `root`;
    options are those of `verify_source`.
    """
    problems: list[Quarantined] = []
    tables = _read(source, limit, problems)
    frames = dict.fromkeys(frame for table in tables.values() for frame in _frames(table))
    ids = decoded_ids(frames, problems, **options)
    for split, table in tables.items():
        problems.extend(table.quarantined)
        problems.extend(_twice(split, table))
    problems.extend(find_shared("recordings", {s: _recordings(t) for s, t in tables.items()}))
    problems.extend(shared_moments({split: _moments(table, ids) for split, table in tables.items()}))
    rows = sum(len(table) + len(table.quarantined) for table in tables.values())
    checked = {"splits": len(tables), "rows": rows, "frames": len(frames)}
    where = root or next((table.source.parent for table in tables.values()), Path())
    return IntegrityReport(where, checked, tuple(dict.fromkeys(problems)), (NO_CHECKSUMS,))


def _read(source: Source, limit: int | None, problems: list[Quarantined]) -> Tables:
    tables: Tables = {}
    for split in source.spec.splits:
        try:
            table = source.pairs(split) if source.spec.kind == "pairs" else source.clips(split)
            tables[split] = table if limit is None else table.select(range(min(limit, len(table))))
        except LaryPolicyError as error:
            problems.append(Quarantined(f"split {split}", str(error), "tables"))
    return tables


def _frames(table: PairTable | ClipTable) -> Sequence[Frame]:
    if isinstance(table, PairTable):
        return table.frame_paths()
    return [frame for row in table.rows for frame in row.frames()]


def _moments(table: PairTable | ClipTable, ids: Mapping[Frame, str]) -> Moments:
    if isinstance(table, PairTable):
        return moments_of(table, ids)
    return {(ids[frame],): {()} for frame in _frames(table) if frame in ids}


def _recordings(table: PairTable | ClipTable) -> set[str]:
    if isinstance(table, PairTable):
        return {row.episode for row in table.rows}
    return set(table.recordings())


def _twice(split: str, table: PairTable | ClipTable) -> Iterator[Quarantined]:
    names: Counter[Hashable]
    if isinstance(table, PairTable):
        names = Counter((row.src_frames, row.tgt_frames) for row in table.rows)
    else:
        names = Counter((row.path, row.indices, row.stored) for row in table.rows)
    for name, count in names.items():
        if count > 1:
            words = " > ".join(str(part) for part in name) if isinstance(name, tuple) else str(name)
            yield Quarantined(split, f"{words[:200]} stands in {count} rows", "duplicates")


def decode_each(frames: Sequence[Frame]) -> list[str | FrameFormatError]:
    """Decode frames of one file completely and return the id of each, or what is wrong with it."""
    found: list[str | FrameFormatError] = []
    for frame, image in zip(frames, decode_frames(frames), strict=True):
        if isinstance(image, FrameFormatError):
            found.append(image)
        else:
            found.append(file_digest(frame, trust=False) if isinstance(frame, Path) else frame_id(frame))
    return found


def decoded_ids(
    frames: Iterable[Frame], problems: list[Quarantined], step: str = "frames", **options: Any
) -> dict[Frame, str]:
    """Decode frames completely and return their ids; those that do not decode become problems of this step.

    Options are those of `for_each`.
    """
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame if isinstance(frame, Path) else frame.group()].append(frame)
    jobs = [group[i : i + _AT_ONCE] for group in groups.values() for i in range(0, len(group), _AT_ONCE)]
    ids: dict[Frame, str] = {}
    for i, result in for_each(decode_each, jobs, **options):
        answers = [result] * len(jobs[i]) if isinstance(result, Failure) else result
        for frame, answer in zip(jobs[i], answers, strict=True):
            if isinstance(answer, str):
                ids[frame] = answer
            else:
                reason = answer.reason if isinstance(answer, Failure) else str(answer)
                problems.append(Quarantined(str(frame), reason, step))
    return ids
