"""Names of files, folders and CSV columns of the LARYBench layout (protocol sections 1.2 and 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from lary_policy.errors import DatasetError
from lary_policy.paths import visible_files

REQUIRED_COLUMNS = ("src_img", "tgt_img", "action")
LARY_COLUMNS = ("dataset", "type", "perspective", "src_img", "src_state", "tgt_img", "tgt_state", "action")
# Ours: episode number, atomic primitive, executed poses where noise was added, and how many steps of it.
EXTRA_COLUMNS = ("episode", "label", "executed", "noise_steps")
IMAGES, STATES, ACTIONS, EXECUTED = "images", "states", "actions", "executed"
DATASET_FILE, EPISODES_FILE = "dataset.json", "episodes.json"
UNNAMED_CAMERA = "main"  # what the single camera of a dataset without dataset.json is called


def metadata_name(dataset: str, split: str) -> str:
    """Return the file name of a split's CSV."""
    return f"{dataset}_metadata_{split}.csv"


def find_metadata(root: Path, dataset: str, split: str) -> Path:
    """Return the CSV of a split: `{dataset}_metadata_{split}.csv`, else `{dataset}_{split}.csv`.

    Raises:
        DatasetError: Neither exists; the message lists the CSVs that do.
    """
    for name in (metadata_name(dataset, split), f"{dataset}_{split}.csv"):
        if (root / name).is_file():
            return root / name
    present = [p.name for p in visible_files(root, "*.csv")]
    raise DatasetError(
        expected=f"{metadata_name(dataset, split)} in {root}",
        got=f"CSV files {', '.join(present) or '(none)'}",
        fix="Choose a dataset and split that exist, or write demonstrations with `lary data`.",
    )


def camera_columns(columns: Sequence[str], first_camera: str) -> dict[str, tuple[str, str]]:
    """Map each camera with both a source and a target column to their names, first camera first."""
    cameras = {first_camera: ("src_img", "tgt_img")}
    for column in columns:
        name = column.removeprefix("src_img_")
        if name != column and f"tgt_img_{name}" in columns:
            cameras[name] = (column, f"tgt_img_{name}")
    return cameras


def image_folder(camera_index: int, camera: str) -> str:
    """Return the image folder of a camera: `images` for the first, `images_<camera>` for the others."""
    return IMAGES if camera_index == 0 else f"{IMAGES}_{camera}"


def frame_file(folder: str, episode: int, step: int) -> str:
    """Return the path of a frame below the dataset root."""
    return f"{folder}/ep_{episode}/frame_{step:06d}.png"


def state_file(episode: int, step: int) -> str:
    """Return the path of a measured pose below the dataset root."""
    return f"{STATES}/ep_{episode}/state_{step:06d}.npy"


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
    folder, slash, _ = image.rpartition("/")
    return _episode_of(folder + slash)


@lru_cache(maxsize=1 << 16)
def _episode_of(folder: str) -> str:
    parts = PurePosixPath(folder).parts
    return "/".join(p for p in parts if p != IMAGES and not p.startswith(f"{IMAGES}_"))
