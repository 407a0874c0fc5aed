"""What an action head predicts: the recorded chunk, or how the pose changes over it, in which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from lary_policy.actions.embodiment import ActionGroup, Embodiment, convert_rotation
from lary_policy.errors import ShapeError, UnknownNameError, look_up

Encode = Callable[[Tensor, Tensor, Embodiment], Tensor]
ROTATIONS = ("native", "rot6d")


@dataclass(frozen=True)
class ActionTarget:
    """One way to turn a recorded chunk into what a head predicts."""

    name: str  # name in configurations and scores
    # Whether each of the k actions is predicted, or one number of each kind for all of them
    whole_chunk: bool
    # Chunks `[N k a]`, poses at their first frame `[N a]` and the layout to targets `[N k' a]`
    encode: Encode
    what: str  # one line for tables

    def steps(self, chunk: int) -> int:
        """Return the number k' of predicted actions for chunks of k."""
        return chunk if self.whole_chunk else 1


def _absolute(actions: Tensor, anchors: Tensor, embodiment: Embodiment) -> Tensor:
    return actions


def _relative(actions: Tensor, anchors: Tensor, embodiment: Embodiment) -> Tensor:
    return embodiment.to_relative(actions, anchors)


def _relative_pose(actions: Tensor, anchors: Tensor, embodiment: Embodiment) -> Tensor:
    return embodiment.to_relative(actions[:, -1:], actions[:, 0])


def _displacement(actions: Tensor, anchors: Tensor, embodiment: Embodiment) -> Tensor:
    return actions[:, -1:] - actions[:, :1]


_TARGETS = {
    target.name: target
    for target in (
        ActionTarget("absolute", True, _absolute, "every recorded pose of the chunk"),
        ActionTarget("relative", True, _relative, "every pose, seen from the one at the first frame"),
        ActionTarget("relative_pose", False, _relative_pose, "the last pose, seen from the first action's"),
        ActionTarget(
            "displacement", False, _displacement, "last minus first action, number by number (LARYBench)"
        ),
    )
}
# LARYBench calls last minus first action, angles and quaternions included, relative (protocol section 5.1).
_LARY_NAMES = {"relative": "displacement"}


def list_action_targets() -> tuple[str, ...]:
    """Return the names of all targets."""
    return tuple(_TARGETS)


def action_target(name: str, *, protocol: str = "native") -> ActionTarget:
    """Return a target by name; under `lary`, `relative` means what the reference calls so: `displacement`.

    Raises:
        UnknownNameError: There is no such target; the message lists the known ones.
    """
    found = look_up("action target", name, _TARGETS)
    return _TARGETS[_LARY_NAMES.get(name, name)] if protocol == "lary" else found


def rot6d_embodiment(embodiment: Embodiment) -> Embodiment:
    """Return the layout whose rotations are six numbers (two matrix columns); all else keeps its order.

    Euler angles jump at half turns and quaternions have two signs for one rotation; six numbers are
    continuous (Zhou et al., arXiv 1812.07035).
    """
    groups, start = [], 0
    for group in sorted(embodiment.groups, key=lambda g: g.indices[0]):
        width = 6 if group.kind == "rotation" else len(group.indices)
        place = tuple(range(start, start + width))
        start += width
        if group.kind == "rotation":
            prefix = {"left": "l_", "right": "r_"}.get(group.arm, "")
            labels = tuple(f"{prefix}r{row}{column}" for column in (0, 1) for row in range(3))
            group = replace(group, indices=place, labels=labels, convention="rot6d", unit="unit")
        else:
            group = replace(group, indices=place)
        groups.append(group)
    return replace(embodiment, groups=tuple(groups))


def to_rot6d(actions: Tensor, embodiment: Embodiment) -> Tensor:
    """Express actions `[... a]` of a layout in its `rot6d_embodiment`, `[... a']`."""
    return _between(actions, embodiment, rot6d_embodiment(embodiment))


def from_rot6d(actions: Tensor, embodiment: Embodiment) -> Tensor:
    """Invert `to_rot6d`; six numbers that are no rotation yet, as a head predicts them, become one."""
    return _between(actions, rot6d_embodiment(embodiment), embodiment)


def target_embodiment(embodiment: Embodiment, rotation: str) -> Embodiment:
    """Return the layout of targets whose rotations are `native` or `rot6d`.

    Raises:
        UnknownNameError: The rotation is neither.
    """
    if rotation not in ROTATIONS:
        raise UnknownNameError("rotation of targets", rotation, ROTATIONS)
    return embodiment if rotation == "native" else rot6d_embodiment(embodiment)


def canonical(actions: Tensor, embodiment: Embodiment) -> Tensor:
    """Give each rotation of `[... a]` one form: unit quaternions with w >= 0, angles in their range.

    Recorded quaternions change sign and recorded angles run past half turns, which a head would have to learn
    as motion. The rotations stay what they are.
    """
    return _between(actions, embodiment, embodiment)


def _between(actions: Tensor, source: Embodiment, target: Embodiment) -> Tensor:
    if actions.shape[-1] != source.action_dim:
        raise ShapeError(
            expected=f"actions of shape [..., {source.action_dim}] ({', '.join(source.labels)})",
            got=f"{tuple(actions.shape)}",
            fix=f"Use data of embodiment '{source.name}'.",
        )
    out = actions.new_empty((*actions.shape[:-1], target.action_dim))
    pairs = zip(_ordered(source), _ordered(target), strict=True)
    for old, new in pairs:
        part = actions[..., list(old.indices)]
        if old.kind == "rotation":
            part = convert_rotation(part, old.convention, new.convention)
        out[..., list(new.indices)] = part
    return out


def _ordered(embodiment: Embodiment) -> list[ActionGroup]:
    return sorted(embodiment.groups, key=lambda g: g.indices[0])


def build_targets(
    name: str,
    actions: Tensor,
    anchors: Tensor,
    embodiment: Embodiment,
    *,
    rotation: str = "native",
    protocol: str = "native",
    one_form: bool = True,
) -> Tensor:
    """Return the targets `[N k' a']` of chunks `[N k a]`, ready for `ActionStats.fit`.

    Under `native`, rotations are first brought into one form (`canonical`); under `lary` the recorded numbers
    stay as they are, as the reference takes them. `anchors` are the poses at the first frames `[N a]`.
    `one_form=False` is for actions whose rotations have one form already, as those of a controller that
    follows its own quaternions without a jump.

    Raises:
        UnknownNameError: There is no such target or rotation.
    """
    target = action_target(name, protocol=protocol)
    layout = target_embodiment(embodiment, rotation)
    if protocol != "lary" and one_form:
        actions, anchors = canonical(actions, embodiment), canonical(anchors, embodiment)
    encoded = target.encode(actions, anchors, embodiment)
    return encoded if layout is embodiment else to_rot6d(encoded, embodiment)
