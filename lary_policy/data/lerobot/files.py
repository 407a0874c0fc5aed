"""Datasets in LeRobot's format v3 as they lie on disk: what `meta/` says and what the tables hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lary_policy.data.lerobot.mapping import UNNAMED
from lary_policy.errors import DatasetError, UnknownNameError
from lary_policy.paths import choices, read_json, resolve_inside

INFO = "meta/info.json"
FORMAT = "v3."
IMAGE_PREFIX = "observation.images."
STATE, ACTION, SUCCESS = "observation.state", "action", "next.success"
# Of demonstrations with noise: what was commanded instead of `action`, and where. Names that start neither
# with `observation` nor with `action`, so that no policy takes them for its inputs or outputs.
EXECUTED, DISTURBED = "executed", "disturbed"
_STEP_COLUMNS = ("episode_index", "frame_index", "task_index")


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
        first_row: Row of the first step in the episode's table.
    """

    values: Mapping[str, Tensor]
    tasks: tuple[int, ...]
    first_row: int


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
        info = read_json(root / INFO)
        version = str(info.get("codebase_version"))
        if not version.startswith(FORMAT):
            raise DatasetError(
                expected=f"a LeRobot dataset of format {FORMAT}x in {root}",
                got=f"format {version}",
                fix="Convert it: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=<repo_id>.",
            )
        try:
            bounds = {name: value.split(":") for name, value in info.get("splits", {}).items()}
            splits = {name: (int(first), int(last)) for name, (first, last) in bounds.items()}
            rows = _rows(sorted((root / "meta" / "episodes").glob("*/*.parquet")), skip="stats/")
            episodes = tuple(_episode(root, info, row) for row in rows)
            return cls(
                root=root,
                fps=float(info["fps"]),
                features=info["features"],
                episodes=episodes,
                tasks=_tasks(root),
                splits=splits,
                robot_type=str(info.get("robot_type") or ""),
            )
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                expected=f"info, episodes and tasks of a LeRobot dataset in {root / 'meta'}",
                got=f"{type(error).__name__}: {error}",
                fix="Download the dataset again, or write it anew with LeRobot; finalize() is part of that.",
            ) from error

    def cameras(self) -> tuple[str, ...]:
        """Return the features that are colour images or videos; depth is left out."""
        return tuple(
            name
            for name, feature in self.features.items()
            if feature["dtype"] in ("image", "video")
            and not (feature.get("info") or {}).get("is_depth_map")
            and not feature.get("is_depth_map")
        )

    def camera(self, name: str) -> str:
        """Return the feature of a camera, named in full or without `observation.images.`.

        Raises:
            UnknownNameError: There is no such camera.
        """
        for feature in (name, IMAGE_PREFIX + name):
            if feature in self.cameras():
                return feature
        raise UnknownNameError(f"camera of {self.root.name}", name, map(short_name, self.cameras()))

    def names(self, key: str) -> tuple[str, ...]:
        """Return the names of the numbers of a feature, `action_0`, ... where it has none.

        Raises:
            UnknownNameError: There is no such feature of numbers.
        """
        vectors = [n for n, f in self.features.items() if "float" in f["dtype"] and len(f["shape"]) == 1]
        if key not in vectors:
            raise UnknownNameError(f"feature of {self.root.name}", key, vectors)
        found = self.features[key].get("names")
        if isinstance(found, Mapping):  # older datasets: {"motors": [...]} or {name: place}
            nested = [n for names in found.values() if isinstance(names, list) for n in names]
            found = nested or [str(name) for name in found]
        size = int(self.features[key]["shape"][0])
        fits = isinstance(found, list) and len(found) == size and len(set(found)) == size
        return tuple(str(n) for n in found or ()) if fits else tuple(UNNAMED.format(i) for i in range(size))

    def embodiment(self, key: str = ACTION) -> str | None:
        """Return the embodiment that the dataset states in the `info` of a feature, if this package has it.

        Numbers of such a feature are in the embodiment's own units and order.
        """
        stated = (self.features.get(key, {}).get("info") or {}).get("embodiment")
        return stated if stated in choices("embodiment") else None

    def steps(
        self, episodes: Sequence[LeRobotEpisode], keys: Sequence[str]
    ) -> Iterator[tuple[LeRobotEpisode, LeRobotSteps | str]]:
        """Yield the steps of episodes, or why they cannot be used; every table is read once.

        Args:
            episodes: Which.
            keys: Features of numbers to read.
        """
        for table in dict.fromkeys(e.table for e in episodes):
            inside = [e for e in episodes if e.table == table]
            try:
                columns = pq.read_table(table, columns=[*keys, *_STEP_COLUMNS])
            except (OSError, pa.ArrowException) as error:
                yield from ((e, f"{table}: {type(error).__name__}: {error}") for e in inside)
                continue
            yield from _episodes_of(columns, inside, keys)


def _episodes_of(
    columns: pa.Table, episodes: Iterable[LeRobotEpisode], keys: Sequence[str]
) -> Iterator[tuple[LeRobotEpisode, LeRobotSteps | str]]:
    numbers = {name: torch.from_numpy(columns[name].to_numpy().copy()) for name in _STEP_COLUMNS}
    values = {key: _matrix(columns[key]) for key in keys}
    for episode in episodes:
        rows = torch.nonzero(numbers["episode_index"] == episode.number).flatten()
        order = numbers["frame_index"][rows].tolist()
        neighbours = len(rows) > 0 and int(rows[-1] - rows[0]) == len(rows) - 1
        if order != list(range(episode.length)) or not neighbours:
            yield episode, f"{len(rows)} steps in {episode.table.name}, meta/episodes states {episode.length}"
            continue
        place = slice(int(rows[0]), int(rows[-1]) + 1)
        picked = {key: value[place] for key, value in values.items()}
        yield episode, LeRobotSteps(picked, tuple(numbers["task_index"][place].tolist()), place.start)


def short_name(camera: str) -> str:
    """Return the name of a camera without `observation.images.`."""
    return camera.removeprefix(IMAGE_PREFIX)


def _matrix(column: pa.ChunkedArray) -> Tensor:
    """Return a column of lists of one length, or of numbers, as float32 `[T A]`."""
    array = column.combine_chunks()
    flat = array.flatten() if pa.types.is_nested(array.type) else array
    values = torch.from_numpy(flat.to_numpy(zero_copy_only=False).astype("float32"))
    return values.view(len(array), -1)


def _rows(paths: Sequence[Path], *, skip: str) -> list[dict[str, Any]]:
    """Read tables row by row without the columns whose name starts with `skip`."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        columns = [name for name in pq.read_schema(path).names if not name.startswith(skip)]
        rows.extend(pq.read_table(path, columns=columns).to_pylist())
    if not rows:
        raise ValueError("no episodes")
    return sorted(rows, key=lambda row: row["episode_index"])


def _episode(root: Path, info: Mapping[str, Any], row: Mapping[str, Any]) -> LeRobotEpisode:
    videos = {}
    for key, feature in info["features"].items():
        if feature["dtype"] == "video":
            place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            file = resolve_inside(root, info["video_path"].format(video_key=key, **place))
            videos[key] = (file, float(row[f"videos/{key}/from_timestamp"]))
    place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
    table = resolve_inside(root, info["data_path"].format(**place))
    return LeRobotEpisode(int(row["episode_index"]), int(row["length"]), tuple(row["tasks"]), table, videos)


def _tasks(root: Path) -> dict[int, str]:
    table = pq.read_table(root / "meta" / "tasks.parquet")
    # The text is a column of its own, or was the index of the data frame that was written.
    text = "task" if "task" in table.column_names else "__index_level_0__"
    return {int(row["task_index"]): str(row[text]) for row in table.to_pylist()}


def local_root(repo_id: str) -> Path:
    """Return where LeRobot keeps a dataset on this machine."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_LEROBOT_HOME", Path(HF_HOME) / "lerobot")) / repo_id


def download(repo_id: str, revision: str | None, cameras: Sequence[str] | None) -> Path:
    """Bring a dataset from the hub to `local_root`: tables, and the videos of the wanted cameras only.

    Args:
        repo_id: Dataset on the hub.
        revision: Branch, tag or commit, or None.
        cameras: Full or short names, or None for all.

    Raises:
        DatasetError: The hub or the dataset cannot be reached.
        UnknownNameError: There is no such camera.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    root = local_root(repo_id)

    def fetch(patterns: list[str]) -> None:
        snapshot_download(
            repo_id, repo_type="dataset", revision=revision, local_dir=root, allow_patterns=patterns
        )

    try:
        fetch(["meta/*", "meta/**/*"])
        files = LeRobotFiles.read(root)
        wanted = files.cameras() if cameras is None else [files.camera(name) for name in cameras]
        fetch(["data/**/*", *(f"videos/{name}/**/*" for name in wanted)])
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        raise DatasetError(
            expected=f"the LeRobot dataset '{repo_id}' in {root} or on the Hugging Face hub",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="Check the name and the network (and HF_HUB_OFFLINE), or pass root=<folder> of a copy.",
        ) from error
    return root
