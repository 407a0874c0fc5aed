"""Datasets in LeRobot's format v3 as they lie on disk: what `meta/` says and what the tables hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lary_policy.data.lerobot.metadata import (
    UNNAMED,
    feature_names,
    is_camera,
    is_depth,
    is_vector,
    place_of,
    require_format,
)
from lary_policy.errors import DatasetError, FrameFormatError, UnknownNameError
from lary_policy.frames import file_digest
from lary_policy.paths import choices, foreign_file, open_regular, read_json, visible_files

INFO = "meta/info.json"
IMAGE_PREFIX = "observation.images."
STATE, ACTION, SUCCESS = "observation.state", "action", "next.success"
# Of demonstrations with noise: what was commanded instead of `action`, and where. Names that start neither
# with `observation` nor with `action`, so that no policy takes them for its inputs or outputs.
MAX_SIZE = 1 << 16  # of a side of a feature: the widest picture that is read has 65,500 pixels
EXECUTED, DISTURBED = "executed", "disturbed"
INDEX = "index"
_STEP_COLUMNS = ("episode_index", "frame_index", "task_index", "timestamp")
MAX_TABLE_BYTES = 1 << 33  # of one table, unpacked; LeRobot's files are a hundredth of it
MAX_ROWS = 1 << 25  # of one table, 19 days at 20 Hz: equal numbers take no bytes until they are read


@dataclass(frozen=True)
class LeRobotEpisode:
    """One episode.

    Attributes:
        number: Its index in the dataset.
        length: Its frames.
        tasks: Its task descriptions.
        table: Parquet file with its steps.
        videos: Of each video feature the file, and the time in it at which the episode starts, in seconds.
    """

    number: int
    length: int
    tasks: tuple[str, ...]
    table: Path
    videos: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class LeRobotSteps:
    """What the tables hold of one episode with T steps.

    Attributes:
        values: Of each asked feature float32 `[T A]`.
        tasks: Task number of each step.
        times_s: When each step was recorded, in seconds since the first, as float32 holds it.
        first_row: Row of the first step in the episode's table.
        first_index: Number of the first step in the whole dataset as the table has it (`index`), None where
            the steps are not numbered one after the other.
    """

    values: Mapping[str, Tensor]
    tasks: tuple[int, ...]
    times_s: tuple[float, ...]
    first_row: int
    first_index: int | None


@dataclass(frozen=True)
class LeRobotFiles:
    """A dataset's description.

    Attributes:
        root: Its folder.
        fps: Frames, and actions, a second.
        features: Description of every feature, as in `meta/info.json`.
        episodes: All episodes in order.
        tasks: Task description by its number.
        splits: First and last + 1 episode of each split that `meta/info.json` states.
        robot_type: Kind of robot, or "".
    """

    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    episodes: tuple[LeRobotEpisode, ...]
    tasks: Mapping[int, str]
    splits: Mapping[str, tuple[int, int]]
    robot_type: str

    @classmethod
    def read(cls, root: Path) -> LeRobotFiles:
        """Read `meta/`.

        Raises:
            DatasetError: It is missing, incomplete, or of another format.
            UnsafePathError: A file would lie outside the folder.
        """
        fix = "Name the folder that holds meta/ and data/ of a dataset; if it is this one, restore the file."
        info = read_json(root / INFO, fix=fix)
        require_format(root, info)
        fix = "Download the dataset again, or write it anew with LeRobot; finalize() is part of that."
        with foreign_file("info, episodes and tasks of a LeRobot dataset", root / "meta", fix):
            bounds = {name: value.split(":") for name, value in (info.get("splits") or {}).items()}
            splits = {name: (int(first), int(last)) for name, (first, last) in bounds.items()}
            if wrong := [name for name, (first, last) in splits.items() if not 0 <= first <= last]:
                raise ValueError(f"split {wrong[0]} of episodes {':'.join(bounds[wrong[0]])}")
            rows = _rows(visible_files(root / "meta" / "episodes", "*/*.parquet"), skip="stats/")
            if (stated := info.get("total_episodes", len(rows))) != len(rows):
                raise ValueError(f"{len(rows)} episodes in meta/episodes, info.json states {stated}")
            fps = float(info["fps"])
            if not (math.isfinite(fps) and fps > 0) or isinstance(info["fps"], bool):
                raise ValueError(f"fps {info['fps']}")
            for name, feature in info["features"].items():
                _check_shape(name, feature.get("shape") or ())
            shown = [short_name(name) for name, feature in info["features"].items() if is_camera(feature)]
            if len(set(shown)) < len(shown):
                raise ValueError(f"cameras {', '.join(shown)}, of which two are called alike")
            return cls(
                root=root,
                fps=fps,
                features={str(name): dict(feature) for name, feature in info["features"].items()},
                episodes=tuple(_episode(root, info, row) for row in rows),
                tasks=_tasks(root),
                splits=splits,
                robot_type=str(info.get("robot_type") or ""),
            )

    def cameras(self) -> tuple[str, ...]:
        """Return the features that are colour images or videos; depth is left out."""
        return tuple(name for name, feature in self.features.items() if is_camera(feature))

    def camera(self, name: str) -> str:
        """Return the feature of a camera, named in full or without `observation.images.`.

        UnknownNameError where there is no such camera, DatasetError where it is a depth map.
        """
        for feature in (name, IMAGE_PREFIX + name):
            if feature in self.cameras():
                return feature
            if is_depth(self.features.get(feature, {})):
                raise DatasetError(
                    expected=f"a colour camera of {self.root.name}",
                    got=f"'{name}', a depth map",
                    fix=f"Choose from {', '.join(map(short_name, self.cameras())) or '(none)'}.",
                )
        raise UnknownNameError(f"camera of {self.root.name}", name, map(short_name, self.cameras()))

    def numbers(self) -> tuple[str, ...]:
        """Return the features of numbers that policies see or predict."""
        return tuple(
            name
            for name, feature in self.features.items()
            if is_vector(feature) and name.partition(".")[0] in ("observation", ACTION)
        )

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of the numbers of a feature, `action_0`, ... where it has none.

        UnknownNameError where there is no such feature of numbers.
        """
        vectors = [name for name, feature in self.features.items() if is_vector(feature)]
        if key not in vectors:
            raise UnknownNameError(f"feature of {self.root.name}", key, vectors)
        numbered = tuple(UNNAMED.format(i) for i in range(int(self.features[key]["shape"][0])))
        return feature_names(self.features[key]) or numbered

    def embodiment(self, key: str = ACTION) -> str | None:
        """Return the embodiment that the dataset states in the `info` of a feature, if this package has it.

        Numbers of such a feature are in the embodiment's own units and order.
        """
        info = self.features.get(key, {}).get("info")
        stated = info.get("embodiment") if isinstance(info, Mapping) else None
        return stated if isinstance(stated, str) and stated in choices("embodiment") else None

    def steps(
        self, episodes: Sequence[LeRobotEpisode], keys: Sequence[str]
    ) -> Iterator[tuple[LeRobotEpisode, LeRobotSteps | str]]:
        """Yield the steps of episodes with these features, or why they are unusable; tables are read once."""
        widths = {key: math.prod(int(size) for size in self.features[key]["shape"]) for key in keys}
        for table in dict.fromkeys(e.table for e in episodes):
            inside = [e for e in episodes if e.table == table]
            try:
                with foreign_file("a table of steps", table, "Download it again, or write it anew."):
                    columns = _read_table(table, [*keys, *_STEP_COLUMNS, INDEX])
                    found = list(_episodes_of(columns, inside, widths, self.tasks))
            except DatasetError as error:
                found = [(episode, str(error)) for episode in inside]
            yield from found

    def require_finite(self, keys: Sequence[str], episodes: Collection[int] | None = None) -> None:
        """Refuse numbers that are NaN or infinite: one in a batch makes all weights of a policy NaN.

        Args:
            keys: Features of numbers.
            episodes: Numbers of the episodes to look at; None for all. Tables that cannot be read are passed
                over: they are named where they are needed.

        Raises:
            DatasetError: A number is not finite; the message names its episode and frame.
        """
        chosen = [e for e in self.episodes if episodes is None or e.number in episodes]
        for episode, steps in self.steps(chosen, keys):
            for key, values in {} if isinstance(steps, str) else steps.values.items():
                bad = torch.nonzero(~torch.isfinite(values).all(-1)).flatten().tolist()
                if bad:
                    raise DatasetError(
                        expected=f"finite numbers in {key} of {self.root}",
                        got=f"NaN or infinity in episode {episode.number}, frame {bad[0]}"
                        + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""),
                        fix="Correct the table, or take the episode out: lerobot-edit-dataset "
                        f"--operation.type=delete_episodes --operation.episode_indices=[{episode.number}].",
                    )

    def content(self, cameras: Collection[str]) -> str:
        """Return 64 hex digits that change with tables, videos of these cameras, tasks, names and lengths.

        Files that are missing or cannot be read count as such; what needs them is named where it is read.
        """
        described = [self.root / INFO, self.root / "meta" / "tasks.parquet"]
        described += visible_files(self.root / "meta" / "episodes", "*/*.parquet")
        videos = [path for e in self.episodes for key, (path, _) in e.videos.items() if key in cameras]
        found = hashlib.sha256()
        for path in dict.fromkeys((*described, *(e.table for e in self.episodes), *videos)):
            try:
                digest = file_digest(path)
            except FrameFormatError:
                digest = "unreadable"
            found.update(f"{path.relative_to(self.root)}:{digest};".encode())
        return found.hexdigest()


def _episodes_of(
    columns: pa.Table, episodes: Iterable[LeRobotEpisode], widths: Mapping[str, int], known: Mapping[int, str]
) -> Iterator[tuple[LeRobotEpisode, LeRobotSteps | str]]:
    numbers = {name: torch.from_numpy(columns[name].to_numpy().copy()) for name in _STEP_COLUMNS}
    values = {key: _matrix(columns[key], width) for key, width in widths.items()}
    index = torch.from_numpy(columns[INDEX].to_numpy().copy()) if INDEX in columns.column_names else None
    for episode in episodes:
        rows = torch.nonzero(numbers["episode_index"] == episode.number).flatten()
        order = numbers["frame_index"][rows].tolist()
        neighbours = len(rows) > 0 and int(rows[-1] - rows[0]) == len(rows) - 1
        if len(rows) != episode.length or order != list(range(len(rows))) or not neighbours:
            yield episode, f"{len(rows)} steps in {episode.table.name}, meta/episodes states {episode.length}"
            continue
        place = slice(int(rows[0]), int(rows[-1]) + 1)
        tasks, times = numbers["task_index"][place].tolist(), numbers["timestamp"][place].float()
        if not set(tasks) <= set(known):
            yield episode, f"task {min(set(tasks) - set(known))}, which meta/tasks.parquet does not have"
        elif not torch.isfinite(times).all():
            yield episode, f"timestamps in {episode.table.name} that are no numbers"
        elif (numbers["timestamp"][place].diff() <= 0).any():
            yield episode, f"timestamps in {episode.table.name} that do not ascend"
        else:
            picked = {key: value[place] for key, value in values.items()}
            counted = index is not None and bool((index[place].diff() == 1).all())
            first = int(index[place.start]) if index is not None and counted else None
            yield episode, LeRobotSteps(picked, tuple(tasks), tuple(times.tolist()), place.start, first)


def _check_shape(name: str, shape: Sequence[Any]) -> None:
    if not all(isinstance(size, int) and 0 <= size <= MAX_SIZE for size in shape):
        raise ValueError(f"feature {name} of shape {shape}")


def short_name(camera: str) -> str:
    """Return the name of a camera without `observation.images.`."""
    return camera.removeprefix(IMAGE_PREFIX)


def _matrix(column: pa.ChunkedArray, width: int) -> Tensor:
    """Return a column of lists of A numbers, or of numbers, as float32 `[T A]`; ValueError for others."""
    array = column.combine_chunks()
    flat = array.flatten() if pa.types.is_nested(array.type) else array
    if not (
        pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)
    ):
        raise ValueError(f"{flat.type} in place of numbers")
    values = torch.from_numpy(flat.to_numpy(zero_copy_only=False).astype("float32"))
    if len(values) != len(array) * width:
        raise ValueError(f"{len(values)} numbers in {len(array)} steps, of {width} each")
    return values.view(len(array), width)


def _rows(paths: Sequence[Path], *, skip: str) -> list[dict[str, Any]]:
    """Read tables row by row without the columns whose name starts with `skip`."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        columns = [name for name in _columns(path) if not name.startswith(skip)]
        rows.extend(_read_table(path, columns).to_pylist())
    if not rows:
        raise ValueError("no episodes")
    numbers = [row["episode_index"] for row in rows]
    if len(set(numbers)) < len(numbers):
        raise ValueError("episodes that stand in meta/episodes twice")
    return sorted(rows, key=lambda row: row["episode_index"])


def _columns(path: Path) -> list[str]:
    with open_regular(path) as (file, _):
        return list(pq.read_schema(file).names)


def _read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a table in memory; ValueError if they unpack to more than any dataset's numbers."""
    with open_regular(path) as (file, _), pq.ParquetFile(file) as table:
        # Sizes of single columns are not asked for: of a damaged one that ends the process.
        groups = range(table.metadata.num_row_groups)
        size = sum(table.metadata.row_group(group).total_byte_size for group in groups)
        if size > MAX_TABLE_BYTES:
            raise ValueError(f"{size} bytes in a table, of at most {MAX_TABLE_BYTES}")
        if table.metadata.num_rows > MAX_ROWS:
            raise ValueError(f"{table.metadata.num_rows} rows in a table, of at most {MAX_ROWS}")
        return table.read(columns=list(columns))


def _episode(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> LeRobotEpisode:
    videos = {}
    for key, feature in info["features"].items():
        if feature["dtype"] == "video":
            place = {name: int(row[f"videos/{key}/{name}"]) for name in ("chunk_index", "file_index")}
            file = place_of(root, info["video_path"], video_key=key, **place)
            videos[key] = (file, float(row[f"videos/{key}/from_timestamp"]))
    place = {name: int(row[f"data/{name}"]) for name in ("chunk_index", "file_index")}
    table = place_of(root, info["data_path"], **place)
    number, length, tasks = int(row["episode_index"]), int(row["length"]), tuple(map(str, row["tasks"]))
    if number < 0 or length < 0:
        raise ValueError(f"episode {number} of {length} frames")
    return LeRobotEpisode(number, length, tasks, table, videos)


def _tasks(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.parquet"
    names = _columns(path)
    # The text is a column of its own, or was the index of the data frame that was written.
    text = "task" if "task" in names else "__index_level_0__"
    table = _read_table(path, [text, "task_index"])
    found = {int(row["task_index"]): str(row[text]) for row in table.to_pylist()}
    if len(found) < len(table):
        raise ValueError(f"a task number that stands in {path.name} twice")
    return found
