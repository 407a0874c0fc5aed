"""Stage `extract` on a source: everything unique of all its splits through one encoder, once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lary_policy.console import OnProgress, console, progress
from lary_policy.data import ClipTable, PairTable
from lary_policy.data.larybench import CLIP_FRAMES
from lary_policy.encoders import LatentEncoder
from lary_policy.latents import (
    Bank,
    ExtractReport,
    LatentStore,
    RamBudget,
    clip_latent,
    extract,
    extract_clips,
    extract_pairs,
    frames_of,
    health_of,
    load_clips,
    load_latents,
    of_frames,
    ram_budget,
    store_folder,
    stored_latent,
    tell_what_stays_on_disk,
)
from lary_policy.machine import intra_op_threads
from lary_policy.stages.cells import Cell, safe_name
from lary_policy.stages.config import EncoderChoice
from lary_policy.stages.locks import exclusive
from lary_policy.stages.source_data import SourceContext, SourceData
from lary_policy.types import Quarantined

BATCH_SIZE = 64  # frames or pairs encoded at once; larger batches are no faster on 2 cores
# Models whose clip latent the reference's probe sees without a time axis, so without temporal embedding
# (protocol section 2.3).
TIMELESS = frozenset({"vjepa2"})


@dataclass(frozen=True)
class Samples:
    """Latents of the usable rows of one split.

    Attributes:
        bank: `[F n d]`, in memory or on disk.
        index: Places of each usable row in the bank, int64 `[N t c]`.
        kept: Which rows of the table they are, int64 `[N]`.
        quarantined: Rows whose images or clips cannot be used.
    """

    bank: Bank
    index: Tensor
    kept: Tensor
    quarantined: tuple[Quarantined, ...]


def extract_cell(context: SourceContext, data: SourceData, choice: EncoderChoice) -> Cell:
    """Return the cell of a source through an encoder."""
    key, dtype = context.shelf.key(choice), context.latents_dtype(data, choice)
    return context.cell("extract", f"{data.label}-{choice.name}", data.digest, key, dtype)


def run_extract(context: SourceContext, data: SourceData, choice: EncoderChoice) -> dict[str, Any]:
    """Encode what the store lacks; return counts, seconds, quarantined items and the use of the codebook.

    Raises:
        StoreError: The disk is full or the store is damaged; finished shards are kept.
        DatasetError: A CSV is missing, or no row of a split is usable.
    """
    cell = extract_cell(context, data, choice)
    if cell.done and _whole(context, data, choice, cell.result()):
        return cell.result()
    encoder = context.shelf.load(choice)
    root = _root(context, data, choice, encoder.fingerprint)
    with exclusive(context.lock(root.name)):  # other sources share the store
        if cell.done and _whole(context, data, choice, cell.result()):
            return cell.result()
        return _run_extract(context, data, choice, cell, encoder)


def _run_extract(
    context: SourceContext, data: SourceData, choice: EncoderChoice, cell: Cell, encoder: LatentEncoder
) -> dict[str, Any]:
    tables = [data.table(split) for split in data.splits]
    store = open_store(context, data, choice)
    with progress(f"extract {cell.label}") as update, intra_op_threads(context.cores):
        report = _extract(tables, encoder, store, context.cores, update)
    health = health_of(encoder, store, report)
    if health is not None:
        console.print(f"    codebook of {choice.name} on {data.label}: {health}")
    return cell.finish(
        {
            "task": data.spec.key,
            "protocol": data.protocol,
            "encoder": choice.name,
            "fingerprint": encoder.fingerprint,
            "unit": report.unit,
            "requested": report.requested,
            "unique": report.unique,
            "encoded": report.encoded,
            "reused": report.reused,
            "rows": {split: len(data.table(split)) for split in data.splits},
            "quarantined": [*report.quarantined, *(q for table in tables for q in table.quarantined)],
            "codebook": health and health.to_dict(),
            "seconds": report.seconds,
        }
    )


def _extract(
    tables: list[PairTable | ClipTable],
    encoder: LatentEncoder,
    store: LatentStore,
    cores: int,
    update: OnProgress,
) -> ExtractReport:
    clips = [table for table in tables if isinstance(table, ClipTable)]
    if clips and encoder.latent.kind == "clip":
        return extract_clips(clips, encoder, store, on_progress=update)
    seen = [frames_of(row) for table in clips for row in table.rows]
    pairs = [table for table in tables if isinstance(table, PairTable)]
    if of_frames(encoder):
        frames = [f for clip in seen for f in clip] + [f for table in pairs for f in table.frame_paths()]
        return extract(
            dict.fromkeys(frames), encoder, store, batch_size=BATCH_SIZE, decode_threads=cores,
            on_progress=update,
        )  # fmt: skip
    two = [two for clip in seen for two in itertools.pairwise(clip)]
    wanted = dict.fromkeys([*two, *(pair for table in pairs for pair in table.frame_pairs())])
    return extract_pairs(
        wanted, encoder, store, batch_size=BATCH_SIZE, decode_threads=cores, on_progress=update
    )


def open_store(context: SourceContext, data: SourceData, choice: EncoderChoice) -> LatentStore:
    """Open the latents of an encoder, shared by all sources and runs of an output folder."""
    encoder = context.shelf.load(choice)
    of_clips = data.spec.kind == "clips" and encoder.latent.kind == "clip"
    latent = clip_latent(encoder, CLIP_FRAMES) if of_clips else stored_latent(encoder)
    root, dtype = _root(context, data, choice, encoder.fingerprint), context.latents_dtype(data, choice)
    return LatentStore(root, encoder.fingerprint, latent, dtype=dtype, packed=True)


def _root(context: SourceContext, data: SourceData, choice: EncoderChoice, fingerprint: str) -> Path:
    latents = context.config.output_dir / "cache" / "latents"
    # Encoders of clips have a latent of another shape for clips than for pairs of frames.
    clips = "-clips" if data.spec.kind == "clips" and _of_clips(choice) else ""
    name = f"{safe_name(choice.name)}-{fingerprint}{clips}"
    return latents / store_folder(name, context.latents_dtype(data, choice))


def _of_clips(choice: EncoderChoice) -> bool:
    from lary_policy.encoders import encoder_spec

    return encoder_spec(choice.name).latent.kind == "clip"


def _whole(context: SourceContext, data: SourceData, choice: EncoderChoice, result: dict[str, Any]) -> bool:
    """Tell whether no shard disappeared since the cell was finished; the encoder is not loaded for this."""
    root = _root(context, data, choice, result["fingerprint"])
    if not root.is_dir():
        return False
    store = LatentStore.open(root)
    return not store.quarantined and len(store) >= result["encoded"] + result["reused"]


def load_samples(context: SourceContext, data: SourceData, choice: EncoderChoice) -> dict[str, Samples]:
    """Load the latents of all splits' rows, which stay on disk where `latents_ram_gb` is too little.

    Raises:
        StoreError: Latents are missing: run `extract` first.
    """
    store, budget = open_store(context, data, choice), ram_budget(context.config.latents_ram_gb)
    splits = {split: _load(context, data, choice, split, store, budget) for split in data.splits}
    banks = {split: samples.bank for split, samples in splits.items()}
    tell_what_stays_on_disk(f"{data.label}-{choice.name}", banks)
    return splits


def _load(
    context: SourceContext,
    data: SourceData,
    choice: EncoderChoice,
    split: str,
    store: LatentStore,
    budget: RamBudget,
) -> Samples:
    table = data.table(split)
    if isinstance(table, PairTable):
        found = load_latents(table, store, budget)
        return Samples(found.bank, found.change(), found.kept, found.quarantined)
    bank, index, kept, aside = load_clips(table, store, budget)
    spec = context.shelf.load(choice).spec
    if store.latent.kind == "clip" and not (data.protocol == "lary" and spec.reference_key in TIMELESS):
        bank, index = _with_time(bank, index, context.shelf.load(choice).latent.tokens)
    return Samples(bank, index, kept, tuple(aside))


def _with_time(bank: Bank, index: Tensor, tokens: int) -> tuple[Bank, Tensor]:
    """Split clip latents `[F t*n d]` into their time steps: bank `[F*t n d]`, index `[N t 1]`."""
    steps = bank.shape[1] // tokens
    split = bank.view(-1, tokens, bank.shape[2]) if isinstance(bank, Tensor) else bank.in_steps(steps)
    return split, index * steps + torch.arange(steps)[None, :, None]
