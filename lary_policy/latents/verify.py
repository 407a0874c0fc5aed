"""Checks of latent stores; what `lary data verify` runs."""

from __future__ import annotations

from pathlib import Path

from lary_policy.console import OnProgress
from lary_policy.data import IntegrityReport
from lary_policy.errors import LaryPolicyError, StoreError
from lary_policy.latents.shards import check_shard, read_shard, shard_frame_ids
from lary_policy.latents.store import LatentStore
from lary_policy.types import Quarantined


def verify_store(root: Path, *, on_progress: OnProgress | None = None) -> IntegrityReport:
    """Hash every shard of a latent store and compare it with the index.

    Found are: flipped bytes, missing shards, shards that hold other frames than the index says, non-finite
    latents, and an unreadable `store.json` or index.

    Args:
        root: Folder of the store.
        on_progress: Called with (shards checked, shards in all).
    """
    try:
        store = LatentStore.open(root)
    except LaryPolicyError as error:
        return IntegrityReport(Path(root), {}, (Quarantined(str(root), str(error), "store"),))
    problems = list(store.quarantined)
    shards = store.shards()
    for number, path in enumerate(shards, start=1):
        try:
            check_shard(path)
            if not _is_indexed(store, path):
                problems.append(Quarantined(str(path), "holds other frames than the index says", "store"))
            if not bool(read_shard(path).isfinite().all()):
                problems.append(Quarantined(str(path), "holds non-finite latents", "store"))
        except StoreError as error:
            problems.append(Quarantined(str(path), str(error), "store"))
        if on_progress is not None:
            on_progress(number, len(shards))
    return IntegrityReport(Path(root), {"shards": len(shards), "frames": len(store)}, tuple(problems))


def _is_indexed(store: LatentStore, path: Path) -> bool:
    """Return whether the index names the frames of a shard, in their rows (or in another shard)."""
    frames = shard_frame_ids(path)
    if store.missing(frames):
        return False
    shards, places = store.locate(frames)
    found = [(shards[number], row) for number, row in places.tolist()]
    return all(shard != path.stem or row == place for place, (shard, row) in enumerate(found))
