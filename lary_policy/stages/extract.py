"""Stage `extract`: every unique frame (or pair of frames) of a task through one encoder, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lary_policy.console import console, progress
from lary_policy.data import PairTable
from lary_policy.latents import (
    LatentStore,
    LatentTable,
    encode_tables,
    health_of,
    load_latents,
    ram_budget,
    store_is_whole,
    store_path,
    tell_what_stays_on_disk,
)
from lary_policy.latents import (
    open_store as open_latents,
)
from lary_policy.machine import intra_op_threads
from lary_policy.stages.cells import Cell
from lary_policy.stages.config import EncoderChoice
from lary_policy.stages.context import RunContext
from lary_policy.stages.data import SPLITS, TaskData, data_cells

BATCH_SIZE = 64  # frames or pairs encoded at once; larger batches are no faster on 2 cores


@dataclass(frozen=True)
class SplitLatents:
    """Pairs of one split and the latents of their frames, or of the pairs themselves."""

    pairs: PairTable
    table: LatentTable


def open_store(context: RunContext, choice: EncoderChoice) -> LatentStore:
    """Open the latents of an encoder, shared by all tasks and runs of an output folder."""
    folder, dtype = context.cache / "latents", context.latents_dtype(choice)
    return open_latents(folder, context.encoder(choice), clips=False, dtype=dtype, name=choice.name)


def _store_is_whole(context: RunContext, choice: EncoderChoice, result: dict[str, Any]) -> bool:
    folder, dtype = context.cache / "latents", context.latents_dtype(choice)
    path = store_path(folder, choice.name, result["fingerprint"], clips=False, dtype=dtype)
    return store_is_whole(path, result["encoded"] + result["reused"])


def extract_cell(context: RunContext, task: str, choice: EncoderChoice) -> Cell:
    """Return the cell of a task's frames through an encoder."""
    inputs = [cell.key for cell in data_cells(context, task)]
    return context.cell("extract", f"{task}-{choice.name}", inputs, *_latents_key(context, choice))


def demonstration_latents(context: RunContext, task: str, choice: EncoderChoice) -> str:
    """Return the key of what heads learn from: demonstrations and encoder, not the goals to follow."""
    demos = data_cells(context, task)[0].key
    return context.cell("extract", task, demos, *_latents_key(context, choice)).key


def _latents_key(context: RunContext, choice: EncoderChoice) -> tuple[Any, ...]:
    return context.encoder_key(choice), context.latents_dtype(choice), context.device


def run_extract(context: RunContext, data: TaskData, choice: EncoderChoice) -> dict[str, Any]:
    """Encode what the store lacks; return counts, seconds, quarantined files and the use of the codebook.

    Raises:
        StoreError: The disk is full or the store is damaged; finished shards are kept.
        WeightsMissingError: The weights of the encoder are absent.
    """
    cell = extract_cell(context, data.task, choice)
    if cell.done and _store_is_whole(context, choice, cell.result()):
        return cell.result()
    encoder = context.encoder(choice)
    store = open_store(context, choice)
    tables, goals = [data.pairs(context, split) for split in SPLITS], data.pairs(context, "rollout")
    with progress(f"extract {cell.label}") as update, intra_op_threads(context.cores):
        report = encode_tables(
            tables, encoder, store, extra_frames=[goals], batch_size=BATCH_SIZE, decode_threads=context.cores,
            on_progress=update,
        )  # fmt: skip
    health = health_of(encoder, store, report)
    if health is not None:
        console.print(f"    codebook of {choice.name} on {data.task}: {health}")
    return cell.finish(
        {
            "task": data.task,
            "encoder": choice.name,
            "fingerprint": encoder.fingerprint,
            "unit": report.unit,
            "requested": report.requested,
            "unique": report.unique,
            "encoded": report.encoded,
            "reused": report.reused,
            "quarantined": [
                *report.quarantined,
                *(q for pairs in (*tables, goals) for q in pairs.quarantined),
            ],
            "codebook": health and health.to_dict(),
            "seconds": report.seconds,
        }
    )


def load_split(context: RunContext, data: TaskData, choice: EncoderChoice, split: str) -> SplitLatents:
    """Load the pairs of a split with their latents, see `load_splits`."""
    return load_splits(context, data, choice, (split,))[split]


def load_splits(
    context: RunContext, data: TaskData, choice: EncoderChoice, splits: Sequence[str] = SPLITS
) -> dict[str, SplitLatents]:
    """Load the pairs of splits with their latents, which stay on disk where `latents_ram_gb` is too little.

    Raises:
        StoreError: Latents are missing: run `extract` first.
    """
    store, budget = open_store(context, choice), ram_budget(context.config.latents_ram_gb)
    pairs = {split: data.pairs(context, split) for split in splits}
    loaded = {split: SplitLatents(p, load_latents(p, store, budget)) for split, p in pairs.items()}
    banks = {split: value.table.bank for split, value in loaded.items()}
    tell_what_stays_on_disk(f"{data.task}-{choice.name}", banks)
    return loaded
