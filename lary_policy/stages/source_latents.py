"""Stage `extract` on a source: everything unique of all its splits through one encoder, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lary_policy.console import console, progress
from lary_policy.data import ClipTable
from lary_policy.encoders import LatentEncoder
from lary_policy.latents import (
    Bank,
    LatentStore,
    RamBudget,
    encode_tables,
    health_of,
    load_latents,
    ram_budget,
    store_is_whole,
    store_path,
    tell_what_stays_on_disk,
)
from lary_policy.latents import open_store as open_latents
from lary_policy.machine import intra_op_threads
from lary_policy.stages.cells import Cell
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
        report = encode_tables(tables, encoder, store, decode_threads=context.cores, on_progress=update)
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


def open_store(context: SourceContext, data: SourceData, choice: EncoderChoice) -> LatentStore:
    """Open the latents of an encoder, shared by all sources and runs of an output folder."""
    encoder = context.shelf.load(choice)
    clips, dtype = data.spec.kind == "clips" and _of_clips(choice), context.latents_dtype(data, choice)
    folder = context.config.output_dir / "cache" / "latents"
    return open_latents(folder, encoder, clips=clips, dtype=dtype, name=choice.name)


def _root(context: SourceContext, data: SourceData, choice: EncoderChoice, fingerprint: str) -> Path:
    latents = context.config.output_dir / "cache" / "latents"
    clips, dtype = data.spec.kind == "clips" and _of_clips(choice), context.latents_dtype(data, choice)
    return store_path(latents, choice.name, fingerprint, clips=clips, dtype=dtype)


def _of_clips(choice: EncoderChoice) -> bool:
    from lary_policy.encoders import encoder_spec

    return encoder_spec(choice.name).latent.kind == "clip"


def _whole(context: SourceContext, data: SourceData, choice: EncoderChoice, result: dict[str, Any]) -> bool:
    """Tell whether no shard disappeared since the cell was finished; the encoder is not loaded for this."""
    root = _root(context, data, choice, result["fingerprint"])
    return store_is_whole(root, result["encoded"] + result["reused"])


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
    spec, steps = context.shelf.load(choice).spec, None
    timeless = data.protocol == "lary" and spec.reference_key in TIMELESS
    if isinstance(table, ClipTable) and store.latent.kind == "clip" and not timeless:
        steps = store.latent.tokens // context.shelf.load(choice).latent.tokens
    found = load_latents(table, store, budget, time_steps=steps)
    return Samples(found.bank, found.change(), found.kept, found.quarantined)
