"""Names of files, folders and CSV columns of the LARYBench layout (protocol sections 1.2 and 1.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from lary_policy.errors import DatasetError
from lary_policy.paths import plain_name, resolve_inside, visible_files

REQUIRED_COLUMNS = ("src_img", "tgt_img", "action")
LARY_COLUMNS = ("dataset", "type", "perspective", "src_img", "src_state", "tgt_img", "tgt_state", "action")
# Ours: episode number, atomic primitive, executed poses where noise was added, and how many steps of it.
EXTRA_COLUMNS = ("episode", "label", "executed", "noise_steps")
IMAGES, STATES, ACTIONS, EXECUTED = "images", "states", "actions", "executed"
DATASET_FILE, EPISODES_FILE = "dataset.json", "episodes.json"
UNNAMED_CAMERA = "main"  # what the single camera of a dataset without dataset.json is called


def metadata_name(dataset: str, split: str) -> str:
    """Return the file name of a split's CSV; UnsafePathError where one of the names leads elsewhere."""
    return f"{plain_name('a dataset', dataset)}_metadata_{plain_name('a split', split)}.csv"


def find_metadata(
    folders: Sequence[Path], dataset: str, split: str, fix: str = "Choose a dataset and split that exist."
) -> Path:
    """Return the CSV of a split: `{dataset}_metadata_{split}.csv`, else `{dataset}_{split}.csv`.

    Raises:
        DatasetError: Neither is in one of the folders; the message lists the CSVs that are.
    """
    for folder in folders:
        for name in (metadata_name(dataset, split), f"{dataset}_{split}.csv"):
            if (folder / name).is_file():
                return folder / name
    present = sorted({p.name for folder in folders for p in visible_files(folder, "*.csv")})
    raise DatasetError(
        expected=f"{metadata_name(dataset, split)} in {' or '.join(map(str, folders))}",
        got=f"CSV files {', '.join(present) or '(none)'}",
        fix=fix,
    )


def camera_columns(columns: Sequence[str], first_camera: str) -> dict[str, tuple[str, str]]:
    """Map each camera with both a source and a target column to their names, first camera first.

    DatasetError where two are called alike.
    """
    cameras = {first_camera: ("src_img", "tgt_img")}
    for column in columns:
        name = column.removeprefix("src_img_")
        if name != column and f"tgt_img_{name}" in columns:
            if name == first_camera:
                raise DatasetError(
                    expected=f"one camera '{name}'",
                    got=f"two: the first one of {DATASET_FILE}, and column {column}",
                    fix=f"Correct the order of cameras in {DATASET_FILE}, or the names of the columns.",
                )
            cameras[name] = (column, f"tgt_img_{name}")
    return cameras


def is_count(text: str) -> bool:
    """Tell whether a text is a whole number from 0 on that 64 bits hold."""
    return text.isdecimal() and len(text) < 19


def image_folder(camera_index: int, camera: str) -> str:
    """Return the image folder of a camera: `images` for the first, `images_<camera>` for the others.

    UnsafePathError where the name leads elsewhere.
    """
    return IMAGES if camera_index == 0 else f"{IMAGES}_{plain_name('a camera', camera)}"


def frame_file(folder: str, episode: int, step: int) -> str:
    """Return the path of a frame below the dataset root."""
    return f"{folder}/ep_{episode}/frame_{step:06d}.png"


def state_file(episode: int, step: int) -> str:
    """Return the path of a measured pose below the dataset root."""
    return f"{STATES}/ep_{episode}/state_{step:06d}.npy"


def scene_file(episode: int) -> str:
    """Return the path of the named state at an episode's chunk boundaries, and where its expert is free."""
    return f"scene/ep_{episode}.json"


def action_file(episode: int, src: int, tgt: int, folder: str = ACTIONS) -> str:
    """Return the path of the chunk of steps src..tgt-1; the name holds the last step, as in the reference."""
    return f"{folder}/ep_{episode}/action_{src:06d}to{tgt - 1:06d}.npy"


def with_prefix(path: str, folder: str) -> str:
    """Put `folder` (unless "") in front of a path of the reference's older style, which leaves it out."""
    parts = PurePosixPath(path).parts
    if not folder or any(part == folder or part.startswith(f"{folder}_") for part in parts):
        return path
    return f"{folder}/{path}"


def episode_key(image: str) -> str:
    """Return what names the episode in an image path: its folder without the `images` part."""
    return _episode_of(image.rpartition("/")[0])


@lru_cache(maxsize=1 << 16)
def _episode_of(folder: str) -> str:
    parts = PurePosixPath(folder).parts
    return "/".join(p for p in parts if p != IMAGES and not p.startswith(f"{IMAGES}_"))


class PathResolver:
    """Resolve CSV paths below a root that none may leave; each folder is listed once for links in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}

    def __call__(self, path: str | None, folder: str) -> Path:
        """Return the absolute path of a CSV cell, see `locate`."""
        return Path(self.locate(path, folder))

    def locate(self, path: str | None, folder: str) -> str:
        """Return the absolute path of a CSV cell, in either style (with or without `folder` in front).

        It is text: to take `Path` objects apart costs more than to read a file.

        Raises:
            DatasetError: The cell is empty.
            UnsafePathError: The path is absolute, contains `..` or leaves the root through a link.
        """
        if path and path[0] != "/" and "\0" not in path:
            parent, _, name = path.rpartition("/")
            known = self._folders.get((parent, folder))
            if known is not None and name not in known[1]:
                return known[0] + name
        return self._find(path, folder)

    def _find(self, path: str | None, folder: str) -> str:
        """Return where a cell points to, after a look at its folder."""
        if not path or "\0" in path:
            raise DatasetError(
                expected=f"a path below {folder}/",
                got="an empty cell" if not path else "a path with a NUL byte",
                fix="Complete the row in the CSV.",
            )
        parent, _, name = path.rpartition("/")
        if path.startswith("/") or name in ("", ".", ".."):
            return str(resolve_inside(self.root, path))
        key = (parent, folder)
        if key not in self._folders:
            whole = PurePosixPath(with_prefix(path, folder))
            resolved = resolve_inside(self.root, str(whole.parent))
            self._folders[key] = f"{resolved}/", _links(resolved) | {"", ".", ".."}
        place, links = self._folders[key]
        if name in links:
            return str(resolve_inside(self.root, with_prefix(path, folder)))
        return place + name


def _links(folder: Path) -> frozenset[str]:
    """Return the names of the symbolic links in a folder, which one listing tells."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_symlink())
    except OSError:
        return frozenset()  # the folder is missing: reading the file will say so
