"""Content-addressed results on disk: a finished cell is never computed again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lary_policy.errors import StoreError
from lary_policy.paths import atomic_write, safe_name

RESULT = "result.json"


def digest(*parts: Any) -> str:
    """Return 12 hex digits of the sha256 of the parts' canonical JSON (dataclasses as dicts)."""
    text = json.dumps(parts, sort_keys=True, default=_encode)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


@dataclass(frozen=True)
class Cell:
    """One unit of work: a folder named after its inputs, done when it holds `result.json`.

    Attributes:
        stage: `data`, `extract`, `probe` or `rollout`.
        label: Readable part of the name, e.g. `reach-dinov2-small-pair-absolute`.
        key: Digest of everything the result depends on.
        root: The cache folder.
    """

    stage: str
    label: str
    key: str
    root: Path

    @property
    def folder(self) -> Path:
        """Where the cell's files lie."""
        return self.root / self.stage / f"{safe_name(self.label)}-{self.key}"

    @property
    def done(self) -> bool:
        """Whether the result is complete."""
        return (self.folder / RESULT).is_file()

    def result(self) -> dict[str, Any]:
        """Read the result.

        Raises:
            StoreError: The file is not valid JSON.
        """
        path = self.folder / RESULT
        try:
            return json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise StoreError(
                expected="a finished cell",
                got=f"{error}",
                fix=f"Delete {self.folder} and start the command again.",
            ) from error

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Publish the result atomically and return it as every later run will read it."""
        write_json(self.folder / RESULT, result)
        return self.result()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=_encode))


def point_latest(output_dir: Path, run: Path) -> None:
    """Make `outputs/latest` point at a run."""
    link, temporary = output_dir / "latest", output_dir / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(link)
