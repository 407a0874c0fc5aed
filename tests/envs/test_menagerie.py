"""Meshes of a Menagerie model over our physics, with a model made here in place of the real one."""

import sys
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch
from synthetic_panda import write_panda

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.nan_guard import replay
from lary_envs.robots.robot import list_robots, robot_of
from lary_envs.scene.menagerie import (
    COUNTERPARTS,
    body_poses,
    load_model,
    match_links,
    matrices,
    model_folder,
    require_counterpart,
)
from lary_envs.scene.table import LOOKS, build_model
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import task_entry
from lary_policy.errors import SimulationError, UnknownNameError, UnsafePathError

JOINTS = COUNTERPARTS["arm7"].joints
INERTIA = '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>'
MORE = f'<body name="more">{INERTIA}<joint name="more"/></body>'
FLAT = '<texture name="t" type="2d" builtin="flat" width="1" height="1"/>'


@pytest.fixture(params=[False, True], ids=["same frames", "turned frames"])
def root(request, tmp_path, monkeypatch):
    write_panda(tmp_path, turned=request.param)
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    return write_panda(tmp_path)


def edit(folder, old, new):
    path = folder / "panda.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def model(looks, task="pick_place"):
    return build_model(task_entry(task).factory(), "arm7", looks=looks)


def meshes(scene):
    return np.flatnonzero(scene.geom_type == mujoco.mjtGeom.mjGEOM_MESH)


def episode(looks, steps=40):
    """Return positions, velocities and the peak of the cube in two worlds of an expert's episode."""
    env = SimEnv("pick_place", 2, looks=looks)
    env.reset([3, 4])
    controller = EndEffectorController(2)
    controller.reset(env.joints())
    expert, target, states = make_expert("pick_place", env), controller.pose(), []
    for _ in range(steps):
        target = expert.act(target)
        env.step(controller.command(target))
        states.append(torch.cat([env._physics.field("qpos"), env._physics.field("qvel")], -1).clone())
    peak = env.world_state().object_peak
    env.close()
    return torch.stack(states), peak


def test_states_are_bit_equal_while_the_gripper_carries_a_cube(folder):
    plain, peak = episode("primitives")
    assert (peak > 0.07).all()
    dressed, other_peak = episode("menagerie")
    assert torch.equal(plain, dressed)
    assert torch.equal(peak, other_peak)


def test_only_looks_change(root):
    plain, dressed = model("primitives"), model("menagerie")
    for name in ("nbody", "njnt", "nu", "nv", "neq", "ncam", "nsite"):
        assert getattr(plain, name) == getattr(dressed, name)
    for name in (
        "body_mass",
        "body_inertia",
        "body_ipos",
        "body_iquat",
        "dof_invweight0",
        "actuator_gainprm",
    ):
        assert np.array_equal(getattr(plain, name), getattr(dressed, name)), name
    added = meshes(dressed)
    assert len(added) == 11 == dressed.ngeom - plain.ngeom
    assert not dressed.geom_contype[added].any()
    assert not dressed.geom_conaffinity[added].any()
    kept = np.setdiff1d(np.arange(dressed.ngeom), added)
    for name in ("geom_type", "geom_size", "geom_pos", "geom_contype", "geom_conaffinity", "geom_friction"):
        assert np.array_equal(getattr(plain, name), getattr(dressed, name)[kept]), name


def test_primitives_of_the_robot_alone_are_invisible(folder):
    dressed = model("menagerie")
    seen = {
        dressed.body(dressed.geom_bodyid[i]).name
        for i in set(range(dressed.ngeom)) - set(meshes(dressed))
        if dressed.geom_rgba[i, 3] > 0 and dressed.geom_group[i] < 3
    }
    assert seen == {"world", "object", "goal"}
    pad = dressed.geom("pad_finger_left")
    assert pad.rgba[3] == 0
    assert pad.contype[0] > 0


def test_meshes_are_where_the_model_has_them_in_every_posture(root):
    dressed, theirs, rng = (
        model("menagerie", "reach"),
        load_model(COUNTERPARTS["arm7"]),
        np.random.default_rng(1),
    )
    angles = {name: rng.uniform(*dressed.joint(name).range) for name in JOINTS}
    here = corners(dressed, angles)
    there = corners(theirs, {JOINTS[name]: angle for name, angle in angles.items()})
    assert len(here) == len(there) == 11
    for cloud in here:
        assert min(distance(cloud, other) for other in there) < 1e-6
    for cloud in there:
        assert min(distance(cloud, other) for other in here) < 1e-6


def corners(scene, angles):
    """Return the vertices of every visual mesh in the world."""
    data = mujoco.MjData(scene)
    for name, angle in angles.items():
        data.joint(name).qpos[0] = angle
    mujoco.mj_kinematics(scene, data)
    clouds = []
    for geom in meshes(scene):
        if scene.geom_contype[geom] == 0:
            start, count = (
                scene.mesh_vertadr[scene.geom_dataid[geom]],
                scene.mesh_vertnum[scene.geom_dataid[geom]],
            )
            local = scene.mesh_vert[start : start + count]
            clouds.append(data.geom_xpos[geom] + local @ data.geom_xmat[geom].reshape(3, 3).T)
    return clouds


def distance(cloud, other):
    return np.abs(cloud[:, None] - other).max(-1).min(1).max()


def test_frames_show_meshes_instead_of_primitives_and_the_same_table(folder):
    frames = {}
    for looks in LOOKS:
        env = SimEnv("pick_place", 1, image_px=48, looks=looks)
        env.reset([3])
        frames[looks] = env.frames()[0, 0].int()
        env.close()
    differs = (frames["primitives"] - frames["menagerie"]).abs().amax(-1) > 8
    assert 0.02 < differs.float().mean() < 0.6
    robot = frames["menagerie"][:12].flatten(
        0, 1
    )  # the upper edge, where the hand is; the cube is further down
    red = (robot[:, 0] > 2 * robot[:, 1]) & (robot[:, 0] > 2 * robot[:, 2])
    assert red.sum() > 20
    table = ~differs[-6:]
    assert table.float().mean() > 0.95


def test_a_diverged_world_of_a_dressed_and_varied_scene_is_replayed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings to a file in the current folder
    env = SimEnv("push", 1, looks="menagerie", randomisation="shifted", guard_folder=tmp_path / "diverged")
    env.reset([7])
    controller = EndEffectorController(1)
    controller.reset(env.joints())
    env._physics.field("qvel")[0, 9] = 1e200
    env.step(controller.command(controller.pose()))
    env.check()
    env.close()
    (saved,) = (tmp_path / "diverged").iterdir()
    assert replay(saved).diverged_at == 0


def test_frames_of_links_are_found_however_the_model_turns_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    write_panda(tmp_path, turned=True)
    theirs = load_model(COUNTERPARTS["arm7"])
    links = match_links(robot_of("arm7"), theirs, JOINTS)
    assert links[0].name == "link0"
    for i in range(1, 8):
        link = links[theirs.joint(f"joint{i}").bodyid[0]]
        cos, sin = np.cos(0.3 * i), np.sin(0.3 * i)
        expected = [[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0.01 * i], [0, 0, 0, 1]]
        assert link.name == f"link{i}"
        assert np.allclose(link.pose, expected, atol=1e-9)


def test_poses_of_bodies_are_those_of_mujoco(folder):
    theirs = load_model(COUNTERPARTS["arm7"])
    data = mujoco.MjData(theirs)
    data.qpos[:] = np.linspace(-0.3, 0.4, theirs.nq)
    mujoco.mj_forward(theirs, data)
    angles = {theirs.joint(i).name: data.qpos[i] for i in range(theirs.njnt)}
    assert np.array_equal(body_poses(theirs, angles), matrices(data.xpos, data.xmat))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name="link4" pos="0.0825', 'name="link4" pos="0.08251', "'link4'"),
        ('name="link4" pos="0.0825', 'name="link4" pos="0.0825015', "e-06 at our 'link4'"),
        ('<joint name="joint6"/>', '<joint name="joint6" axis="0 0 -1"/>', "'link6'"),
        ('<joint name="joint7"/>', '<joint name="joint7" pos="0.001 0 0"/>', "'link7'"),
        ('quat="0 0 0 1"', 'quat="0 0 0.01 1"', "'finger_right'"),
        ('<joint name="joint2"/>', '<joint name="panda_joint2"/>', "panda_joint2"),
        ('<joint name="joint2"/>', "", "joint1, joint3"),
        ('<body name="hand"', MORE + '<body name="hand"', "joint7, more"),
    ],
)
def test_other_kinematics_are_refused(folder, old, new, says):
    edit(folder, old, new)
    with pytest.raises(SimulationError) as caught:
        require_counterpart("arm7")
    assert says in str(caught.value)
    assert "looks=primitives" in caught.value.fix


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('file="link.obj"', 'file="../link.obj"'),
        ('file="link.obj"', 'file="sub/../../../link.obj"'),
        ('file="link.obj"', 'file="..\\..\\link.obj"'),
        ('file="link.obj"', 'file="/etc/hostname"'),
        ('meshdir="assets"', 'meshdir="../assets"'),
        ('meshdir="assets"', 'meshdir="/etc"'),
        ("<asset>", '<asset><texture type="cube" fileright="../../x.png"/>'),
        ("<asset>", '<asset><model name="m" file="../m.xml"/>'),
        ("<asset>", '<include file="../more.xml"/><asset>'),
        ("<asset>", '<include file="inner.xml"/><asset>'),
        ('file="link.obj"', 'file="linked.obj"'),
    ],
)
def test_no_path_leaves_the_folder_of_the_model(folder, old, new):
    (folder.parent / "link.obj").write_bytes((folder / "assets" / "link.obj").read_bytes())
    (folder.parent / "more.xml").write_text("<mujocoinclude/>")
    (folder / "assets" / "linked.obj").symlink_to(folder.parent / "link.obj")
    (folder / "inner.xml").write_text(
        '<mujocoinclude><asset><mesh file="../link.obj"/></asset></mujocoinclude>'
    )
    edit(folder, old, new)
    with pytest.raises(UnsafePathError) as caught:
        require_counterpart("arm7")
    assert str(folder) in str(caught.value)


def test_includes_and_subfolders_are_read(folder):
    (folder / "assets" / "visual").mkdir()
    (folder / "assets" / "link.obj").rename(folder / "assets" / "visual" / "link.obj")
    edit(folder, '<mesh file="link.obj"/>', "")
    edit(folder, "<asset>", '<include file="meshes.xml"/><asset>')
    (folder / "meshes.xml").write_text(
        '<mujocoinclude><asset><mesh file="visual/link.obj"/></asset></mujocoinclude>'
    )
    require_counterpart("arm7")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("</mujoco>", "", "panda.xml"),
        ('file="finger.stl"', 'file="gone.stl" name="finger"', "gone.stl"),
        ('<geom class="visual" mesh="hand"', '<geom class="visual" mesh="palm"', "palm"),
        ('joint3"/><geom class="visual"', 'joint3"/><geom class="collision"', "link3"),
        ('<material name="red"', FLAT + '<material name="red" texture="t"', "'red'"),
    ],
)
def test_a_damaged_model_is_named(folder, old, new, says):
    edit(folder, old, new)
    with pytest.raises(SimulationError, match=says):
        require_counterpart("arm7")


def test_a_missing_model_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    with pytest.raises(SimulationError, match="git clone") as caught:
        SimEnv("reach", 1, looks="menagerie")
    assert str(tmp_path) in str(caught.value)
    monkeypatch.delenv("MENAGERIE_ROOT")
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    with pytest.raises(
        SimulationError, match=r"neither MENAGERIE_ROOT nor the package .* \[menagerie\]|menagerie"
    ):
        SimEnv("reach", 1, looks="menagerie")


def test_the_package_is_asked_only_without_a_root(folder, tmp_path, monkeypatch):
    asked = []

    class MenagerieError(Exception):
        pass

    def get(name):
        asked.append(name)
        if len(asked) > 1:
            raise MenagerieError("no network")
        return SimpleNamespace(path=lambda: tmp_path / name)

    package = SimpleNamespace(get=get, MenagerieError=MenagerieError)
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", package)
    assert model_folder("franka_emika_panda") == folder
    assert not asked
    monkeypatch.delenv("MENAGERIE_ROOT")
    assert model_folder("franka_emika_panda") == folder
    assert asked == ["franka_emika_panda"]
    with pytest.raises(SimulationError, match="no network"):
        model_folder("franka_emika_panda")


def test_embodiments_without_a_model_are_told_which_have_one(folder):
    for embodiment in set(list_robots()) - {"arm7"}:
        with pytest.raises(UnknownNameError, match="Valid names: arm7"):
            require_counterpart(embodiment)
    with pytest.raises(UnknownNameError, match="menagerie, primitives"):
        SimEnv("reach", 1, looks="photos")
