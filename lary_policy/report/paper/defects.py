"""Faults of the reference that protocol `lary` reproduces, and which numbers each one affects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lary_policy.scores import Score

_PIXEL_TWO = frozenset({"wan2-2"})
_NSVQ = frozenset({"lapa", "dinov2", "dinov3", "siglip2", "magvit2"})
_OFF_SPEC = frozenset({"dinov2-origin", "dinov3-origin", "siglip2-origin", "magvit2", "lapa"})
_EULER = frozenset({"calvin", "vlabench", "vlabench_15", "vlabench_30", "robocoin", "agibotbeta"})
_SHARED = frozenset({"vlabench", "vlabench_15", "vlabench_30", "libero"})
_ROBOTS = frozenset({"robocoin", "agibotbeta"})


@dataclass(frozen=True)
class Defect:
    """One fault.

    Attributes:
        name: Number in the list of faults.
        text: What is wrong, and what the native protocol does instead.
        affects: Whether it changes a score of the model with that reference key.
    """

    name: str
    text: str
    affects: Callable[[Score, str], bool]


def _model(keys: frozenset[str]) -> Callable[[Score, str], bool]:
    return lambda score, key: key in keys or (keys is _NSVQ and key.startswith("dinov3-cs"))


def _flattened(score: Score, key: str) -> bool:
    return score.head.endswith("-flatten")


DEFECTS: tuple[Defect, ...] = (
    Defect(
        "D1",
        "Wan2.2 encodes only the first frame of a pair: the target frame is not seen. Native: both frames.",
        lambda score, key: key in _PIXEL_TWO and score.mode != "composite",
    ),
    Defect(
        "D2",
        "FLUX.2's input has a wrong range for pairs, and channels and positions are scrambled on the way in "
        "and out. Native: the published input, tokens in place.",
        _model(frozenset({"flux2"})),
    ),
    Defect(
        "D3",
        "Latents of the LAPA family carry fresh noise as large as the quantisation error. Native: the "
        "continuous latent without noise.",
        _model(_NSVQ),
    ),
    Defect(
        "D4",
        "V-JEPA 2 drops the ninth frame, gets no temporal embedding and crops the borders away. Native: all "
        "frames, time steps told apart.",
        lambda score, key: key == "vjepa2" and score.mode == "composite",
    ),
    Defect(
        "D5",
        "Actions of robots without statistics are left unnormalised, and blank robot types are pooled as one "
        "robot. Native: an error, or knowingly the statistics of all robots.",
        lambda score, key: score.task in _ROBOTS,
    ),
    Defect(
        "D7",
        "Epoch (and head of a sweep) are chosen on the split that is reported. Native: a split of its own.",
        lambda score, key: score.split in ("val", "seen_val"),
    ),
    Defect(
        "D8",
        "Recordings are shared between training and reported split. Native: split by recording.",
        lambda score, key: score.task in _SHARED,
    ),
    Defect(
        "D9",
        "Absolute poses reward latents of appearance and cannot be told from latents of change. Native: "
        "relative targets beside them.",
        lambda score, key: score.target == "absolute",
    ),
    Defect(
        "D10",
        "The head's size follows the latent's, 34 million to 2.2 billion parameters. Native: a head of one "
        "size beside it.",
        _flattened,
    ),
    Defect(
        "D11",
        "Angles that run past half turns and quaternions of either sign are compared number by number. "
        "Native: one form for each rotation, errors as angles.",
        lambda score, key: score.task in _EULER and score.target != "class",
    ),
    Defect(
        "D13",
        "The encoder's input is not the one it was trained with. Native: the published input.",
        _model(_OFF_SPEC),
    ),
)


def defects_of(score: Score, reference_key: str | None) -> tuple[Defect, ...]:
    """Return the reproduced faults that affect a score: of protocol `lary` only."""
    if score.protocol != "lary":
        return ()
    return tuple(d for d in DEFECTS if d.affects(score, reference_key or ""))


def fault_names(scores: Iterable[Score], keys: Mapping[str, str]) -> str:
    """Return a sentence that names the faults which some numbers reproduce; empty where there is none.

    Args:
        scores: Of one figure.
        keys: The reference's name of each encoder that it has.
    """
    names = dict.fromkeys(d.name for s in scores for d in defects_of(s, keys.get(s.encoder)))
    return f"Reproduces {', '.join(sorted(names, key=lambda n: int(n[1:])))}." if names else ""
