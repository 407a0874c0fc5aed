"""Checkpoints that are split over several safetensors files, listed by an index."""

from __future__ import annotations

import json
from pathlib import Path

from lary_policy.errors import UnsafePathError, WeightsMismatchError

INDEX_SUFFIX = ".safetensors.index.json"


def is_index(path: Path) -> bool:
    """Tell whether a file is the index of a sharded checkpoint."""
    return path.name.endswith(INDEX_SUFFIX)


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index lists.

    Raises:
        WeightsMismatchError: The index has no weight map.
        UnsafePathError: A name is not that of a file beside the index.
    """
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(index, f"{type(error).__name__}: {error}") from error
    # Not resolved: in the hub's cache these files are links to another folder.
    for name in names:
        if Path(name).name != name:
            raise UnsafePathError(
                expected=f"plain file names in {index}",
                got=f"'{name}'",
                fix="Download the whole folder again.",
            )
    return names


def shard_files(index: Path) -> list[Path]:
    """Return the files that an index lists.

    Raises:
        WeightsMismatchError: The index has no weight map, or a file is not there.
        UnsafePathError: A name is not that of a file beside the index.
    """
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
