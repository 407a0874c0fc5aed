"""What the features of LeRobot's `meta/info.json` say, in all the spellings that datasets have.

Sources and policies both read them here.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lary_policy.errors import DatasetError, UnsafePathError

Feature = Mapping[str, Any]
IMAGES = ("image", "video")
_DEPTH = ("is_depth_map", "video.is_depth_map")
_PLACES = ("video_key", "chunk_index", "file_index", "episode_index", "episode_chunk")
FORMAT = "v3."
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


def feature_names(feature: Feature | None) -> tuple[str, ...] | None:
    """Return the name of each number of a feature, or None where they have none.

    Datasets write `[a, b]`, `[[a, b]]`, `{"motors": [a, b]}`, `{"left": [a], "right": [b]}` or
    `{a: 0, b: 1}`. Names that are too few, too many, repeated or no text name nothing.
    """
    feature = feature or {}
    found = _flat(feature.get("names"))
    shape = feature.get("shape")
    sizes = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    size = sizes[0] if len(sizes) == 1 else None
    good = all(isinstance(name, str) and name for name in found) and len(set(found)) == len(found)
    return tuple(found) if found and good and size in (None, len(found)) else None


def _flat(names: Any) -> list[Any]:
    if isinstance(names, Mapping):
        places = list(names.values())
        if places and all(isinstance(p, int) and not isinstance(p, bool) for p in places):
            whole = sorted(places) == list(range(len(places)))
            return sorted(names, key=lambda name: names[name]) if whole else []
        return [name for inner in places for name in _flat(inner)]
    if isinstance(names, list | tuple):
        return [n for inner in names for n in (_flat(inner) if isinstance(inner, list | tuple) else [inner])]
    return []


def is_depth(feature: Feature) -> bool:
    """Return whether images of a feature are distances, as LeRobot decides it, old spellings included."""
    places = (feature, feature.get("info"), feature.get("video_info"))
    return any(isinstance(p, Mapping) and bool(p.get(name)) for p in places for name in _DEPTH)


def is_camera(feature: Feature) -> bool:
    """Return whether a feature is colour images or videos."""
    return feature.get("dtype") in IMAGES and not is_depth(feature)


def is_vector(feature: Feature) -> bool:
    """Return whether a feature is one row of floating-point numbers a step."""
    dtype, shape = feature.get("dtype"), feature.get("shape")
    return isinstance(dtype, str) and "float" in dtype and isinstance(shape, list | tuple) and len(shape) == 1


def place_of(root: Path, template: Any, **places: Any) -> Path:
    """Return the file that a template of `meta/info.json` names for some numbers.

    The dataset's folder may be of links (the hub's cache is), which are followed; the template must not leave
    it by its words.

    Raises:
        UnsafePathError: It is absolute, has `..`, or a field or format that no template needs.
    """
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
        if any(name not in _PLACES or not _is_plain(spec) for name, spec in fields):
            raise ValueError(f"fields {fields}")
        path = PurePosixPath(template.format(**places))
    except Exception as error:  # the template is anything that JSON holds
        raise _unsafe(root, template, f"{type(error).__name__}: {error}") from error
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise _unsafe(root, template, str(path))
    return root / path


def _is_plain(spec: str | None) -> bool:
    """Return whether a format is none, or a whole number with up to 9 leading zeros."""
    return spec in (None, "", "d") or re.fullmatch(r"0\dd", spec) is not None


def _unsafe(root: Path, template: Any, got: str) -> UnsafePathError:
    return UnsafePathError(
        expected=f"a path inside {root} for '{template}' of meta/info.json",
        got=got,
        fix="Correct the template, or download the dataset again.",
    )


def require_format(root: Path, info: Mapping[str, Any], wanted: str = FORMAT) -> None:
    """Refuse datasets of another format than v3.

    Raises:
        DatasetError: It is; the message has the command that converts the folder where it is.
    """
    version = str(info.get("codebase_version"))
    if not version.startswith(wanted):
        name = "/".join(root.absolute().parts[-2:])
        raise DatasetError(
            expected=f"a LeRobot dataset of format {wanted}x in {root}",
            got=f"format {version}",
            fix=f"Convert the folder, which stays on this machine: {CONVERTER} "
            f"--repo-id={shlex.quote(name)} --root={shlex.quote(str(root.absolute()))} --push-to-hub=false",
        )
