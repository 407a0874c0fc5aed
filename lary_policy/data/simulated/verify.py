"""Checks of whole datasets in our own layout; what `lary data verify` runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lary_policy.actions import load_embodiment
from lary_policy.console import OnProgress
from lary_policy.data import layout
from lary_policy.data.arrays import read_chunk
from lary_policy.data.integrity import (
    CHECKSUMS_FILE,
    DEFAULT_TIMEOUT_S,
    NO_CHECKSUMS,
    IntegrityReport,
    MediaFile,
    check_file,
    find_changes,
    lost_checksums,
)
from lary_policy.data.larybench import load_pairs, read_metadata
from lary_policy.data.layout import PathResolver
from lary_policy.data.pairs import PairTable
from lary_policy.data.parallel import TimedOut, for_each
from lary_policy.data.simulated.publish import every_of
from lary_policy.data.simulated.scene import scene_states
from lary_policy.data.simulated.writer import read_episodes
from lary_policy.data.splits import find_leaks
from lary_policy.data.verify import decoded_ids
from lary_policy.errors import DatasetError, LaryPolicyError
from lary_policy.paths import read_json, visible_files
from lary_policy.types import Quarantined

# Columns that name arrays, and their folders.
ARRAYS = {
    "action": layout.ACTIONS,
    "executed": layout.EXECUTED,
    "src_state": layout.STATES,
    "tgt_state": layout.STATES,
}


def verify_dataset(
    root: Path,
    *,
    embodiment: str | None = None,
    stride: int | None = None,
    workers: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_progress: OnProgress | None = None,
) -> IntegrityReport:
    """Read every file that the metadata CSVs of a dataset name, completely.

    Found are: unreadable CSVs, rows with a missing, damaged, wrongly sized or non-finite file or an unsafe
    path, images that do not decode, duplicate rows, episodes that disagree with `episodes.json`, episodes or
    moments that two splits share, and files that differ from `checksums.json`. A file that does not answer in
    time is a problem; the rows of a CSV are not read where one of their arrays does not.

    Embodiment and stride are taken from `dataset.json` where they are None; the rest is as in
    `verify_source`.

    Raises:
        DatasetError: There is no metadata CSV, or embodiment or stride is neither given nor in dataset.json.
    """
    root = Path(root)
    embodiment, stride = _settings(root, embodiment, stride)
    arm = load_embodiment(embodiment)
    tables: dict[str, PairTable] = {}
    problems: list[Quarantined] = []
    for path in _metadata_files(root):
        dataset, _, split = path.stem.partition("_metadata_")
        try:
            stuck = _stuck_arrays(root, path, (stride, arm.action_dim), workers, timeout_s)
            if stuck:
                problems.extend(stuck)
                reason = f"its rows were not read: {len(stuck)} of their arrays do not answer"
                problems.append(Quarantined(path.name, reason, "metadata"))
                continue
            table = load_pairs(root, dataset, split, embodiment=arm, stride=stride)
        except LaryPolicyError as error:
            problems.append(Quarantined(path.name, str(error), "metadata"))
            continue
        tables[path.stem] = table
        problems.extend((*table.quarantined, *_duplicates(table)))
        problems.extend(_bad_target_states(root, table, arm.action_dim))
    frames = dict.fromkeys(frame for table in tables.values() for frame in table.frame_paths())
    options: Any = {"workers": workers, "timeout_s": timeout_s, "on_progress": on_progress}
    ids = decoded_ids(frames, problems, "images", **options)
    problems.extend(find_leaks(tables, ids, _scenes(root, tables, stride, problems)))
    problems.extend(_episode_problems(root, tables, stride))
    checked = {
        "csv": len(_metadata_files(root)),
        "rows": sum(len(t) + len(t.quarantined) for t in tables.values()),
        "images": len(frames),
        "episodes": len({r.episode for t in tables.values() for r in t.rows}),
    }
    changes, notes = _changes(root, workers, timeout_s)
    return IntegrityReport(root, checked, tuple(dict.fromkeys([*problems, *changes])), notes)


def _changes(root: Path, workers: int, timeout_s: float) -> tuple[list[Quarantined], tuple[str, ...]]:
    """Return what differs from the checksums, or that there are none."""
    if not (root / CHECKSUMS_FILE).is_file():
        return lost_checksums(root / layout.DATASET_FILE), (NO_CHECKSUMS,)
    return list(find_changes(root, workers=workers, timeout_s=timeout_s)), ()


def _settings(root: Path, embodiment: str | None, stride: int | None) -> tuple[str, int]:
    path = root / layout.DATASET_FILE
    known = read_json(path) if path.is_file() else {}
    embodiment, stride = embodiment or known.get("embodiment"), stride or known.get("stride")
    if not isinstance(embodiment, str) or not isinstance(stride, int):
        raise DatasetError(
            expected=f"embodiment and stride in {path}",
            got=f"embodiment {embodiment}, stride {stride}",
            fix="Name both: nothing is guessed.",
        )
    return embodiment, stride


def _metadata_files(root: Path) -> list[Path]:
    files = visible_files(root, "*_metadata_*.csv")
    if not files:
        raise DatasetError(
            expected=f"files *_metadata_*.csv in {root}",
            got="none",
            fix="Choose the root of a dataset, or write one with `lary data`.",
        )
    return files


def _duplicates(table: PairTable) -> Iterator[Quarantined]:
    counts = Counter((row.src_frames, row.tgt_frames) for row in table.rows)
    for (src, tgt), count in counts.items():
        if count > 1:
            names = (Path(str(frame)).name for frame in (src[0], tgt[0]))
            folder = Path(str(src[0])).parent.name
            reason = f"the pair {', '.join(names)} of {folder} stands in {count} rows"
            yield Quarantined(table.source.name, reason, "duplicates")


def _bad_target_states(root: Path, table: PairTable, action_dim: int) -> Iterator[Quarantined]:
    """Check the poses at the target frames, which loading does not need."""
    columns, cells = read_metadata(table.source)
    if not table.has_states or "tgt_state" not in columns:
        return
    resolver = PathResolver(root)
    for row in table.rows:
        try:
            read_chunk(resolver(cells[row.line - 2]["tgt_state"], layout.STATES), 1, action_dim)
        except LaryPolicyError as error:
            yield Quarantined(f"{table.source.name}:{row.line}", str(error), "tgt_state")


def _stuck_arrays(
    root: Path, path: Path, chunk: tuple[int, int], workers: int, timeout_s: float
) -> list[Quarantined]:
    """Return the arrays of a CSV that cannot be read in time; all other faults are found with their rows."""
    if workers == 0:
        return []
    resolver, files = PathResolver(root), dict[Path, MediaFile]()
    _, rows = read_metadata(path)
    for cells in rows:
        for column, folder in ARRAYS.items():
            try:
                if cells.get(column):
                    array = resolver(cells[column], folder)
                    files[array] = MediaFile("action", array, chunk)
            except LaryPolicyError:
                continue  # the row is set aside when it is read
    results = for_each(check_file, list(files.values()), workers=workers, timeout_s=timeout_s)
    named = list(files)
    return [Quarantined(str(named[i]), r.reason, "arrays") for i, r in results if isinstance(r, TimedOut)]


def _scenes(
    root: Path, tables: Mapping[str, PairTable], stride: int, problems: list[Quarantined]
) -> dict[tuple[str, int | None], str]:
    """Return the named state of the scene at each boundary of the episodes that have one."""
    found: dict[tuple[str, int | None], str] = {}
    for episode in {row.episode for table in tables.values() for row in table.rows}:
        try:
            states = scene_states(root, episode)
        except LaryPolicyError as error:
            problems.append(Quarantined(f"episode {episode}", str(error), "scene"))
            continue
        found |= {(episode, i * stride): state for i, state in enumerate(states)}
    return found


def _episode_problems(root: Path, tables: Mapping[str, PairTable], stride: int) -> Iterator[Quarantined]:
    """Compare the rows with what `episodes.json` says, where there is one."""
    if not (root / layout.EPISODES_FILE).is_file():
        return
    try:
        known = read_json(root / layout.DATASET_FILE) if (root / layout.DATASET_FILE).is_file() else {}
        every = every_of({**known, "stride": stride})
        records = {(str(r.episode), r.split): (r.steps - stride) // every + 1 for r in read_episodes(root)}
    except DatasetError as error:
        yield Quarantined(layout.EPISODES_FILE, str(error), "episodes")
        return
    found: Counter[tuple[str, str]] = Counter()
    for name, table in tables.items():
        split = name.partition("_metadata_")[2]
        found.update((row.episode, split) for row in table.rows)
    for episode, split in sorted(records.keys() | found.keys()):
        stated, rows = records.get((episode, split), 0), found[episode, split]
        if stated != rows:
            reason = f"{layout.EPISODES_FILE} states {stated} chunks, the CSV has {rows} usable rows"
            yield Quarantined(f"episode {episode} ({split})", reason, "episodes")
