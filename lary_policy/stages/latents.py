"""How the latents of each kind of encoder are made and kept: of frames, or of pairs of frames."""

from __future__ import annotations

from collections.abc import Sequence

from lary_policy.data import ExtractReport, LatentStore, PairTable, extract, extract_pairs
from lary_policy.encoders import LatentEncoder
from lary_policy.encoders.codebook import CodebookHealth, codebook_health
from lary_policy.encoders.pairs import pair_spec
from lary_policy.progress import OnProgress
from lary_policy.types import LatentSpec


def of_frames(encoder: LatentEncoder) -> bool:
    """Tell whether an encoder has a latent for each frame; others have one for two frames."""
    return encoder.latent.kind == "frame"


def stored_latent(encoder: LatentEncoder) -> LatentSpec:
    """Return the shape of what is stored and given to heads: the latent of a frame, or of two frames."""
    return encoder.latent if of_frames(encoder) else pair_spec(encoder)


def store_dtype(setting: str, protocol: str, encoder_dtype: str) -> str:
    """Return the dtype that latents are stored in.

    Heads are trained on float16 latents and get float32 ones in the closed loop. Measured on normalised
    tokens of width 384, that changes their answers by 3e-4 (MLP) and 1.3e-4 (attentive) of their norm;
    computing in bfloat16 changes them by 8e-3 and 5e-3.

    Args:
        setting: One of `LATENTS_DTYPES`.
        protocol: `lary` keeps float32, as the reference's files do.
        encoder_dtype: What the encoder computes in; float16 and bfloat16 hold its outputs as they are.
    """
    if setting != "auto":
        return setting
    if protocol == "lary":
        return "float32"
    return "float16" if encoder_dtype == "float32" else encoder_dtype


def store_folder(name: str, dtype: str) -> str:
    """Return the name of a store's folder, one for each dtype; a plain name means float16."""
    return name if dtype == "float16" else f"{name}-{dtype}"


def extract_tables(
    tables: Sequence[PairTable],
    goals: PairTable,
    encoder: LatentEncoder,
    store: LatentStore,
    *,
    batch_size: int,
    decode_threads: int,
    on_progress: OnProgress,
) -> ExtractReport:
    """Encode what the store lacks of the tables.

    Args:
        tables: Demonstrations that heads are trained and tested on.
        goals: Demonstrations that the closed loop follows. Their latents are only needed of frame encoders:
            encoders of pairs compare their frames with live ones.
        encoder: Any encoder.
        store: Its store.
        batch_size: Frames or pairs encoded at once.
        decode_threads: Threads that decode images.
        on_progress: Called with (done, to do).
    """
    if of_frames(encoder):
        paths = dict.fromkeys(path for table in (*tables, goals) for path in table.frame_paths())
        return extract(
            paths, encoder, store, batch_size=batch_size, decode_threads=decode_threads,
            on_progress=on_progress,
        )  # fmt: skip
    pairs = dict.fromkeys(pair for table in tables for pair in table.frame_pairs())
    return extract_pairs(
        pairs, encoder, store, batch_size=batch_size, decode_threads=decode_threads, on_progress=on_progress
    )


def health_of(encoder: LatentEncoder, store: LatentStore, report: ExtractReport) -> CodebookHealth | None:
    """Return how the codes of an extraction use the encoder's codebook; None for an encoder without one."""
    codebook = encoder.spec.codebook
    if codebook is None:
        return None
    stored = [pair for pair in report.ids if store.contains(pair)]
    return codebook_health(store.read_codes(stored), codebook[0])
