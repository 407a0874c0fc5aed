"""Finished episodes of an interrupted rollout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lary_policy.errors import StoreError
from lary_policy.stages.cells import write_json
from lary_policy.types import EpisodeResult


class EpisodeProgress:
    """Episodes that were finished before a rollout cell was, and the seconds they took.

    Args:
        folder: Folder of the cell.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "episodes.partial.json"

    def read(self) -> tuple[list[EpisodeResult], float]:
        """Return finished episodes and seconds; nothing when there was no interruption.

        Raises:
            StoreError: The file is damaged.
        """
        if not self._path.exists():
            return [], 0.0
        try:
            raw = json.loads(self._path.read_text())
            return [EpisodeResult(**row) for row in raw["episodes"]], float(raw["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                expected=f"finished episodes in {self._path}",
                got=f"{type(error).__name__}: {error}",
                fix="Delete the file; the episodes are run again.",
            ) from error

    def write(self, episodes: Sequence[EpisodeResult], seconds: float) -> None:
        """Replace the file."""
        write_json(self._path, {"episodes": [asdict(e) for e in episodes], "seconds": seconds})

    def remove(self) -> None:
        """Delete the file: the result of the cell holds everything now."""
        self._path.unlink(missing_ok=True)
