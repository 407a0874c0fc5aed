"""The looks of a MuJoCo Menagerie model on one of our robots: its visual meshes, our physics.

No file of Menagerie is part of this package: the user has a checkout, or the package `mujoco-menagerie`
downloads one model when it is asked for. Our links keep their collision primitives, which become invisible.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
from numpy.typing import NDArray

from lary_envs.kinematics import Matrix
from lary_envs.robots import Robot, robot_of
from lary_envs.scene.parts import placed
from lary_policy.errors import SimulationError, UnsafePathError, look_up
from lary_policy.paths import resolve_inside

TOLERANCE = 1e-6  # metres, and entries of rotation matrices: published quaternions have seven digits
_POSTURES = 8  # compared; one alone would match any two chains


@dataclass(frozen=True, eq=False)
class Link:
    """A link of ours and the body of the other model that moves with it."""

    name: str  # our body
    pose: Matrix  # `[4, 4]` pose of the other body in it


def match_links(robot: Robot, model: mujoco.MjModel, joints: Mapping[str, str]) -> dict[int, Link]:
    """Return our link for the base (body 0, the world) and each moving body of a model.

    Both robots take the same random postures; a body belongs to our link if it stays where it is on it. The
    model's world is the frame in which our first arm stands; `joints` names its joint for each of ours.

    Raises:
        SimulationError: The model has other joints or other kinematics.
    """
    ours = _alone(robot)
    _require_joints(model, joints)
    first = ours.joint(robot.arms[0].joints[0]).bodyid[0]
    pairs = [(int(ours.body_parentid[first]), 0)] + [
        (int(ours.joint(a).bodyid[0]), int(model.joint(b).bodyid[0])) for a, b in joints.items()
    ]
    our_bodies, bodies = (list(part) for part in zip(*pairs, strict=True))
    rng, base, seen = np.random.default_rng(0), robot.arms[0].chain.base, []
    for _ in range(_POSTURES):
        values = {name: rng.uniform(*ours.joint(name).range) for name in joints}
        here = body_poses(ours, values)[our_bodies]
        there = body_poses(model, {joints[name]: value for name, value in values.items()})[bodies]
        seen.append(np.linalg.inv(here) @ base @ there)
    names = [ours.body(body).name for body in our_bodies]
    _require_constant(np.stack(seen), names)
    return {body: Link(name, pose) for body, name, pose in zip(bodies, names, seen[0], strict=True)}


def body_poses(model: mujoco.MjModel, joints: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the poses `[nbody, 4, 4]` of all bodies at joint positions (rad, m), the others at rest."""
    data = mujoco.MjData(model)
    for name, position in joints.items():
        data.qpos[model.joint(name).qposadr[0]] = position
    mujoco.mj_kinematics(model, data)
    return matrices(data.xpos, data.xmat)


def matrices(positions: NDArray[np.float64], rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `[n, 4, 4]` of MuJoCo's positions `[n, 3]` and rotations `[n, 9]`."""
    out = np.tile(np.eye(4), (len(positions), 1, 1))
    out[:, :3, :3], out[:, :3, 3] = rotations.reshape(-1, 3, 3), positions
    return out


def _alone(robot: Robot) -> mujoco.MjModel:
    scene = mujoco.MjSpec()
    scene.compiler.degree = False
    robot.build(scene)
    return scene.compile()


def _require_joints(model: mujoco.MjModel, joints: Mapping[str, str]) -> None:
    found = sorted(model.joint(i).name for i in range(model.njnt))
    if found != sorted(joints.values()):
        raise _differs(f"the joints {', '.join(sorted(joints.values()))}", f"{', '.join(found) or 'none'}")


def _require_constant(poses: NDArray[np.float64], names: list[str]) -> None:
    moved = np.abs(poses - poses[0]).max((0, 2, 3))
    if moved.max() > TOLERANCE:
        first = int((moved > TOLERANCE).argmax())  # those after it move with it
        raise _differs(
            f"links that move as ours do, within {TOLERANCE:g} (m, rad)",
            f"{moved[first]:.2g} at our '{names[first]}'",
        )


def _differs(expected: str, got: str) -> SimulationError:
    return SimulationError(
        expected=expected, got=got, fix="Use the unmodified model of MuJoCo Menagerie, or looks=primitives."
    )


_FOLDERS = ("meshdir", "texturedir", "assetdir")
_NESTED = ("include", "model")  # elements whose file is MJCF again


def require_inside(folder: Path, entry: str) -> Path:
    """Return the resolved path of an MJCF file that, with all it includes, reads nothing outside `folder`.

    Raises:
        UnsafePathError: A path in it is absolute, contains `..` or is a link that leaves `folder`.
        SimulationError: It is not XML.
    """
    pending, roots, bases = [_inside(folder, entry, entry)], {}, {Path()}
    while pending:
        path = pending.pop()
        if path in roots or not path.is_file():
            continue  # MuJoCo itself names files that are missing
        roots[path] = root = _parse(path)
        inner = path.parent.relative_to(folder.resolve())
        bases.add(inner)
        for compiler in root.iter("compiler"):
            dirs = [_plain(compiler.get(name, ".")) for name in _FOLDERS]
            bases.update(base / name for base in (Path(), inner) for name in dirs)
        nested = [_plain(e.get("file", "")) for tag in _NESTED for e in root.iter(tag)]
        pending += [_inside(folder, b / name, path) for b in (Path(), inner) for name in nested]
    for path, root in roots.items():
        for value in _files(root):
            for base in bases:
                _inside(folder, base / value, path)
    return _inside(folder, entry, entry)


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise SimulationError(
            expected="an MJCF file", got=f"'{path}': {error}", fix="Get it again."
        ) from error


def _files(root: ElementTree.Element) -> list[str]:
    """Return all file names: `file`, and `fileright` and its like of skyboxes."""
    return [_plain(v) for e in root.iter() for name, v in e.attrib.items() if name.startswith("file")]


def _plain(path: str) -> str:
    return path.replace("\\", "/")  # MuJoCo takes both for separators on every system


def _inside(folder: Path, relative: str | Path, named_in: str | Path) -> Path:
    try:
        return resolve_inside(folder, relative)
    except UnsafePathError as error:
        raise UnsafePathError(
            expected=f"only paths inside {folder} in '{named_in}'",
            got=f"'{relative}'",
            fix="Use an unmodified model; links must not leave its folder.",
        ) from error


ROOT_VARIABLE = "MENAGERIE_ROOT"
_REPOSITORY = "https://github.com/google-deepmind/mujoco_menagerie"
_HIDDEN_GROUP = 3  # that of Menagerie's own collision geoms: neither traced nor, by default, drawn


@dataclass(frozen=True)
class Counterpart:
    """The Menagerie model of a robot."""

    folder: str  # name of the model
    file: str  # its MJCF file
    joints: Mapping[str, str]  # its joint for each of ours


# Not `agilex_piper` for arm12: its joints 2 and 3 count from zeros 2 degrees away from those of the current
# SDK, so that links would be up to 20 mm off; and its axis 6 lies 1.4 mm beside the published one.
COUNTERPARTS = {
    "arm7": Counterpart(
        "franka_emika_panda",
        "panda.xml",
        {f"joint{i}": f"joint{i}" for i in range(1, 8)}
        | {"finger_left": "finger_joint1", "finger_right": "finger_joint2"},
    )
}


def dress(scene: mujoco.MjSpec, robot: Robot) -> None:
    """Replace the looks of a robot that has just been built, the first in its scene, by its counterpart's.

    Raises:
        UnknownNameError: The embodiment has no counterpart; the message lists those that have one.
        SimulationError: The model is missing, cannot be read, or has other kinematics or bare links.
        UnsafePathError: A path in the model leaves its folder.
    """
    counterpart = look_up("embodiment with a Menagerie model", robot.embodiment, COUNTERPARTS)
    model = load_model(counterpart)
    links = match_links(robot, model, counterpart.joints)
    for body in scene.bodies[1:]:  # the first is the world, with the table
        for geom in body.geoms:
            geom.rgba, geom.group = [0.0, 0.0, 0.0, 0.0], _HIDDEN_GROUP
    _add_meshes(scene, model, links)


def require_counterpart(embodiment: str) -> None:
    """Make sure that the robot of an embodiment can be dressed, in about two seconds.

    Raises:
        UnknownNameError: It has no robot or no counterpart.
        SimulationError: The model is missing, cannot be read or does not fit.
        UnsafePathError: A path in the model leaves its folder.
    """
    robot, scene = robot_of(embodiment), mujoco.MjSpec()
    robot.build(scene)
    dress(scene, robot)


def load_model(counterpart: Counterpart) -> mujoco.MjModel:
    """Compile the model of a counterpart.

    Raises:
        SimulationError: It is not there or not valid.
        UnsafePathError: A path in it leaves its folder.
    """
    path = require_inside(model_folder(counterpart.folder), counterpart.file)
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise SimulationError(
            expected=f"a valid model '{path}'", got=str(error), fix=f"Get it again from {_REPOSITORY}."
        ) from error


def model_folder(name: str) -> Path:
    """Return the folder of a model: in `MENAGERIE_ROOT`, else where `mujoco-menagerie` keeps or downloads it.

    Raises:
        SimulationError: Neither has it.
    """
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return _from_package(name)
    if not (Path(root) / name).is_dir():
        raise _missing(name, f"no such folder in {ROOT_VARIABLE}={root}")
    return Path(root) / name


def _from_package(name: str) -> Path:
    try:
        import mujoco_menagerie
    except ImportError as error:
        raise _missing(name, f"neither {ROOT_VARIABLE} nor the package mujoco-menagerie") from error
    try:
        return Path(mujoco_menagerie.get(name).path())  # downloads it the first time
    except (mujoco_menagerie.MenagerieError, OSError) as error:
        raise _missing(name, f"{type(error).__name__}: {error}") from error


def _missing(name: str, got: str) -> SimulationError:
    return SimulationError(
        expected=f"the model '{name}' of MuJoCo Menagerie",
        got=got,
        fix=f"Run `git clone --depth 1 {_REPOSITORY}` and set {ROOT_VARIABLE} to its folder; or leave that "
        "unset and run `pip install 'lerobot_policy_lary[menagerie]'`, which downloads the model when it is "
        "first used; or use looks=primitives.",
    )


def _add_meshes(scene: mujoco.MjSpec, model: mujoco.MjModel, links: Mapping[int, Link]) -> None:
    """Hang the model's visual meshes on our links: without mass and contacts."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    bodies, geoms = matrices(data.xpos, data.xmat), matrices(data.geom_xpos, data.geom_xmat)
    visual = (model.geom_contype == 0) & (model.geom_conaffinity == 0)
    visual &= model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    carriers = model.body_weldid[model.geom_bodyid]  # the moving body, or the base, of each geom
    bare = [link.name for body, link in links.items() if body not in carriers[visual]]
    if bare:
        raise SimulationError(
            expected="a visual mesh on every link",
            got=f"none for our {', '.join(bare)}",
            fix=f"Use the unmodified model of {_REPOSITORY}.",
        )
    for geom in np.flatnonzero(visual):
        link, body = links[int(carriers[geom])], bodies[carriers[geom]]
        scene.body(link.name).add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname=_mesh(scene, model, int(model.geom_dataid[geom])),
            mass=0, contype=0, conaffinity=0, **placed(link.pose @ np.linalg.inv(body) @ geoms[geom]),
            **_colour(scene, model, int(geom)),
        )  # fmt: skip


def _colour(scene: mujoco.MjSpec, model: mujoco.MjModel, geom: int) -> dict[str, Any]:
    """Return the colour of a geom or the material that has it; textures are not taken over."""
    index = int(model.geom_matid[geom])
    if index < 0:
        return {"rgba": model.geom_rgba[geom]}
    name = f"menagerie_{model.material(index).name}"
    if (model.mat_texid[index] >= 0).any():
        raise SimulationError(
            expected="materials without textures", got=f"'{model.material(index).name}'",
            fix=f"Use the unmodified model of {_REPOSITORY}.",
        )  # fmt: skip
    if scene.material(name) is None:
        scene.add_material(
            name=name, rgba=model.mat_rgba[index], specular=model.mat_specular[index],
            shininess=model.mat_shininess[index],
        )  # fmt: skip
    return {"material": name}


def _mesh(scene: mujoco.MjSpec, model: mujoco.MjModel, index: int) -> str:
    """Copy a compiled mesh into the scene, once, and return its name."""
    name = f"menagerie_{model.mesh(index).name}"
    if scene.mesh(name) is None:
        vertex, normal = model.mesh_vertadr[index], model.mesh_normaladr[index]
        face = model.mesh_faceadr[index]
        faces = slice(face, face + model.mesh_facenum[index])
        scene.add_mesh(
            name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,  # surfaces may be open
            uservert=model.mesh_vert[vertex : vertex + model.mesh_vertnum[index]].ravel(),
            usernormal=model.mesh_normal[normal : normal + model.mesh_normalnum[index]].ravel(),
            userface=model.mesh_face[faces].ravel(), userfacenormal=model.mesh_facenormal[faces].ravel(),
        )  # fmt: skip
    return name
