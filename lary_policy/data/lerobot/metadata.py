"""What the features of LeRobot's `meta/info.json` say, in all the spellings that datasets have.

Sources and policies both read them here.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from torch import Tensor

from lary_policy.actions import ActionGroup, Embodiment, GroupKind, load_embodiment, register_embodiment
from lary_policy.errors import DatasetError, EmbodimentError, UnsafePathError

Feature = Mapping[str, Any]
IMAGES = ("image", "video")
_DEPTH = ("is_depth_map", "video.is_depth_map")
_PLACES = ("video_key", "chunk_index", "file_index", "episode_index", "episode_chunk")
FORMAT = "v3."
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


def feature_names(feature: Feature | None) -> tuple[str, ...] | None:
    """Return the name of each number of a feature, or None where they have none.

    Datasets write `[a, b]`, `[[a, b]]`, `{"motors": [a, b]}`, `{"left": [a], "right": [b]}` or
    `{a: 0, b: 1}`. Names that are too few, too many, repeated or no text name nothing.
    """
    feature = feature or {}
    found = _flat(feature.get("names"))
    shape = feature.get("shape")
    sizes = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    size = sizes[0] if len(sizes) == 1 else None
    good = all(isinstance(name, str) and name for name in found) and len(set(found)) == len(found)
    return tuple(found) if found and good and size in (None, len(found)) else None


def _flat(names: Any) -> list[Any]:
    if isinstance(names, Mapping):
        places = list(names.values())
        if places and all(isinstance(p, int) and not isinstance(p, bool) for p in places):
            whole = sorted(places) == list(range(len(places)))
            return sorted(names, key=lambda name: names[name]) if whole else []
        return [name for inner in places for name in _flat(inner)]
    if isinstance(names, list | tuple):
        return [n for inner in names for n in (_flat(inner) if isinstance(inner, list | tuple) else [inner])]
    return []


def is_depth(feature: Feature) -> bool:
    """Return whether images of a feature are distances, as LeRobot decides it, old spellings included."""
    places = (feature, feature.get("info"), feature.get("video_info"))
    return any(isinstance(p, Mapping) and bool(p.get(name)) for p in places for name in _DEPTH)


def is_camera(feature: Feature) -> bool:
    """Return whether a feature is colour images or videos."""
    return feature.get("dtype") in IMAGES and not is_depth(feature)


def is_vector(feature: Feature) -> bool:
    """Return whether a feature is one row of floating-point numbers a step."""
    dtype, shape = feature.get("dtype"), feature.get("shape")
    return isinstance(dtype, str) and "float" in dtype and isinstance(shape, list | tuple) and len(shape) == 1


def place_of(root: Path, template: Any, **places: Any) -> Path:
    """Return the file that a template of `meta/info.json` names for some numbers.

    The dataset's folder may be of links (the hub's cache is), which are followed; the template must not leave
    it by its words.

    Raises:
        UnsafePathError: It is absolute, has `..`, or a field or format that no template needs.
    """
    try:
        fields = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template) if name is not None]
        # A format is none, or a whole number with up to 9 leading zeros.
        if any(n not in _PLACES or re.fullmatch(r"(0\d)?d|", spec or "") is None for n, spec in fields):
            raise ValueError(f"fields {fields}")
        path = PurePosixPath(template.format(**places))
    except Exception as error:  # the template is anything that JSON holds
        raise _unsafe(root, template, f"{type(error).__name__}: {error}") from error
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise _unsafe(root, template, str(path))
    return root / path


def _unsafe(root: Path, template: Any, got: str) -> UnsafePathError:
    return UnsafePathError(
        expected=f"a path inside {root} for '{template}' of meta/info.json",
        got=got,
        fix="Correct the template, or download the dataset again.",
    )


def require_format(root: Path, info: Mapping[str, Any], wanted: str = FORMAT) -> None:
    """Refuse datasets of another format than v3.

    The DatasetError has the command that converts the folder where it is.
    """
    version = str(info.get("codebase_version"))
    if not version.startswith(wanted):
        name = "/".join(root.absolute().parts[-2:])
        raise DatasetError(
            expected=f"a LeRobot dataset of format {wanted}x in {root}",
            got=f"format {version}",
            fix=f"Convert the folder, which stays on this machine: {CONVERTER} "
            f"--repo-id={shlex.quote(name)} --root={shlex.quote(str(root.absolute()))} --push-to-hub=false",
        )


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
    """Make an action layout, whose name starts with `title`, from the names of its a numbers alone.

    A full set of x, y, z of an arm is a position in metres; of roll, pitch, yaw, or of qx, qy, qz, qw, a
    rotation; a name with `gripper` in it a gripper; all else joints in the dataset's own unit, whose
    differences are taken number by number. EmbodimentError where there is no name, or one stands twice.
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


Origin = Literal["given", "by name", "by position", "inferred"]


@dataclass(frozen=True)
class ActionMapping:
    """Which number of a dataset's action is which of an embodiment.

    Attributes:
        embodiment: The layout.
        names: For each of its a numbers, the dataset's name of it.
        columns: For each of them, where it stands in the dataset's action.
        origin: How this was found.
    """

    embodiment: Embodiment
    names: tuple[str, ...]
    columns: tuple[int, ...]
    origin: Origin

    def pick(self, values: Tensor) -> Tensor:
        """Return the numbers `[..., a]` of the embodiment from the dataset's `[..., A]`."""
        return values[..., torch.tensor(self.columns)]

    def describe(self) -> str:
        """Return one line for each group of numbers, for people to check."""
        lines = [f"actions of {self.embodiment.name} ({self.origin}, {self.embodiment.control_hz:g} Hz)"]
        for group in self.embodiment.groups:
            pairs = zip(group.labels, group.indices, strict=True)
            cells = [n if (n := self.names[i]) == label else f"{label} = {n}" for label, i in pairs]
            form = f"{group.kind}, {group.convention}, {group.unit}"
            lines.append(f"  {group.arm} {group.name} ({form}): {', '.join(cells)}")
        return "\n".join(lines)


def map_actions(
    names: Sequence[str],
    control_hz: float,
    *,
    embodiment: str | None,
    action_names: Sequence[str] | None,
    title: str,
) -> ActionMapping:
    """Find the layout of a dataset's actions.

    Args:
        names: The dataset's names of the A numbers of its action.
        control_hz: Actions a second.
        embodiment: Name of an embodiment, or None to infer one from the names.
        action_names: The dataset's names in the order of the embodiment; None finds them by their meaning.
            Numbers without names are taken in order.
        title: What the name of an inferred layout starts with.

    Raises:
        EmbodimentError: A name is not in the dataset, or the numbers do not fit the embodiment.
        UnknownNameError: There is no such embodiment.
    """
    columns = None if action_names is None else _columns(names, action_names)
    if embodiment is None:
        chosen = tuple(range(len(names))) if columns is None else columns
        picked = tuple(names[i] for i in chosen)
        layout = register_embodiment(infer_embodiment(picked, control_hz, title=title))
        return ActionMapping(layout, picked, chosen, "inferred")
    layout, origin = load_embodiment(embodiment), "given"
    if columns is None:
        by_name = _by_meaning(names, layout)
        origin = "by position" if by_name is None else "by name"
        unnamed = list(names) == [UNNAMED.format(i) for i in range(len(names))]
        columns = by_name or (tuple(range(len(names))) if unnamed else ())
    if len(columns) != layout.action_dim:
        raise EmbodimentError(
            expected=f"the {layout.action_dim} numbers of {layout.name} ({', '.join(layout.labels)})",
            got=f"{len(columns) or 'not each of them'} among {', '.join(names)}",
            fix="Pass action_names=[...] in the embodiment's order, or leave embodiment out to infer one.",
        )
    return ActionMapping(layout, tuple(names[i] for i in columns), columns, origin)  # type: ignore[arg-type]


def _columns(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    absent = [name for name in wanted if name not in names]
    if absent or len(set(wanted)) < len(wanted):
        raise EmbodimentError(
            expected=f"action_names among {', '.join(names)}, each once",
            got=", ".join(absent or wanted),
            fix="Correct the spelling.",
        )
    return tuple(names.index(name) for name in wanted)


def _by_meaning(names: Sequence[str], layout: Embodiment) -> tuple[int, ...] | None:
    """Return where the names of each label's meaning stand, or None unless each is there exactly once."""
    meanings = [(m.arm, m.part) for m in map(read_name, names)]
    arms = {i: g.arm for g in layout.groups for i in g.indices}
    wanted = [(arms[i], read_name(label).part) for i, label in enumerate(layout.labels)]
    if any(meanings.count(meaning) != 1 for meaning in wanted):
        return None
    return tuple(meanings.index(meaning) for meaning in wanted)
