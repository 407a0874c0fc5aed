"""Action layouts of robots: what each number of an action means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from lary_policy.actions import rotation
from lary_policy.actions.statistics import STD_FLOOR
from lary_policy.errors import EmbodimentError, ShapeError, UnknownNameError
from lary_policy.paths import choices, configs_dir

GroupKind = Literal["position", "rotation", "gripper", "joint"]
# Differences below these do not matter to a robot (metres, radians, fraction of the gripper's opening): a few
# times the controller's tracking error. Scaling them up to unit variance would make heads learn, and closed
# loops amplify, noise.
LEAST_SCALE = {"position": 0.005, "rotation": 0.02, "gripper": 0.05}
# Joints come in the units of their dataset, which names may tell (`wrist_deg`). 1 degree is the rotation's.
# In other units a twentieth of the deviation of the joint that moves most, as 0.02 rad is of a typical 0.4.
LEAST_JOINT_SCALE = {"rad": 0.02, "deg": 1.0}
_LEAST_SHARE = 0.05
_NAMED_UNITS = {"rad": "rad", "radians": "rad", "deg": "deg", "degrees": "deg"}

_FACING = {"+x": (0, 1), "-x": (0, -1), "+y": (1, 1), "-y": (1, -1)}  # axis and sign

_TO_MATRIX: dict[str, Callable[[Tensor], Tensor]] = {
    "euler_xyz": rotation.euler_xyz_to_matrix,
    "quat_wxyz": rotation.quat_wxyz_to_matrix,
    "quat_xyzw": rotation.quat_xyzw_to_matrix,
    "rot6d": rotation.rot6d_to_matrix,
}
_FROM_MATRIX: dict[str, Callable[[Tensor], Tensor]] = {
    "euler_xyz": rotation.matrix_to_euler_xyz,
    "quat_wxyz": rotation.matrix_to_quat_wxyz,
    "quat_xyzw": rotation.matrix_to_quat_xyzw,
    "rot6d": rotation.matrix_to_rot6d,
}


def convert_rotation(values: Tensor, source: str, target: str) -> Tensor:
    """Convert rotations `[..., n]` between conventions, also to their own: one form for each rotation."""
    return _FROM_MATRIX[target](_TO_MATRIX[source](values))


@dataclass(frozen=True)
class ActionGroup:
    """Some numbers of an action that belong together."""

    name: str  # name used in scores, e.g. `position`.
    kind: GroupKind  # `position` (metres, base frame), `rotation`, `gripper` or `joint`
    arm: str  # `single`, `left` or `right`
    indices: tuple[int, ...]  # where in the action vector
    labels: tuple[str, ...]  # one name a number
    convention: str  # rotation convention (`euler_xyz`, `quat_wxyz`, `quat_xyzw`, `rot6d`) or frame
    unit: str  # `m`, `rad`, `deg`, `unit` or `fraction`

    @property
    def place(self) -> slice | list[int]:
        """Index of the group's numbers: a slice where they are neighbours (no index travels to a GPU)."""
        first, last = self.indices[0], self.indices[-1]
        neighbours = self.indices == tuple(range(first, last + 1))
        return slice(first, last + 1) if neighbours else list(self.indices)

    def least_scale(self, label: str) -> float | None:
        """Return the least deviation of one of its numbers worth resolving, None if its unit is not known."""
        if self.kind != "joint":
            return LEAST_SCALE[self.kind]
        words = re.split(r"[^a-z]+", label.lower())
        units = [self.unit, *(_NAMED_UNITS[word] for word in words if word in _NAMED_UNITS)]
        return LEAST_JOINT_SCALE.get(units[-1])


@dataclass(frozen=True)
class Embodiment:
    """The action layout of a robot: ordered groups, conventions, units and control rate.

    Raises:
        EmbodimentError: Indices do not cover 0..a-1 exactly once, a rotation convention is unknown, or the
            robot faces no axis.
    """

    name: str
    groups: tuple[ActionGroup, ...]
    control_hz: float
    forward: str = "+x"  # the axis of its base frame that the robot faces; z is up
    gripper: Literal["opening", "effort"] = "opening"  # effort: the measured state alone tells that it moved

    def __post_init__(self) -> None:
        covered = sorted(i for g in self.groups for i in g.indices)
        if covered != list(range(len(covered))):
            raise EmbodimentError(
                expected="every action index exactly once",
                got=f"indices {covered}",
                fix=f"Correct embodiment {self.name}.",
            )
        if self.forward not in _FACING:
            raise UnknownNameError("axis that a robot faces", self.forward, _FACING)
        for group in self.groups:
            if len(group.labels) != len(group.indices):
                raise EmbodimentError(
                    expected=f"{len(group.indices)} labels in group {group.name}",
                    got=f"{list(group.labels)}",
                    fix=f"Correct embodiment {self.name}.",
                )
            if group.kind == "rotation" and group.convention not in _TO_MATRIX:
                raise UnknownNameError("rotation convention", group.convention, _TO_MATRIX)

    @property
    def action_dim(self) -> int:
        """Length a of one action."""
        return sum(len(g.indices) for g in self.groups)

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each of the a numbers, in order."""
        pairs = [(i, label) for g in self.groups for i, label in zip(g.indices, g.labels, strict=True)]
        return tuple(label for _, label in sorted(pairs))

    def group_indices(self) -> dict[str, tuple[int, ...]]:
        """Map each group name to its indices; groups of the same name (two arms) are joined."""
        joined: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            joined[group.name] = (*joined.get(group.name, ()), *group.indices)
        return joined

    def least_scale(self, std: Sequence[float] | None = None) -> tuple[float, ...]:
        """Return for each of the a numbers the least deviation worth resolving (`LEAST_SCALE`).

        Args:
            std: Deviation of each number, of which those of joints in an unknown unit are a share: of the
                largest among those whose names end alike (`.pos`, `.vel`). None: only such joints that never
                change are left alone.
        """
        known = {
            i: g.least_scale(label) for g in self.groups for i, label in zip(g.indices, g.labels, strict=True)
        }
        families = {i: self.labels[i].rpartition(".")[2 if "." in self.labels[i] else 0] for i in known}
        scale = []
        for index in range(self.action_dim):
            least = known[index]
            if least is None and std is not None:
                alike = [i for i, own in known.items() if own is None and families[i] == families[index]]
                most = max(std[i] for i in alike)
                least = _LEAST_SHARE * most if most >= STD_FLOOR else 1.0
            scale.append(STD_FLOOR if least is None else least)
        return tuple(scale)

    def facing(self, displacement: Tensor) -> Tensor:
        """Return displacements `[..., 3]` of the base frame as forward, left and up of the robot."""
        axis, sign = _FACING[self.forward]
        if axis == 0 and sign == 1:
            return displacement
        x, y, z = displacement.unbind(-1)
        return torch.stack([sign * (y if axis else x), sign * (-x if axis else y), z], -1)

    def check(self, actions: Tensor) -> None:
        """Raise ShapeError unless `actions` is `[..., a]` and finite."""
        if actions.shape[-1] != self.action_dim:
            raise ShapeError(
                expected=f"actions of shape [..., {self.action_dim}] ({', '.join(self.labels)})",
                got=f"{tuple(actions.shape)}",
                fix=f"Use data of embodiment '{self.name}' or choose another embodiment.",
            )
        if not torch.isfinite(actions).all():
            raise ShapeError(
                expected="finite actions",
                got=f"{int((~torch.isfinite(actions)).sum())} non-finite values",
                fix="Run `lary data verify` to find the file.",
            )

    def to_relative(self, actions: Tensor, anchor: Tensor) -> Tensor:
        """Express absolute actions `[..., k, a]` relative to the pose `anchor` `[..., a]`.

        Positions become differences in the base frame, rotations R_anchor^T R_target in the layout's own
        convention (a proper rotation difference, not a component-wise one), joints differences, grippers stay
        absolute.
        """
        return self._convert(actions, anchor, inverse=False)

    def to_absolute(self, relative: Tensor, anchor: Tensor, *, check: bool = True) -> Tensor:
        """Invert `to_relative`: `[..., k, a]` relative actions and `[..., a]` anchor to absolute actions.

        `check=False` leaves out the test for non-finite anchors, which waits for a GPU.
        """
        return self._convert(relative, anchor, inverse=True, check=check)

    def rotation_error_deg(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return the geodesic angle (degrees) between the rotations of two actions `[..., a]`.

        One entry `[...]` for each rotation group, named after it, or `group/arm` where two arms share a name.
        """
        groups = [g for g in self.groups if g.kind == "rotation"]
        repeated = len({g.name for g in groups}) < len(groups)
        errors = {}
        for group in groups:
            index = list(group.indices)
            matrices = [_TO_MATRIX[group.convention](v[..., index]) for v in (first, second)]
            name = f"{group.name}/{group.arm}" if repeated else group.name
            errors[name] = torch.rad2deg(rotation.geodesic_angle_rad(*matrices))
        return errors

    def _convert(self, actions: Tensor, anchor: Tensor, *, inverse: bool, check: bool = True) -> Tensor:
        if check:
            self.check(anchor)
        if actions.shape[-1] != self.action_dim or actions.shape[:-2] != anchor.shape[:-1]:
            raise ShapeError(
                expected=f"actions [..., k, {self.action_dim}] and anchors [..., {self.action_dim}]",
                got=f"{tuple(actions.shape)} and {tuple(anchor.shape)}",
                fix="Pass one anchor pose for each chunk.",
            )
        base = anchor.unsqueeze(-2).expand_as(actions)
        out = actions.clone()
        for group in self.groups:
            place = group.place
            if group.kind in ("position", "joint"):
                out[..., place] = actions[..., place] + base[..., place] * (1 if inverse else -1)
            elif group.kind == "rotation":
                target = _TO_MATRIX[group.convention](actions[..., place])
                frame = _TO_MATRIX[group.convention](base[..., place])
                turned = (frame if inverse else frame.transpose(-1, -2)) @ target
                out[..., place] = _FROM_MATRIX[group.convention](turned)
        return out


def list_embodiments() -> tuple[str, ...]:
    """Return the names of all embodiments: in `configs/embodiment`, and registered ones."""
    return (*choices("embodiment"), *sorted(_REGISTERED))


_REGISTERED: dict[str, Embodiment] = {}


def register_embodiment(embodiment: Embodiment) -> Embodiment:
    """Make an embodiment known to `load_embodiment` in this process, e.g. one inferred from a dataset.

    Raises:
        EmbodimentError: Another one has that name.
    """
    taken = embodiment.name in choices("embodiment")
    if taken or _REGISTERED.setdefault(embodiment.name, embodiment) != embodiment:
        raise EmbodimentError(
            expected="a name that no other embodiment has",
            got=f"'{embodiment.name}'",
            fix="Give it another name.",
        )
    return embodiment


def load_embodiment(name: str) -> Embodiment:
    """Return a registered embodiment, or read one from its YAML.

    Raises:
        UnknownNameError: There is no such embodiment; the message lists the known ones.
        EmbodimentError: The YAML contradicts itself.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in list_embodiments():
        raise UnknownNameError("embodiment", name, list_embodiments())
    raw: dict[str, Any] = yaml.safe_load((configs_dir() / "embodiment" / f"{name}.yaml").read_text())
    further = {name: raw[name] for name in ("forward", "gripper") if name in raw}
    return Embodiment(raw["name"], tuple(map(_group, raw["groups"])), float(raw["control_hz"]), **further)


def _group(raw: dict[str, Any]) -> ActionGroup:
    sequences: dict[str, Sequence[Any]] = {key: tuple(raw[key]) for key in ("indices", "labels")}
    return ActionGroup(**{**raw, **sequences})
