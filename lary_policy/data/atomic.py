"""Atomic primitives of any trajectories: segments with a direction or Open / Close, and mirrored twins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lary_policy.actions import Embodiment, load_embodiment
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.verify import verify_source
from lary_policy.errors import ConfigError, DatasetError, ShapeError, UnknownNameError

if TYPE_CHECKING:
    from lary_policy.data.clips import ClipTable
    from lary_policy.data.integrity import IntegrityReport
    from lary_policy.data.spec import Source

DEFAULT_THRESHOLD_M = 0.01  # 4 cm/s over a chunk of 0.25 s: slower than any deliberate motion of the experts
DEFAULT_GRIPPER_THRESHOLD = 0.25  # fraction of the full opening
OPEN, CLOSE = "Open", "Close"

# Word for sign +1 and for sign -1 of what `Embodiment.facing` returns: forward, left, up.
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
        displacement_m: Target position minus source position: forward, left and up, `[N, 3]`.
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
    return tuple(
        label if abs(change) < gripper_threshold else OPEN if change > 0 else CLOSE
        for label, change in zip(labels, gripper_change.tolist(), strict=True)
    )


def arm_motions(embodiment: Embodiment, moved: Tensor, commanded: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Split changes of state and command into displacement `[N, 3]` and gripper change `[N]` of each arm.

    `moved` is the measured change of each chunk, `[N, a]`; of `commanded`, the change of the commanded action
    over it, `[N, a]`, the grippers are used (zeros where an arm has none). Of a gripper that is commanded by
    its effort the measured change is: twice, as fingers take some chunks for what a command says at once.
    """
    motions: dict[str, tuple[Tensor, Tensor]] = {}
    for group in embodiment.groups:
        position, gripper = motions.get(group.arm, (moved[:, :3] * 0, moved[:, 0] * 0))
        if group.kind == "position":
            position = embodiment.facing(moved[:, group.place])
        elif group.kind == "gripper":
            effort = embodiment.gripper == "effort"
            gripper = 2 * moved[:, group.indices[0]] if effort else commanded[:, group.indices[0]]
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
    its side. ShapeError as in `derive_primitives`.
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


@dataclass(frozen=True)
class AtomicConfig:
    """How segments are cut out of trajectories and labelled.

    Attributes:
        threshold_m: Smallest displacement along an axis that counts, in metres.
        gripper_threshold: Smallest change of the opening that counts, in fractions of it.
        segment_m: A segment ends when its cumulative displacement reaches this, in metres, or when a gripper
            changed; 0 makes a segment of every chunk.
        max_chunks: A segment that is longer has no label and is left out.
        twins: Whether each segment is also there backwards, under the opposite label.
        delta: Whether positions in actions are steps to be summed up instead of poses.

    Raises:
        ConfigError: A value is out of range.
    """

    threshold_m: float = DEFAULT_THRESHOLD_M
    gripper_threshold: float = DEFAULT_GRIPPER_THRESHOLD
    segment_m: float = 0.0
    max_chunks: int = 8  # 2 s of the simulated tasks: what takes longer is no single deliberate motion
    twins: bool = True
    delta: bool = False

    def __post_init__(self) -> None:
        if min(self.threshold_m, self.gripper_threshold, self.max_chunks) <= 0 or self.segment_m < 0:
            raise ConfigError(
                expected="thresholds and max_chunks above 0, segment_m at least 0",
                got=str(self),
                fix="Pass threshold_m=0.01, for example.",
            )


class AtomicSource:
    """The atomic primitives of a source of trajectories: pairs with a class instead of actions.

    A segment and its twin belong to the recording they were cut from, so they are in the same split.

    Raises:
        DatasetError: The source has no actions.
    """

    def __init__(self, source: Source, config: AtomicConfig) -> None:
        if source.spec.kind != "pairs" or source.spec.embodiment is None:
            raise DatasetError(
                expected="a source of pairs with actions",
                got=f"{source.spec.key}, a source of {source.spec.kind} with classes",
                fix="Leave the option `atomic` out.",
            )
        self._source, self._config = source, config
        self._embodiment = load_embodiment(source.spec.embodiment)
        self.spec = replace(source.spec, embodiment=None, stride=None, num_classes=None)

    def pairs(self, split: str) -> PairTable:
        """Read the segments of a split; DatasetError where no row is usable, or nothing moves."""
        return atomic_pairs(self._source.pairs(split), self._embodiment, self._config)

    def verify(self, **options: Any) -> IntegrityReport:
        """Check the trajectories that the primitives are made of."""
        return verify_source(self._source, **options)

    def clips(self, split: str) -> ClipTable:
        """Raise DatasetError: this is a source of pairs."""
        raise self.spec.wrong_kind("clips")


def atomic_pairs(table: PairTable, embodiment: Embodiment, config: AtomicConfig) -> PairTable:
    """Return the labelled segments of a table, and their twins if wanted; DatasetError if nothing moves."""
    rows = [row for chain in chains(table) for row in _segments(table, chain, embodiment, config)]
    if not rows:
        raise DatasetError(
            expected=f"motions of at least {config.threshold_m} m in {table.source}",
            got=f"none in {len(table)} pairs",
            fix="Lower threshold_m, or check the unit of the positions.",
        )
    if config.twins:
        rows = [twin for row in rows for twin in (row, mirrored(row))]
    return PairTable.of_classes(rows, table.cameras, table.quarantined, table.source)


def mirrored(row: PairRow) -> PairRow:
    """Return a segment backwards, under the opposite label."""
    return replace(
        row,
        src_step=row.tgt_step,
        tgt_step=row.src_step,
        src_frames=row.tgt_frames,
        tgt_frames=row.src_frames,
        label=opposite(row.label),
    )


def chains(table: PairTable) -> Iterator[list[int]]:
    """Yield the rows of each uninterrupted stretch of an episode, in order, whatever their order in the CSV.

    A row follows another whose target frames are its source frames.
    """
    place: dict[tuple[str, Sequence[object]], int] = {}
    for i, row in enumerate(table.rows):
        place.setdefault((row.episode, row.src_frames), i)
    following = {i: place.get((row.episode, row.tgt_frames)) for i, row in enumerate(table.rows)}
    inner = {after for i, after in following.items() if after is not None and after != i}
    used: set[int] = set()
    # Stretches begin where no row leads to; the rest are loops, and begin at their first row.
    for start in (*(i for i in following if i not in inner), *following):
        chain: list[int] = []
        at: int | None = start
        while at is not None and at not in used:
            used.add(at)
            chain.append(at)
            at = following[at]
        if chain:
            yield chain


def _segments(
    table: PairTable, chain: list[int], embodiment: Embodiment, config: AtomicConfig
) -> Iterator[PairRow]:
    first = 0
    for last in range(len(chain)):
        after = chain[last + 1] if last + 1 < len(chain) else None
        motions = _motions(table, chain[first : last + 1], after, embodiment, delta=config.delta)
        (label,) = label_arms(
            motions, threshold_m=config.threshold_m, gripper_threshold=config.gripper_threshold
        )
        if _complete(motions, config):
            if label:
                begin, end = table.rows[chain[first]], table.rows[chain[last]]
                yield replace(begin, tgt_step=end.tgt_step, tgt_frames=end.tgt_frames, label=label)
            first = last + 1
        elif last + 1 - first >= config.max_chunks:
            first = last + 1


def _complete(motions: Mapping[str, tuple[Tensor, Tensor]], config: AtomicConfig) -> bool:
    return any(
        float(moved.norm()) >= config.segment_m or float(change.abs()) >= config.gripper_threshold
        for moved, change in motions.values()
    )


def _motions(
    table: PairTable, rows: Sequence[int], after: int | None, embodiment: Embodiment, *, delta: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return displacement `[1, 3]` and gripper change `[1]` of each arm over some chunks in a row."""
    actions, before = table.action_values[list(rows)].flatten(0, 1), table.anchor_values[rows[0]]
    change = actions[-1:] - before
    moved = actions.sum(0, keepdim=True) if delta else change
    if embodiment.gripper == "effort":  # measured where the next chunk starts; unknown where none does
        known = table.has_states and after is not None
        measured = table.anchor_values[after] if known else before
        places = [group.indices[0] for group in embodiment.groups if group.kind == "gripper"]
        moved = moved.clone()
        moved[:, places] = (measured - before)[places]
    return arm_motions(embodiment, moved, actions[-1:] - actions[:1] if delta else change)
