"""A LeRobot dataset without its images: what LeRobot reads where the latents of the images are stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lary_policy.data.lerobot.files import INFO, LeRobotFiles
from lary_policy.data.lerobot.metadata import IMAGES
from lary_policy.data.simulated import EpisodeRecord, records_from_json
from lary_policy.frames import file_digest
from lary_policy.paths import foreign_file, open_regular, parse_json, read_json, write_json

STATS, TASKS, EPISODES = "meta/stats.json", "meta/tasks.parquet", "meta/episodes"
FIX = "Download the dataset again, or write it anew."


def write_view(
    files: LeRobotFiles,
    out: Path,
    *,
    episodes: Collection[int] | None = None,
    camera_stats: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dataset's numbers, tasks and episodes to a new folder, its images and videos left out.

    LeRobot decodes every image feature of a dataset whether a policy looks at it or not; of this one it
    decodes none. Indices, episodes, tasks and statistics stay those of the whole dataset.

    Args:
        files: The whole dataset.
        out: Folder to write; it may exist.
        episodes: Numbers of the episodes that are needed; None for all. Tables without one of them are left
            out where they are not on this machine.
        camera_stats: Statistics that replace those of every colour camera, e.g. ImageNet's. LeRobot sets
            them for the cameras of a dataset, and checkpoints hold them although images are not normalised.

    Raises:
        DatasetError: A table of the dataset cannot be read.
    """
    info = read_json(files.root / INFO)
    hidden = {name for name, feature in files.features.items() if feature.get("dtype") in IMAGES}
    write_json(out / INFO, {**info, "features": {n: f for n, f in files.features.items() if n not in hidden}})
    if (files.root / STATS).exists():
        with foreign_file("statistics of a LeRobot dataset", files.root / STATS, FIX):
            stats = read_json(files.root / STATS)
            for camera in files.cameras() if camera_stats else ():
                stats[camera] = {**(stats.get(camera) or {}), **(camera_stats or {})}
        write_json(out / STATS, stats)
    shutil.copy(files.root / TASKS, out / TASKS)
    shutil.copytree(files.root / EPISODES, out / EPISODES, dirs_exist_ok=True)
    needed = {e.table for e in files.episodes if episodes is None or e.number in episodes}
    for table in dict.fromkeys(e.table for e in files.episodes if e.table in needed or e.table.is_file()):
        _copy_numbers(table, out / table.relative_to(files.root), hidden)
    return out


def view_content(files: LeRobotFiles) -> str:
    """Return hex digits that change with every file that `write_view` reads; `file_digest` remembers them."""
    stats = files.root / STATS
    return files.content(()) + (file_digest(stats) if stats.exists() else "")


def _copy_numbers(table: Path, out: Path, hidden: set[str]) -> None:
    """Copy a table without the hidden columns, row group by row group, so that memory stays small."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with foreign_file("a table of steps", table, FIX), open_regular(table), pq.ParquetFile(table) as file:
        columns = [name for name in file.schema_arrow.names if name not in hidden]
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        with pq.ParquetWriter(out, _described(schema, file.schema_arrow.metadata, hidden)) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=columns)
                writer.write_table(rows.cast(writer.schema))


def _described(schema: pa.Schema, metadata: dict[bytes, bytes] | None, hidden: set[str]) -> pa.Schema:
    """Keep what `datasets` says in a table about its columns, of those that are still there."""
    raw = parse_json((metadata or {}).get(b"huggingface", b"{}"))
    features = raw.get("info", {}).get("features")
    if not features:
        return schema
    raw["info"]["features"] = {name: f for name, f in features.items() if name not in hidden}
    return schema.with_metadata({b"huggingface": json.dumps(raw).encode()})


ABOUT = "meta/lary.json"
PNG = "png"  # what stands for the codec where frames are no videos


@dataclass(frozen=True)
class LeRobotAbout:
    """Content of `ABOUT`.

    Attributes:
        repo_id: Name of the dataset.
        frames: Codec of its videos, or `PNG`.
        cameras: Short names of its cameras.
        settings: Settings of the simulated dataset that it was made from.
        episodes: Number, seed and split of each of its episodes there.
        failed: Episodes that the expert failed, which are in neither.
        steps: Frames of each camera over all episodes.
        seconds: Time it took to write.
        unreadable: Stored frames that the repeated ones could not be compared with.
    """

    repo_id: str
    frames: str
    cameras: tuple[str, ...]
    settings: dict[str, Any]
    episodes: tuple[tuple[int, int, str], ...]
    failed: tuple[EpisodeRecord, ...]
    steps: int
    seconds: float
    unreadable: tuple[str, ...]

    @classmethod
    def read(cls, root: Path) -> LeRobotAbout:
        """Read it; DatasetError where it is missing or damaged."""
        path = Path(root) / ABOUT
        fix = "Write the dataset anew, or delete the file to use it as any other LeRobot dataset."
        with foreign_file("what `lary data to-lerobot` writes", path, fix):
            found = read_json(path, fix=fix)
            settings = dict(found["dataset"])
            return cls(
                repo_id=str(found["repo_id"]),
                frames=str(found["frames"]),
                cameras=tuple(found["cameras"]),
                settings=settings,
                episodes=tuple(
                    (int(e["episode"]), int(e["seed"]), str(e["split"])) for e in found["episodes"]
                ),
                failed=records_from_json(settings["failed"]),
                steps=int(found["steps"]),
                seconds=float(found["seconds"]),
                unreadable=tuple(str(frame["item"]) for frame in found["unreadable"]),
            )
