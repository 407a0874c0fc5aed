"""Stage `extract`: everything unique of some data through one encoder view, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lary_policy.console import console, progress
from lary_policy.data import PairTable
from lary_policy.data.simulated import DENSE
from lary_policy.encoders import (
    ComponentEncoder,
    EncoderShelf,
    EncoderView,
    LatentEncoder,
    share_a_pass,
)
from lary_policy.errors import FrameFormatError, StoreError
from lary_policy.frames import decode_frames
from lary_policy.heads import write_tensors
from lary_policy.heads.training import everyones, first_then_all, wait_for_all
from lary_policy.latents import (
    Cluster,
    Components,
    ExtractReport,
    LatentStore,
    LatentTable,
    encode_on_cluster,
    encode_tables,
    good_batch_size,
    health_of,
    load_frames,
    load_latents,
    of_frames,
    open_store,
    ram_budget,
    seen_of,
    store_is_whole,
    store_path,
    tell_what_stays_on_disk,
)
from lary_policy.machine import intra_op_threads, is_main_process, kept_heap, process_count, process_rank
from lary_policy.paths import exclusive, foreign_file
from lary_policy.runs.cells import Cell
from lary_policy.runs.context import RunContext, RunData

# Models whose clip latent the reference's probe sees without a time axis, so without temporal embedding
# (protocol section 2.3).
TIMELESS = frozenset({"vjepa2"})

ROUNDING_ROWS = 4  # whose first two frames are encoded in float32 as well

Splits = Mapping[str, LatentTable]


def extract_cell(context: RunContext, data: RunData, view: EncoderView) -> Cell:
    """Return the cell of some data through a view."""
    dense = [data.dense_digest] if data.dense_table is not None else []
    inputs = (context.latents_key(data, view), data.goals_digest, *dense)
    return context.cell("extract", f"{data.label}-{view.label}", *inputs)


def run_extract(context: RunContext, data: RunData, view: EncoderView) -> dict[str, Any]:
    """Encode what the store lacks; return counts, seconds, quarantined items and the use of the codebook.

    Of several processes of a launcher each encodes its share; the store is the one that a single one makes.

    Raises:
        StoreError: The disk is full or the store is damaged; finished shards are kept.
        WeightsMissingError: The weights of the encoder are absent.
        DatasetError: A CSV is missing, or no row of a split is usable.
    """
    cell = extract_cell(context, data, view)
    if is_main_process() and cell.done and not _is_whole(context, data, view, cell.result()):
        (cell.folder / "result.json").unlink(missing_ok=True)  # a shard was deleted: it is computed again
    return cell.compute_together(lambda: _extract(context, data, view, cell.label))


def store_of(context: RunContext, data: RunData, view: EncoderView) -> LatentStore:
    """Open the latents of a view, shared by all data and runs of an output folder."""
    return protocol_store(context, data.protocol, view, clips=_of_clips(data, view))


def protocol_store(
    context: RunContext, protocol: str, view: EncoderView, *, clips: bool = False
) -> LatentStore:
    """Open the latents of a view under a protocol: of single frames and pairs, or of whole clips."""
    dtype = context.latents_dtype(protocol, view)
    encoder = context.shelf.load(view)
    folder, remote = context.latents
    return open_store(folder, encoder, clips=clips, dtype=dtype, name=view.name, remote=remote)


def load_splits(context: RunContext, data: RunData, view: EncoderView) -> dict[str, LatentTable]:
    """Load the latents of all splits' rows, which stay on disk where `latents_ram_gb` is too little.

    Raises:
        StoreError: Latents are missing: run `extract` first.
    """
    store, budget = store_of(context, data, view), ram_budget(context.config.latents_ram_gb)
    steps = _time_steps(context, data, view, store)
    splits = {s: load_latents(data.table(s), store, budget, time_steps=steps) for s in data.splits}
    if data.dense_table is not None:
        splits[DENSE] = load_latents(data.dense_table, store, budget)
    tell_what_stays_on_disk(f"{data.label}-{view.label}", {s: t.bank for s, t in splits.items()})
    return {split: _cut(context, data, view, table) for split, table in splits.items()}


def _basis(context: RunContext, data: RunData, view: EncoderView) -> Components:
    """Return the principal components of the training latents, fitted where that is not done."""
    cell = extract_cell(context, data, view)
    path = cell.folder / "components.safetensors"
    if not path.is_file():
        store, table = store_of(context, data, view), data.table(data.spec.train_split)
        bank = load_latents(table, store, ram_budget(context.config.latents_ram_gb)).bank
        found = Components.of_bank(bank, view.components or 1)
        write_tensors(path, {"mean": found.mean, "axes": found.axes.contiguous()})
    with foreign_file("principal components", path, f"Delete {cell.folder}.", error=StoreError):
        tensors = load_file(path)
        return Components(tensors["mean"], tensors["axes"], 1.0)


def _cut(context: RunContext, data: RunData, view: EncoderView, table: LatentTable) -> LatentTable:
    """Return a table whose latents are cut to the view's components, if it has some."""
    if view.components is None:
        return table
    return replace(table, bank=_basis(context, data, view).of_all(table.bank))


def encoder_of(context: RunContext, data: RunData, view: EncoderView) -> LatentEncoder:
    """Return the encoder whose latents heads learn from: that of the view, perhaps cut to components."""
    encoder = context.shelf.load(view)
    if view.components is None:
        return encoder
    basis = _basis(context, data, view)
    return ComponentEncoder(encoder, basis.mean, basis.axes, data.digest)


def load_goals(context: RunContext, data: RunData, view: EncoderView) -> tuple[PairTable, LatentTable] | None:
    """Load what the demonstrations to follow show: latents, or frames for encoders that compare frames."""
    table = data.goal_table
    if table is None:
        return None
    if not of_frames(context.shelf.load(view)):
        return table, load_frames(table)
    budget = ram_budget(context.config.latents_ram_gb)
    return table, _cut(context, data, view, load_latents(table, store_of(context, data, view), budget))


def rounding(context: RunContext, data: RunData, view: EncoderView) -> float | None:
    """Return how far latents of a few frames are from those of the same encoder in float32.

    Returns:
        The norm of the difference over the norm; None for an encoder that computes in float32, on a GPU, and
        where no two readable frames belong together, or two are too few.
    """
    if context.device != "cpu" or context.shelf.dtype(view) == "float32":
        return None
    table = data.table(data.spec.train_split)
    places = range(0, len(table), max(1, len(table) // ROUNDING_ROWS))[:ROUNDING_ROWS]
    shown = [decode_frames(seen_of(table, place)[:2]) for place in places]
    readable = [[image for image in two if isinstance(image, Tensor)] for two in shown]
    whole = [torch.stack(two) for two in readable if len(two) == 2]
    alike = [two for two in whole if two.shape == whole[0].shape]
    if not alike:
        return None
    frames, exact = torch.stack(alike), EncoderShelf("cpu", context.shelf.seed, context.shelf.frame_px)
    try:
        with intra_op_threads(context.cores):
            ours = context.shelf.load(view).encode(frames).float()
            theirs = exact.load(replace(view, dtype="float32")).encode(frames)
    except FrameFormatError:  # a clip of two frames is too short for it
        return None
    return float((ours - theirs).norm() / theirs.norm())


def _of_clips(data: RunData, view: EncoderView) -> bool:
    return data.spec.kind == "clips" and view.spec.latent.kind == "clip"


def _is_whole(context: RunContext, data: RunData, view: EncoderView, result: dict[str, Any]) -> bool:
    """Tell whether no shard disappeared since the cell was finished; the encoder is not loaded for this."""
    dtype, clips = context.latents_dtype(data.protocol, view), _of_clips(data, view)
    (latents, remote), fingerprint = context.latents, result["fingerprint"]
    folder = store_path(latents, view.name, fingerprint, clips=clips, dtype=dtype)
    return store_is_whole(folder, result["encoded"] + result["reused"], remote)


def _time_steps(context: RunContext, data: RunData, view: EncoderView, store: LatentStore) -> int | None:
    """Return how many time steps heads see in a latent of a clip; None where they see no time axis."""
    if not _of_clips(data, view):
        return None
    if data.protocol == "lary" and view.spec.reference_key in TIMELESS:
        return None
    return store.latent.tokens // context.shelf.load(view).latent.tokens


def _siblings(
    context: RunContext, data: RunData, view: EncoderView
) -> list[tuple[LatentEncoder, LatentStore]]:
    """Return the run's other views of the same pass, those that differ by their layer and are not finished.

    Their own cells then find all latents in their stores.
    """
    others = [
        one
        for one in context.views(data.protocol)
        if one != view and replace(one, layer=None) == replace(view, layer=None)
        and not extract_cell(context, data, one).done
    ]  # fmt: skip
    if (
        not others
        or context.config.engine == "ray"
        or not share_a_pass([context.shelf.load(one) for one in (view, *others)])
    ):
        return []
    return [(context.shelf.load(one), store_of(context, data, one)) for one in others]


def _cluster(context: RunContext, view: EncoderView) -> Callable[..., ExtractReport] | None:
    """Return what encodes on a cluster, if the run uses one."""
    c, shelf = context.config, context.shelf
    if c.engine != "ray":
        return None
    there = Cluster(c.ray_address, c.ray_encoders, c.ray_decoders)
    # Ray shows each encoder its own GPU alone; dtypes `auto` are those of this machine on all others.
    device, alike = context.device.partition(":")[0], replace(view, dtype=shelf.dtype(view))
    load = partial(_load, alike, EncoderShelf(device, shelf.seed, shelf.frame_px))
    return partial(encode_on_cluster, load=load, cluster=there, device=device)


def _load(view: EncoderView, shelf: EncoderShelf) -> LatentEncoder:
    return shelf.load(view)


def _extract(context: RunContext, data: RunData, view: EncoderView, label: str) -> dict[str, Any]:
    tables, goals = [data.table(split) for split in data.splits], data.goal_table
    extra = [] if goals is None else [goals]
    tables += [] if data.dense_table is None else [data.dense_table]
    encoder = context.shelf.load(view)
    store = first_then_all(lambda: store_of(context, data, view))
    siblings = first_then_all(lambda: _siblings(context, data, view))
    # Other data share the stores; the first process waits for who encodes them, then all of this run go on.
    names = sorted(one.root.name for one in (store, *(own for _, own in siblings)))
    with ExitStack() as stack:
        for name in names if is_main_process() else ():
            stack.enter_context(exclusive(context.cache / "locks" / f"{name}.lock"))
        wait_for_all()
        with progress(f"extract {label}") as update, intra_op_threads(1), kept_heap(context.device):
            mine = encode_tables(
                tables, encoder, store, extra_frames=extra, batch_size=good_batch_size(context.device),
                threads=context.cores, share=(process_rank(), process_count()), on_progress=update,
                also=siblings, cluster=_cluster(context, view),
            )  # fmt: skip
        report, *others = everyones(mine)
    if others:
        report = report.joined(others)
        store.reload()
    health = health_of(encoder, store, report)
    if health is not None:
        console.print(f"    codebook of {view.label} on {data.label}: {health}")
    apart = rounding(context, data, view) if report.encoded and is_main_process() else None
    if apart is not None:
        dtype = context.shelf.dtype(view)
        console.print(
            f"    {view.label} in {dtype}: latents differ from those in float32 by {apart:.1e} of their norm"
        )
    if view.components is not None and is_main_process():
        _basis(context, data, view)
    aside = [q for table in (*tables, *extra) for q in table.quarantined]
    return {
        "task": data.name,
        "protocol": data.protocol,
        "encoder": view.label,
        "fingerprint": encoder.fingerprint,
        "unit": report.unit,
        "requested": report.requested,
        "unique": report.unique,
        "encoded": report.encoded,
        "reused": report.reused,
        "rows": {split: len(data.table(split)) for split in data.splits},
        "quarantined": [*report.quarantined, *aside],
        "codebook": health and health.to_dict(),
        "rounding": apart,
        "seconds": report.seconds,
    }
