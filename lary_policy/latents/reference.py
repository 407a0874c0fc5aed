"""Takes latents that the reference extracted (`*_la_*.csv` and .npz files) into a latent store."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from lary_policy.data import IMAGES, PathResolver, read_archive
from lary_policy.data.larybench import BenchmarkSet, Cells, check_fields, parse_indices, read_metadata
from lary_policy.errors import DatasetError, FrameFormatError, ShapeError, StoreError, UnsafePathError
from lary_policy.frames import clip_frame_id, clip_id, frame_id, pair_id
from lary_policy.latents.store import LatentStore
from lary_policy.latents.writer import ShardWriter
from lary_policy.paths import foreign_file, resolve_inside
from lary_policy.types import LatentKind, LatentSpec, Quarantined


class NpzError(StoreError):
    """A latent file of the reference is missing or damaged; the store that others go into is sound."""


@dataclass(frozen=True, eq=False)
class NpzLatent:
    """What an encoder of the reference made of one pair or clip.

    Attributes:
        tokens: float32 `[n d]`, or `[t n d]` for encoders with one latent a frame or a pair of neighbours.
        codes: Codebook indices, int64 flat, or None for encoders without a codebook.
    """

    tokens: Tensor
    codes: Tensor | None


def read_npz(path: Path) -> NpzLatent:
    """Read a latent file without unpickling anything.

    Raises:
        NpzError: It is missing, damaged, not finite, or its tokens have neither two nor three dimensions.
    """
    with foreign_file("an array `tokens` [n d] or [t n d]", path, _AGAIN, error=NpzError):
        arrays = read_archive(path, ("tokens", "indices"))
        tokens, codes = arrays["tokens"], arrays.get("indices", np.empty(0))
    if tokens.ndim not in (2, 3) or tokens.size == 0 or tokens.dtype.kind != "f":
        raise _unusable(path, f"tokens of shape {tokens.shape} and dtype {tokens.dtype}")
    if not np.isfinite(tokens).all():
        raise _unusable(path, f"{int((~np.isfinite(tokens)).sum())} tokens that are NaN or infinite")
    quantised = codes.size > 0 and codes.dtype.kind in "iu"
    return NpzLatent(
        torch.from_numpy(np.array(tokens, dtype=np.float32, order="C")),
        torch.from_numpy(codes.reshape(-1).astype(np.int64)) if quantised else None,
    )


_AGAIN = "Extract this row again; rows without latents are quarantined until then."


def _unusable(path: Path, reason: str) -> NpzError:
    return NpzError(expected=f"an array `tokens` [n d] or [t n d] in {path}", got=reason, fix=_AGAIN)


@dataclass(frozen=True)
class ImportReport:
    """What one import did.

    Attributes:
        rows: Rows of the CSV.
        imported: Latents put into the store now; rows may share frames.
        reused: Rows whose latents were there already.
        quarantined: Rows without usable latents, with reasons.
    """

    rows: int
    imported: int
    reused: int
    quarantined: tuple[Quarantined, ...]


def import_fingerprint(model: str) -> str:
    """Return the fingerprint of stores of imported latents: no encoder of ours has it."""
    return hashlib.sha256(f"latents of the reference: {model}".encode()).hexdigest()[:16]


def import_latents(
    data: BenchmarkSet,
    split: str,
    model: str,
    *,
    csv_path: Path,
    media_root: Path,
    latents_root: Path,
    store_root: Path,
    dtype: str = "float16",
) -> tuple[LatentStore, ImportReport]:
    """Put the latents that a CSV with the column `la_path` names into a store; start again to continue.

    Latents are stored under the content ids of their frames, so the images or clips must be there.

    Args:
        data: Dataset of the benchmark.
        split: One of its own splits; nothing is read out of paths.
        model: Name of the reference's model, part of its folders.
        csv_path: The CSV, in either path style.
        media_root: Folder that the paths of images or clips start from.
        latents_root: Folder that `la_path` starts from (the reference's LARY_LA_DIR).
        store_root: Folder of the store.
        dtype: `float32` (as the files have it), `float16` or `bfloat16`.

    Raises:
        DatasetError: The CSV cannot be read, or no row has usable latents.
        StoreError: The store holds other latents, or the disk is full.
    """
    cells = _read_csv(data, csv_path)
    resolver, quarantined = PathResolver(media_root), []
    folders = latent_folders(data, split, model)
    sink, reused = _Sink(store_root, import_fingerprint(model), dtype), 0
    for line, row in enumerate(cells, start=2):
        try:
            check_fields(row)
            latent = read_npz(find_latent(row["la_path"], latents_root, folders))
            kind, ids = _identify(data, row, resolver, latent)
            reused += sink.take(kind, ids, latent) == 0
        except (DatasetError, FrameFormatError, ShapeError, UnsafePathError, NpzError) as error:
            quarantined.append(Quarantined(f"{csv_path.name}:{line}", str(error), "import_latents"))
    store = sink.close()
    if store is None:
        example = quarantined[0].reason if quarantined else "the CSV has no rows"
        raise DatasetError(
            expected=f"at least one row of {csv_path} with latents below {latents_root}",
            got=f"{len(quarantined)} without; for example: {example}",
            fix="Pass the folder that the column la_path starts from.",
        )
    return store, ImportReport(len(cells), sink.imported, reused, tuple(quarantined))


class _Sink:
    """Puts latents into a store whose shape the first of them decides."""

    def __init__(self, root: Path, fingerprint: str, dtype: str) -> None:
        self.imported = 0
        self._place = root, fingerprint, dtype
        self._store: LatentStore | None = None
        self._writer: ShardWriter | None = None
        self._written: set[str] = set()

    def take(self, kind: LatentKind, ids: Sequence[str], latent: NpzLatent) -> int:
        """Store the latents of a row that are not there yet and return how many.

        Raises:
            ShapeError: They have another kind or shape than those before.
            StoreError: The store holds other latents, or the disk is full.
        """
        tokens = latent.tokens.reshape(len(ids), -1, latent.tokens.shape[-1])
        if self._store is None or self._writer is None:
            root, fingerprint, dtype = self._place
            spec = LatentSpec(kind=kind, tokens=tokens.shape[1], width=tokens.shape[2])
            self._store = LatentStore(root, fingerprint, spec, dtype=dtype, packed=True)
            self._writer = ShardWriter(self._store)
        spec = self._store.latent
        if (kind, *tokens.shape[1:]) != (spec.kind, spec.tokens, spec.width):
            raise ShapeError(
                expected=f"latents of kind {spec.kind}, {spec.tokens} x {spec.width}",
                got=f"kind {kind}, {tokens.shape[1]} x {tokens.shape[2]}",
                fix="Import each model into a store of its own.",
            )
        absent = [name for name in self._store.missing(ids) if name not in self._written]
        rows = [ids.index(name) for name in absent]
        if rows:
            codes = None if latent.codes is None else latent.codes.reshape(len(ids), -1)[rows]
            self._writer.add(absent, tokens[rows], codes)
            self._written.update(absent)
            self.imported += len(absent)
        return len(rows)

    def close(self) -> LatentStore | None:
        """Publish what is left and return the store, or None if nothing came."""
        if self._writer is not None:
            self._writer.close()
        return self._store


def latent_folders(data: BenchmarkSet, split: str, model: str) -> tuple[str, ...]:
    """Return the folders that latents of a CSV with bare file names may lie in, the newest layout first."""
    older = [f"{data.key}/stride_{data.stride}/{split}/{model}"] if data.stride is not None else []
    return (f"{data.key}/{split}/{model}", *older, f"{data.key}/{model}")


def find_latent(la_path: str, root: Path, folders: Sequence[str]) -> Path:
    """Return the file that a cell of the column `la_path` means.

    Raises:
        DatasetError: The cell is empty (the reference failed on this row), or there is no such file.
        UnsafePathError: The path leaves the root.
    """
    if not la_path.strip():
        raise DatasetError(
            expected="a file in column la_path", got="an empty cell", fix="Extract this row again."
        )
    bare = len(PurePosixPath(la_path).parts) == 1
    candidates = [resolve_inside(root, f"{folder}/{la_path}") for folder in folders] if bare else []
    candidates = candidates or [resolve_inside(root, la_path)]
    for path in candidates:
        if path.is_file():
            return path
    raise DatasetError(
        expected=f"{la_path} in {', '.join(str(path.parent) for path in candidates)}",
        got="no such file",
        fix="Pass the folder that the column la_path starts from.",
    )


def _read_csv(data: BenchmarkSet, path: Path) -> list[dict[str, str]]:
    columns = ("video_path", "sample_indices") if data.kind == "clips" else ("src_img", "tgt_img")
    return read_metadata(path, (*columns, "la_path"))[1]


def _identify(
    data: BenchmarkSet, row: Cells, resolver: PathResolver, latent: NpzLatent
) -> tuple[LatentKind, tuple[str, ...]]:
    """Return what the latents of a row are of, and their ids.

    The reference does not say; it follows from their number: one a frame, one a pair of neighbours, or one
    for everything.
    """
    frames = tuple(_frame_ids(data, row, resolver))
    parts = len(latent.tokens) if latent.tokens.ndim == 3 else 1
    if parts == len(frames):
        return "frame", frames
    if parts == len(frames) - 1:
        return "pair", tuple(pair_id(a, b) for a, b in itertools.pairwise(frames))
    return "clip", (clip_id(frames),)


def _frame_ids(data: BenchmarkSet, row: Cells, resolver: PathResolver) -> Iterator[str]:
    if data.kind == "clips":
        digest = frame_id(resolver(row["video_path"], ""))
        yield from (clip_frame_id(digest, index) for index in parse_indices(row["sample_indices"]))
        return
    folder = "" if data.embodiment is None else IMAGES
    yield from (frame_id(resolver(row[column], folder)) for column in ("src_img", "tgt_img"))
