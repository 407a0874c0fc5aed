"""Atomic primitives: 26 signed directions and Open / Close (protocol section 1.6)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from lary_policy.actions import Embodiment
from lary_policy.errors import ShapeError, UnknownNameError

DEFAULT_THRESHOLD_M = 0.01  # 4 cm/s over a chunk of 0.25 s: slower than any deliberate motion of the experts
DEFAULT_GRIPPER_THRESHOLD = 0.25  # fraction of the full opening
OPEN, CLOSE, NO_LABEL = "Open", "Close", ""

# World frame of the package: x forward, y left, z up. Word for sign +1 and for sign -1 of each axis.
_AXES = (("Forward", "Backward"), ("Left", "Right"), ("Up", "Down"))


def direction_name(signs: tuple[int, int, int]) -> str:
    """Return the name of a sign pattern (x, y, z); (1, 1, 1) is `Forward_Left_Up`, zeros are left out."""
    words = [plus if s > 0 else minus for s, (plus, minus) in zip(signs, _AXES, strict=True) if s]
    return "_".join(words)


DIRECTIONS = tuple(
    direction_name((x, y, z)) for x, y, z in itertools.product((1, 0, -1), repeat=3) if x or y or z
)
PRIMITIVES = (*DIRECTIONS, OPEN, CLOSE)


_OPPOSITE = {word: other for pair in _AXES for word, other in (pair, pair[::-1])} | {OPEN: CLOSE, CLOSE: OPEN}


def opposite(label: str) -> str:
    """Return the label of the same motion backwards; a side in front (`left_Up`) stays, "" stays "".

    Raises:
        UnknownNameError: It is not made of primitives' words.
    """
    words = label.split("_") if label else []
    for word in words:
        if word not in _OPPOSITE and word not in ("left", "right"):
            raise UnknownNameError("word of a primitive", word, _OPPOSITE)
    return "_".join(_OPPOSITE.get(word, word) for word in words)


def derive_primitives(
    displacement_m: Tensor,
    gripper_change: Tensor,
    *,
    threshold_m: float = DEFAULT_THRESHOLD_M,
    gripper_threshold: float = DEFAULT_GRIPPER_THRESHOLD,
) -> tuple[str, ...]:
    """Label each chunk by its cumulative end-effector displacement or its change of the gripper command.

    A gripper change wins over a direction, because the arm may drift while the gripper moves. An axis counts
    when its displacement is at least `threshold_m`; with no axis and no gripper change the label is "".

    Args:
        displacement_m: Target position minus source position in the base frame, `[N, 3]`.
        gripper_change: Opening commanded at the end of the chunk minus before it, `[N]`, in fractions.
        threshold_m: Smallest displacement along an axis that counts.
        gripper_threshold: Smallest change of the opening that counts.

    Raises:
        ShapeError: Shapes do not fit, a value is not finite, or a threshold is not positive.
    """
    finite = bool(torch.isfinite(displacement_m).all() and torch.isfinite(gripper_change).all())
    shapes_fit = displacement_m.shape == (len(gripper_change), 3) and gripper_change.dim() == 1
    if not (finite and shapes_fit and threshold_m > 0 and gripper_threshold > 0):
        raise ShapeError(
            expected="finite displacements [N, 3], gripper changes [N] and positive thresholds",
            got=f"{displacement_m.shape}, {gripper_change.shape}, {threshold_m}, {gripper_threshold}",
            fix="Pass one displacement and one gripper change for each chunk.",
        )
    signs = torch.where(displacement_m.abs() >= threshold_m, displacement_m.sign(), torch.zeros(()))
    labels = [direction_name((int(x), int(y), int(z))) for x, y, z in signs.tolist()]
    changes = gripper_change.tolist()
    return tuple(
        _label(name, change, gripper_threshold) for name, change in zip(labels, changes, strict=True)
    )


def _label(direction: str, gripper_change: float, threshold: float) -> str:
    if abs(gripper_change) < threshold:
        return direction
    return OPEN if gripper_change > 0 else CLOSE


def arm_motions(embodiment: Embodiment, moved: Tensor, commanded: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Split changes of state and command into displacement `[N, 3]` and gripper change `[N]` of each arm.

    Args:
        embodiment: Layout of both.
        moved: Measured change of each chunk, `[N, a]`.
        commanded: Change of the commanded action over each chunk, `[N, a]`; its grippers are used (zeros
            where an arm has none).
    """
    motions: dict[str, tuple[Tensor, Tensor]] = {}
    for group in embodiment.groups:
        position, gripper = motions.get(group.arm, (moved[:, :3] * 0, moved[:, 0] * 0))
        if group.kind == "position":
            position = moved[:, group.place]
        elif group.kind == "gripper":
            gripper = commanded[:, group.indices[0]]
        motions[group.arm] = (position, gripper)
    return motions


def label_arms(
    arms: Mapping[str, tuple[Tensor, Tensor]],
    *,
    threshold_m: float = DEFAULT_THRESHOLD_M,
    gripper_threshold: float = DEFAULT_GRIPPER_THRESHOLD,
) -> tuple[str, ...]:
    """Label each chunk by the motions of one or two arms, as `arm_motions` returns them.

    With two arms the label is that of the arm whose tool moved further, or whose gripper changed, prefixed by
    its side.

    Raises:
        ShapeError: See `derive_primitives`.
    """
    labels = {
        side: derive_primitives(
            position, gripper, threshold_m=threshold_m, gripper_threshold=gripper_threshold
        )
        for side, (position, gripper) in arms.items()
    }
    if len(labels) == 1:
        return next(iter(labels.values()))
    scores = [position.norm(dim=-1) + gripper.abs() for position, gripper in arms.values()]
    busiest = torch.stack(scores).argmax(0).tolist()
    sides = list(labels)
    chosen = [(sides[arm], labels[sides[arm]][chunk]) for chunk, arm in enumerate(busiest)]
    return tuple(f"{side}_{label}" if label else "" for side, label in chosen)
