"""Latents of a LeRobot dataset by the frames' numbers: what a policy reads instead of encoding images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lary_policy.console import OnProgress
from lary_policy.data import IntegrityReport, read_archive, verify_files
from lary_policy.errors import ConfigError, ShapeError, StoreError, UnknownNameError
from lary_policy.latents import LatentStore, StoredLatents
from lary_policy.paths import foreign_file, read_json, resolve_inside

CACHE_FILE, IDS_FILE, STORES = "latents.json", "latent_ids.npz", "latents"
VERSION = 1
_REBUILD = "Run `lary train` with this dataset: it encodes what is missing and says where the latents are"
_OF_EARLIER = "An earlier version wrote this view, without checksums: unchecked; `lary train` writes another."
ID_BYTES = 64  # hex digits of a frame's id


@dataclass(frozen=True)
class DatasetIdentity:
    """What tells one LeRobot dataset from another without reading its images.

    Attributes:
        fps: Frames a second.
        total_frames: Frames of all episodes.
        episodes: sha256 of the first and last frame of every episode.
        statistics: sha256 of the means and deviations of actions and states.
    """

    fps: float
    total_frames: int
    episodes: str
    statistics: str

    @classmethod
    def of(cls, meta: Any) -> DatasetIdentity:
        """Return the identity of what a `LeRobotDatasetMetadata` describes."""
        columns = (meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"])
        stats = meta.stats or {}
        numbers = {
            key: [np.asarray(stats[key][name], np.float64).round(9).tolist() for name in ("mean", "std")]
            for key in ("action", "observation.state")
            if key in stats
        }
        return cls(
            fps=float(meta.fps),
            total_frames=int(meta.total_frames),
            episodes=json_digest([[int(number) for number in column] for column in columns]),
            statistics=json_digest(numbers),
        )


@dataclass(frozen=True)
class CacheFacts:
    """What `latents.json` says.

    Attributes:
        fingerprint: Fingerprint of the encoder.
        store: Name of the store's folder.
        cameras: Image features of the policy, in the order of the ids.
        window: Steps relative to now whose images give one latent; None where each image has its own.
        steps: Time steps t' of the latent of a window.
        dataset: Whose frames they are.
        version: Format of the folder.
        ids: `ids_digest` of the ids beside it; caches of earlier versions do not have it.
        checksums: Name of the file with the digests of all others; those do not have it either.
        looks: Names of the stores of randomly changed images, of which a training draws.
    """

    fingerprint: str
    store: str
    cameras: tuple[str, ...]
    window: tuple[int, ...] | None
    steps: int
    dataset: DatasetIdentity
    version: int = VERSION
    ids: str = ""
    checksums: str = ""
    looks: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> CacheFacts:
        """Read them; StoreError where the folder holds no latents, or those of another format."""
        path = folder / CACHE_FILE
        what, fix = "stored latents of a dataset", f"{_REBUILD}."
        with foreign_file(what, path, fix, error=StoreError):
            raw = read_json(path, error=StoreError, fix=fix, what=what)
            window = None if raw["window"] is None else tuple(raw["window"])
            changed = {"window": window, "cameras": tuple(raw["cameras"])}
            changed["looks"] = tuple(raw.get("looks", ()))
            facts = cls(**{**raw, **changed, "dataset": DatasetIdentity(**raw["dataset"])})
        if facts.version != VERSION:
            raise _other(f"format {VERSION}", f"{facts.version}")
        return facts


class LatentCache:
    """The latents of all frames of a dataset, read from a `LatentStore` by frame number.

    Args:
        folder: Folder with `latents.json`, as `build_cache` writes it.

    Attributes:
        facts: Encoder, cameras and dataset that the latents belong to.
        store: The latents.

    Raises:
        StoreError: There are no latents in the folder, they are incomplete, or a file of it changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = Path(folder), CacheFacts.read(Path(folder))
        stores = self.folder.parents[1] / STORES
        names = (self.facts.store, *self.facts.looks)
        self._stores = tuple(LatentStore.open(resolve_inside(stores, name)) for name in names)
        self.store = self._stores[0]
        require_whole(self.folder)
        with foreign_file("ids of stored latents", folder / IDS_FILE, f"{_REBUILD}.", error=StoreError):
            arrays = read_archive(folder / IDS_FILE, ("ids", "bounds"), "iS")
            ids, self._bounds = arrays["ids"], arrays["bounds"]  # [F c], [E 2]
            if self.facts.ids not in ("", ids_digest(ids, self._bounds)):
                raise ValueError("its content is not what was written")
        self._latents = tuple(_open(store, ids) for store in self._stores)
        self._places = np.full(ids.shape, -1, np.int64)  # of each frame and camera among the latents, [F c]
        self._places[ids != b""] = np.arange(len(self._latents[0]))

    @classmethod
    def of_run(cls, config: Any, fingerprint: str, meta: Any) -> LatentCache | None:
        """Open the latents that a policy's configuration names for a training run, and check them.

        A policy that only acts (`meta` is None) needs none.

        Raises:
            StoreError: They are not there, or not of this encoder and dataset.
        """
        if config.latents is None or meta is None:
            return None
        cache = cls(Path(config.latents))
        cache.require(fingerprint, tuple(config.image_features), meta)
        return cache

    def require(self, fingerprint: str, cameras: Sequence[str], meta: Any) -> None:
        """Refuse an encoder that gives other latents, other cameras, and a dataset with other frames.

        Args:
            fingerprint: Of the policy's encoder.
            cameras: Image features of the policy.
            meta: The `LeRobotDatasetMetadata` of the dataset that is trained on.

        Raises:
            StoreError: The encoder or the dataset is another one, or changed; the message names what differs.
            UnknownNameError: The latents lack a camera.
        """
        if fingerprint != self.facts.fingerprint:
            raise _other(
                f"latents of the policy's encoder, fingerprint {fingerprint}",
                f"those of {self.facts.fingerprint} in {self.folder}",
                ", or drop --policy.latents",
            )
        for camera in cameras:
            if camera not in self.facts.cameras:
                raise UnknownNameError(f"camera of the latents in {self.folder}", camera, self.facts.cameras)
        theirs, ours = asdict(DatasetIdentity.of(meta)), asdict(self.facts.dataset)
        different = [name for name in ours if ours[name] != theirs[name]]
        if different:
            wanted, found = (
                ", ".join(f"{name} {str(facts[name])[:12]}" for name in different) for facts in (theirs, ours)
            )
            expected = f"{wanted} (of the dataset {meta.repo_id})"
            raise _other(expected, f"{found} (of the latents in {self.folder})")

    def require_frozen(self, encoder: nn.Module) -> None:
        """Raise ConfigError for an encoder that learns, also through adapters that were added to it."""
        trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
        if trained:
            raise ConfigError(
                expected=f"a frozen encoder for the stored latents in {self.folder}",
                got=f"{len(trained)} trained tensors, for example {trained[0]}",
                fix="Drop --policy.latents, or --policy.encoder.trainable and --peft.",
            )

    def lookup(
        self, index: Tensor, cameras: Sequence[str], deltas: Sequence[int] = (0,), *, training: bool = False
    ) -> Tensor:
        """Return the latents `[b t c n d]` of frames, float32 on the CPU.

        Like LeRobot's own windows, steps before an episode's start or after its end are its first or last.

        Args:
            index: Frame numbers, LeRobot's `index`, int64 `[b]`.
            cameras: Image features in the order in which they are wanted.
            deltas: Steps relative to now: those of the history, or the window that the latents are of.
            training: Draw one of the changed looks of each image from torch's global generator, if there are
                some; otherwise latents are of the images as they are.

        Raises:
            StoreError: There are no latents of these steps, or a shard is damaged.
            ShapeError: A frame number is not one of the dataset's.
        """
        rows = self._rows(index, deltas)
        columns = [self.facts.cameras.index(camera) for camera in cameras]
        places = self._places[rows[:, :, None], np.array(columns)]  # [b t c]
        if places.min(initial=0) < 0:
            expected = f"latents of frame {int(index[0])} and its neighbours in {self.folder}"
            raise _other(expected, "none: its episode was not among those encoded")
        latents = self._read(torch.from_numpy(places.reshape(-1)), training)
        if self.facts.window is None:
            return latents.unflatten(0, places.shape)
        # The time steps of a window lie one after the other among its tokens: [b*c t'*n d] -> [b t' c n d].
        by_camera = latents.unflatten(1, (self.facts.steps, -1)).unflatten(0, (len(rows), len(columns)))
        return by_camera.transpose(1, 2)

    def _read(self, places: Tensor, training: bool) -> Tensor:
        """Return the latents `[p n d]` at places, float32, each of a look of its own in training."""
        looks = self._latents[1:]
        if not (training and looks):
            return self._latents[0][places].float()
        drawn = torch.randint(len(looks), places.shape)
        found = torch.empty(len(places), self.store.latent.tokens, self.store.latent.width)
        for look, latents in enumerate(looks):
            found[drawn == look] = latents[places[drawn == look]].float()
        return found

    def _rows(self, index: Tensor, deltas: Sequence[int]) -> NDArray[np.int64]:
        """Return the frames `[b t]` whose latents are wanted."""
        now = index.detach().cpu().numpy().reshape(-1)
        if len(now) and not 0 <= now.min() <= now.max() < len(self._places):
            raise ShapeError(
                expected=f"frame numbers from 0 to {len(self._places) - 1}",
                got=f"{now.min()} to {now.max()}",
                fix="Train on the dataset that the latents are of.",
            )
        if self.facts.window is not None:
            if tuple(deltas) != self.facts.window:
                found = f"those of {self.facts.window} in {self.folder}"
                raise _other(f"latents of the window {tuple(deltas)}", found)
            return now[:, None]
        first, last = self._bounds[np.searchsorted(self._bounds[:, 0], now, side="right") - 1].T
        return np.clip(now[:, None] + np.array(deltas), first[:, None], last[:, None] - 1)


def _open(store: LatentStore, ids: NDArray[np.bytes_]) -> StoredLatents:
    """Return the latents of the ids `[F c]` that are not empty, in order."""
    names = ids[ids != b""].astype(str).tolist()
    absent = store.missing(names)
    if absent:
        raise _other(f"{len(names)} latents in {store.root}", f"{len(absent)} missing")
    return StoredLatents(store, names)


def verify_view(folder: Path, *, on_progress: OnProgress | None = None) -> IntegrityReport:
    """Compare all files of a view with what was written; one of an earlier version cannot be.

    Raises:
        StoreError: What says how to check it is damaged itself.
    """
    if not CacheFacts.read(folder).checksums:
        return IntegrityReport(folder, {}, (), (_OF_EARLIER,))
    return verify_files(folder, on_progress=on_progress)


def require_whole(folder: Path) -> None:
    """Raise StoreError for a view that is not what was written: the numbers in it are trained on."""
    for problem in verify_view(folder).problems:
        raise StoreError(
            expected=f"{folder} as it was written",
            got=f"{problem.item}: {problem.reason}",
            fix=f"Delete {folder} and run `lary train` with this dataset again: the latents stay.",
        )


def ids_digest(ids: NDArray[np.bytes_], bounds: NDArray[np.int64]) -> str:
    """Return the sha256 of the ids `[F c]` of all frames and the bounds `[E 2]` of all episodes."""
    return hashlib.sha256(ids.tobytes() + bounds.tobytes()).hexdigest()


def json_digest(value: Any) -> str:
    """Return the sha256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _other(expected: str, got: str, also: str = "") -> StoreError:
    """Return the error of latents that are not those that are wanted."""
    return StoreError(expected=expected, got=got, fix=f"{_REBUILD}{also}.")
