"""Where LeRobot datasets are on this machine, and how they come here from the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lary_policy.data.lerobot.files import INFO, LeRobotFiles
from lary_policy.errors import ConfigError, DatasetError

# What LeRobot 0.6 asks the hub for where no revision is given: the tag of its format, then the branch.
_REVISIONS = ("v3.0", "main")


def locate(
    folder: Path | None, repo_id: str | None, revision: str | None, cameras: Sequence[str] | None
) -> Path:
    """Return the folder of a dataset: the one that was named, LeRobot's copy of it, or a new download.

    Args:
        folder: Folder that was named, or None.
        repo_id: Name on the hub, or None.
        revision: Branch, tag or commit on the hub, or None.
        cameras: Full or short names, or None for all.

    Raises:
        ConfigError: Neither a folder nor a name is given.
        DatasetError: The dataset is neither on this machine nor on the hub.
        UnknownNameError: There is no such camera.
    """
    if folder is not None:
        return Path(folder)
    if repo_id is None:
        raise ConfigError(
            expected="repo_id=<name on the hub> or root=<folder> of source lerobot",
            got="neither",
            fix="Pass root=/data/my_dataset, for example.",
        )
    found = lerobot_home() / repo_id
    if revision is None and (found / INFO).is_file():
        return found
    return cached(repo_id, revision) or download(repo_id, revision, cameras)


def lerobot_home() -> Path:
    """Return the folder in which LeRobot keeps datasets on this machine."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_LEROBOT_HOME", Path(HF_HOME) / "lerobot")).expanduser()


def cached(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot of a dataset in LeRobot's own cache of the hub, or None where there is none.

    Nothing is asked of the hub. Where no revision is given and none of the usual ones is known, the only
    snapshot there is serves.
    """
    from huggingface_hub import snapshot_download

    cache = lerobot_home() / "hub"
    for name in _REVISIONS if revision is None else (revision,):
        try:
            found = snapshot_download(
                repo_id, repo_type="dataset", revision=name, cache_dir=cache, local_files_only=True
            )
        except Exception:  # "not in the cache" has many names there, and is no error here
            continue
        if (Path(found) / INFO).is_file():
            return Path(found)
    snapshots = cache / f"datasets--{repo_id.replace('/', '--')}" / "snapshots"
    known = [path for path in snapshots.glob(revision or "*") if (path / INFO).is_file()]
    return known[0] if len(known) == 1 else None


def download(repo_id: str, revision: str | None, cameras: Sequence[str] | None) -> Path:
    """Bring a dataset from the hub to LeRobot's folder: tables, and the videos of the wanted cameras only.

    Args:
        repo_id: Dataset on the hub.
        revision: Branch, tag or commit, or None.
        cameras: Full or short names, or None for all.

    Raises:
        DatasetError: The hub or the dataset cannot be reached.
        UnknownNameError: There is no such camera.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    root = lerobot_home() / repo_id

    def fetch(patterns: list[str]) -> None:
        snapshot_download(
            repo_id, repo_type="dataset", revision=revision, local_dir=root, allow_patterns=patterns
        )

    try:
        fetch(["meta/*", "meta/**/*"])
        files = LeRobotFiles.read(root)
        wanted = files.cameras() if cameras is None else [files.camera(name) for name in cameras]
        fetch(["data/**/*", *(f"videos/{name}/**/*" for name in wanted)])
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        raise DatasetError(
            expected=f"the LeRobot dataset '{repo_id}' in {root} or on the Hugging Face hub",
            got=f"{type(error).__name__}: {error}".splitlines()[0],
            fix="Check the name and the network (and HF_HUB_OFFLINE), or pass root=<folder> of a copy.",
        ) from error
    return root
