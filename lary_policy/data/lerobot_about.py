"""The file in which a LeRobot dataset of ours says what LeRobot's own files have no place for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy.data.episodes import EpisodeRecord, records_from_json
from lary_policy.errors import DatasetError
from lary_policy.paths import read_json

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
        """Read it.

        Raises:
            DatasetError: It is missing or damaged.
        """
        found = read_json(Path(root) / ABOUT)
        try:
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
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                expected=f"what `lary data to-lerobot` writes in {Path(root) / ABOUT}",
                got=f"{type(error).__name__}: {error}",
                fix="Write the dataset anew, or delete the file to use it as any other LeRobot dataset.",
            ) from error
