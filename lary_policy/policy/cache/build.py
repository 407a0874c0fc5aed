"""Encode the images of a LeRobot dataset once, as the policy would see them, and remember which is where."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lary_policy.console import OnProgress
from lary_policy.data import CHECKSUMS_FILE, write_checksums
from lary_policy.data.lerobot import (
    EpisodeFrames,
    LeRobotFiles,
    bounds,
    episode_frames,
    view_content,
    write_view,
)
from lary_policy.errors import DatasetError, StoreError
from lary_policy.frames import checked_ids, decode_frame
from lary_policy.latents import (
    FRAMES,
    HISTORIES,
    STORE_DTYPES,
    ExtractReport,
    LatentStore,
    Window,
    encode_windows,
    good_batch_size,
    joined_latent,
    window_id,
)
from lary_policy.machine import kept_heap
from lary_policy.paths import atomic_folder, write_json
from lary_policy.policy.cache.index import (
    CACHE_FILE,
    ID_BYTES,
    IDS_FILE,
    STORES,
    CacheFacts,
    DatasetIdentity,
    ids_digest,
    json_digest,
    require_whole,
)
from lary_policy.types import LatentSpec

VIEWS = "views"


class ImageEncoder(Protocol):
    """The part of `ObservationEncoder` that is needed: images `[b t 3 h w]` in [0, 1] to `[b t' n d]`."""

    fingerprint: str
    latent: LatentSpec

    def __call__(self, images: Tensor) -> Tensor:
        """Return the latents."""
        ...

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Return the latents of the same images as uint8 `[b t h w 3]`."""
        ...


@dataclass(frozen=True)
class Looks:
    """Random changes of images, drawn a few times each instead of anew at every step.

    Attributes:
        count: Changed looks of each image.
        change: The random change of an image `[3 h w]` in [0, 1], e.g. LeRobot's `ImageTransforms`.
        settings: Plain data that tells one kind of change from another.
    """

    count: int
    change: Callable[[Tensor], Tensor]
    settings: Any


@dataclass(frozen=True)
class CachePlan:
    """Which latents of a dataset a policy needs.

    Attributes:
        cameras: Image features of the policy and the features of the dataset that they are.
        deltas: Steps of its history relative to now, in order; (0,) without one.
        episodes: Numbers of the episodes; None for all.
        dtype: Dtype of the stored latents.
        camera_stats: Statistics of cameras to write into the view, see `write_view`.
        looks: Random changes of each image of which latents are stored too.
    """

    cameras: Mapping[str, str]
    deltas: tuple[int, ...] = (0,)
    episodes: tuple[int, ...] | None = None
    dtype: str = "float32"
    camera_stats: Mapping[str, Any] | None = None
    looks: Looks | None = None


@dataclass(frozen=True)
class BuiltCache:
    """Where the latents of a dataset are, and what it took.

    Attributes:
        folder: Argument of `LatentCache`; also a LeRobot dataset without images.
        encoded: Latents made now.
        reused: Latents that were there.
        bytes: Size of one latent.
        seconds: Wall time of looking, encoding and writing.
    """

    folder: Path
    encoded: int
    reused: int
    bytes: int
    seconds: float


def build_cache(
    meta: Any,
    plan: CachePlan,
    encoder: ImageEncoder,
    root: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    on_progress: OnProgress | None = None,
) -> BuiltCache:
    """Encode what is missing of a dataset's frames; start again to continue.

    Latents are content-addressed: another run, another selection of episodes or a dataset that grew encodes
    only what is new.

    Args:
        meta: `LeRobotDatasetMetadata` of a dataset whose files are on this machine.
        plan: What is needed.
        encoder: The policy's frozen encoder.
        root: Folder for the latents of all encoders and datasets.
        device: Where the encoder runs.
        threads: See `encode_windows`.
        on_progress: Called with (done, to do).

    Raises:
        DatasetError: The dataset is damaged, or an image cannot be decoded.
        UnknownNameError: A camera does not exist, or the dtype is unknown.
        StoreError: The disk is too small, or stored latents are damaged.
    """
    start = time.perf_counter()
    files = LeRobotFiles.read(Path(meta.root))
    identity = _identity(meta, files)
    window = None if encoder.latent.kind == "frame" else plan.deltas
    episodes = episode_frames(files, tuple(plan.cameras.values()), plan.episodes)
    ids, wanted = _wanted(files, episodes, plan.cameras, window)
    pixels = _Pixels(encoder, device)
    steps = 1 if window is None else pixels.steps(next(iter(wanted.values())))
    stores = _stores(root, encoder, plan, window, steps)
    _require_room(stores, wanted)
    encoded = reused = 0
    for look, store in enumerate(stores):
        pixels.change = None if look == 0 or plan.looks is None else (plan.looks.change, look)
        with kept_heap(device):
            report = encode_windows(
                wanted.values(),
                FRAMES if window is None else HISTORIES,
                pixels,
                store,
                batch_size=good_batch_size(device),
                threads=threads,
                on_progress=on_progress,
            )
        _require_decoded(report)
        encoded, reused = encoded + report.encoded, reused + report.reused
    names = tuple(store.root.name for store in stores)
    facts = CacheFacts(
        encoder.fingerprint, names[0], tuple(plan.cameras), window, steps, identity, looks=names[1:]
    )
    folder = _publish(root, files, facts, ids, plan)
    return BuiltCache(folder, encoded, reused, _bytes(stores[0]), time.perf_counter() - start)


def _require_decoded(report: ExtractReport) -> None:
    if report.quarantined:
        first = report.quarantined[0]
        raise DatasetError(
            expected="images that can be decoded",
            got=f"{len(report.quarantined)} that cannot, for example {first.item}: {first.reason}",
            fix="Restore the files, or leave their episodes out (--dataset.episodes).",
        )


def _identity(meta: Any, files: LeRobotFiles) -> DatasetIdentity:
    """Return the dataset's identity; refuse one whose frames are not numbered episode by episode."""
    columns = (meta.episodes["dataset_from_index"], meta.episodes["dataset_to_index"])
    theirs = tuple((int(first), int(end)) for first, end in zip(*columns, strict=True))
    if theirs != bounds(files):
        raise DatasetError(
            expected=f"frames of {files.root} that are numbered one episode after the other",
            got="other numbers in meta/episodes",
            fix="Write the dataset anew with LeRobot's tools.",
        )
    return DatasetIdentity.of(meta)


class _Pixels:
    """Gives an encoder of float images the uint8 frames of the extraction, as LeRobot would give them.

    Attributes:
        change: A random change of images and a number; None leaves them as they are. What is drawn depends on
            the number and the image alone, so that an interrupted build continues with the same looks.
    """

    change: tuple[Callable[[Tensor], Tensor], int] | None = None

    def __init__(self, encoder: ImageEncoder, device: str) -> None:
        self.fingerprint, self.latent = encoder.fingerprint, encoder.latent
        self._encoder, self._device = encoder, device

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Map uint8 `[b t h w 3]` to latents `[b t' n d]`."""
        if self.change is None:
            return self._encoder.encode_frames(frames.to(self._device))
        images = frames.to(self._device).movedim(-1, 2)
        return self._encoder(self._changed(frames, images.float() / 255, *self.change))

    @staticmethod
    def _changed(frames: Tensor, images: Tensor, change: Callable[[Tensor], Tensor], number: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            for window, shown in zip(frames, images, strict=True):
                for place, frame in enumerate(window):
                    torch.manual_seed(zlib.crc32(frame.contiguous().numpy()) + number)
                    shown[place] = change(shown[place]).clamp(0, 1)
        return images

    def steps(self, window: Window) -> int:
        """Return the time steps t' of the latent of a window."""
        height, width = decode_frame(window[0]).shape[:2]
        return self.encode(torch.zeros(1, len(window), height, width, 3, dtype=torch.uint8)).shape[1]


def _wanted(
    files: LeRobotFiles,
    episodes: Sequence[EpisodeFrames],
    cameras: Mapping[str, str],
    window: tuple[int, ...] | None,
) -> tuple[NDArray[np.bytes_], dict[str, Window]]:
    """Return the id of each frame number and camera `[F c]`, empty where not wanted, and its images."""
    ids = np.zeros((bounds(files)[-1][1], len(cameras)), dtype=f"S{ID_BYTES}")
    found: dict[str, Window] = {}
    for episode in episodes:
        for column, camera in enumerate(cameras.values()):
            frames = episode.frames[files.camera(camera)]
            names = checked_ids(frames)
            for step in range(len(frames)):
                places = [min(max(step + delta, 0), len(frames) - 1) for delta in window or (0,)]
                name = names[step] if window is None else window_id([names[p] for p in places])
                ids[episode.first + step, column] = name
                found.setdefault(name, tuple(frames[p] for p in places))
    return ids, found


def _stores(
    root: Path, encoder: ImageEncoder, plan: CachePlan, window: tuple[int, ...] | None, steps: int
) -> tuple[LatentStore, ...]:
    """Return the store of the images as they are, then those of their other looks."""
    name, latent = f"{encoder.fingerprint}-{plan.dtype}", encoder.latent
    if window is not None:
        name, latent = f"{name}-{len(window)}", joined_latent(latent, steps)
    looks: list[str] = []
    if plan.looks is not None:
        kind = json_digest(plan.looks.settings)[:12]
        looks = [f"{name}-{kind}-{number + 1}" for number in range(plan.looks.count)]
    return tuple(
        LatentStore(root / STORES / one, encoder.fingerprint, latent, dtype=plan.dtype)
        for one in (name, *looks)
    )


def _bytes(store: LatentStore) -> int:
    return store.latent.tokens * store.latent.width * STORE_DTYPES[store.dtype].itemsize


def _require_room(stores: Sequence[LatentStore], wanted: Mapping[str, Window]) -> None:
    """Refuse to start what the disk cannot hold."""
    folder = stores[0].root.parent
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(len(store.missing(wanted)) for store in stores)
    needed, free = _bytes(stores[0]) * missing, shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            expected=f"{needed / 1e9:.1f} GB for {missing} latents in {stores[0].root}",
            got=f"{free / 1e9:.1f} GB free",
            fix="Choose another disk (--latents_dir=...), --latents_dtype=float16, or smaller images.",
        )


def _publish(
    root: Path, files: LeRobotFiles, facts: CacheFacts, ids: NDArray[np.bytes_], plan: CachePlan
) -> Path:
    """Write the view of the dataset as it is now with the ids of its latents, unless it is there, whole."""
    frames = np.array(bounds(files))
    facts = replace(facts, ids=ids_digest(ids, frames), checksums=CHECKSUMS_FILE)
    told = json.dumps([asdict(facts), plan.camera_stats, view_content(files)], sort_keys=True)
    key = hashlib.sha256(told.encode() + ids.tobytes()).hexdigest()[:16]
    folder = root / VIEWS / f"{files.root.resolve().name}-{key}"
    if folder.is_dir():
        require_whole(folder)
    else:
        with atomic_folder(folder) as partial:
            write_view(files, partial, episodes=plan.episodes, camera_stats=plan.camera_stats)
            np.savez(partial / IDS_FILE, ids=ids, bounds=frames)
            write_json(partial / CACHE_FILE, asdict(facts), seal=True)
            write_checksums(partial)
    return folder
