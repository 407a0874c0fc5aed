"""What the numbers of an action mean, read from their names: poses, grippers, joints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lary_policy.embodiment import ActionGroup, Embodiment, GroupKind
from lary_policy.errors import EmbodimentError

POSITION = ("x", "y", "z")
EULER = ("roll", "pitch", "yaw")
QUATERNION = ("qx", "qy", "qz", "qw")
GRIPPERS = ("gripper", "grip", "claw", "finger", "jaw")
SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
# Words that say whose number it is, not which one.
_FILLERS = re.compile(
    "ee|eef|tcp|end|effector|endeffector|tool|pose|position|pos|orientation|rotation|rot|ori|cartesian|"
    "action|state|target|goal|cmd|command|main|follower|robot|arm|hand|value"
)
UNNAMED = "action_{}"  # what a number without a name is called


@dataclass(frozen=True)
class NameMeaning:
    """What one name says.

    Attributes:
        name: The name as the dataset has it.
        arm: `left`, `right` or `single`.
        part: `x`, `roll`, `qw`, `gripper` or, of anything else, the words that are left (a joint).
    """

    name: str
    arm: str
    part: str


def read_name(name: str) -> NameMeaning:
    """Take a name like `left_ee.pos.x` or `shoulder_pan.pos` apart."""
    words = [w for w in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) if w]
    sides = [SIDES[w] for w in words if w in SIDES]
    words = [w for w in words if w not in SIDES]
    arm = sides[0] if sides else "single"
    if any(word.startswith(GRIPPERS) for word in words):
        return NameMeaning(name, arm, "gripper")
    kept = [w for w in words if not _FILLERS.fullmatch(w)]
    return NameMeaning(name, arm, "_".join(kept or words or [name]))


def infer_embodiment(names: Sequence[str], control_hz: float, *, title: str) -> Embodiment:
    """Make an action layout from names alone.

    A full set of x, y, z of an arm is a position in metres; of roll, pitch, yaw, or of qx, qy, qz, qw, a
    rotation; a name with `gripper` in it a gripper; all else joints in the dataset's own unit, whose
    differences are taken number by number.

    Args:
        names: Name of each of the a numbers, each once.
        control_hz: Actions a second.
        title: What the layout's name starts with.

    Raises:
        EmbodimentError: There is no name, or one stands twice.
    """
    if not names or len(set(names)) < len(names):
        raise EmbodimentError(
            expected="a name for each number of an action, each once",
            got=f"{list(names)}",
            fix="Correct the names in meta/info.json, or pass action_names=[...].",
        )
    meanings = [read_name(name) for name in names]
    groups: list[ActionGroup] = []
    for arm in dict.fromkeys(m.arm for m in meanings):
        groups.extend(_groups_of_arm(arm, meanings))
    digest = hashlib.sha256(repr((groups, control_hz)).encode()).hexdigest()[:4]
    return Embodiment(f"{title}-{len(names)}d-{digest}", tuple(groups), control_hz)


def _groups_of_arm(arm: str, meanings: Sequence[NameMeaning]) -> list[ActionGroup]:
    """Return position, rotation, grippers and joints of one arm, where it has them."""
    places = {i: m.part for i, m in enumerate(meanings) if m.arm == arm}
    found: list[ActionGroup] = []

    def take(name: str, kind: GroupKind, indices: Sequence[int], convention: str, unit: str) -> None:
        labels = tuple(meanings[i].name for i in indices)
        found.append(ActionGroup(name, kind, arm, tuple(indices), labels, convention, unit))
        for i in indices:
            del places[i]

    if position := _places_of(POSITION, places):
        take("position", "position", position, "xyz_base_frame", "m")
    if euler := _places_of(EULER, places):
        take("orientation", "rotation", euler, "euler_xyz", "rad")
    elif quaternion := _places_of(QUATERNION, places):
        take("orientation", "rotation", quaternion, "quat_xyzw", "unit")
    if gripper := [i for i, part in places.items() if part == "gripper"]:
        take("gripper", "gripper", gripper, "opening", "fraction")
    if places:
        take("joints", "joint", list(places), "as_recorded", "unit")
    return found


def _places_of(parts: Sequence[str], places: dict[int, str]) -> list[int]:
    """Return where each of some parts stands, in their order; nothing unless each stands exactly once."""
    found = [[i for i, part in places.items() if part == wanted] for wanted in parts]
    return [indices[0] for indices in found] if all(len(indices) == 1 for indices in found) else []
