"""Checkpoints that are split over several safetensors files, listed by an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from lary_policy.errors import UnsafePathError, WeightsMismatchError
from lary_policy.paths import MAX_JSON_BYTES, parse_json, read_regular

INDEX_SUFFIX = ".safetensors.index.json"


def is_index(path: Path) -> bool:
    """Tell whether a file is the index of a sharded checkpoint."""
    return path.name.endswith(INDEX_SUFFIX)


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor; raises as `read_shards`."""
    try:
        found = dict(parse_json(read_regular(index, MAX_JSON_BYTES).decode("utf-8"))["weight_map"])
    except Exception as error:  # a file of anyone
        raise _broken(index, f"{type(error).__name__}: {str(error)[:200]}") from error
    # Not resolved: in the hub's cache these files are links to another folder.
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UnsafePathError(
                expected=f"plain names of safetensors files in {index}",
                got=f"'{name}'",
                fix="Download the whole folder again.",
            )
    return found


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index lists; raises as `read_shards`."""
    return sorted(set(_weight_map(index).values()))


def read_shards(index: Path, load: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Read all files that an index lists, each by `load`.

    Raises:
        WeightsMismatchError: The index has no weight map, a file is not there, or the files hold other
            tensors than the index says.
        UnsafePathError: A name is not that of a safetensors file beside the index.
    """
    if not (found := _weight_map(index)):
        raise _broken(index, "no tensors")
    shards = {file.name: load(file) for file in shard_files(index)}
    held = [(key, name) for name, shard in shards.items() for key in shard]
    if sorted(held) != sorted(found.items()):
        wrong = sorted(set(held) ^ set(found.items()))
        raise _broken(index, f"other tensors in its files: {', '.join(key for key, _ in wrong[:5])}")
    return {key: value for shard in shards.values() for key, value in shard.items()}


def shard_files(index: Path) -> list[Path]:
    """Return the files that an index lists; raises as `read_shards`."""
    files = [index.parent / name for name in shard_names(index)]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise _broken(index, f"no {', '.join(absent)} beside it")
    return files


def _broken(index: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"{index} as an index of safetensors files beside it",
        got=got,
        fix="Download the whole folder again.",
    )
