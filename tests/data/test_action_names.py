"""Action layouts read from names: poses, grippers and joints of one arm or two."""

import pytest
import torch

from lary_policy.actions.embodiment import load_embodiment, register_embodiment
from lary_policy.data.lerobot.metadata import infer_embodiment, map_actions, read_name
from lary_policy.errors import EmbodimentError, UnknownNameError

POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@pytest.mark.parametrize(
    ("name", "arm", "part"),
    [
        ("x", "single", "x"),
        ("left_ee.pos.x", "left", "x"),
        ("eefPosX", "single", "x"),
        ("r_gripper", "right", "gripper"),
        ("right_hand_gripper_open.pos", "right", "gripper"),
        ("wrist_roll.pos", "single", "wrist_roll"),
        ("motor_3", "single", "motor_3"),
    ],
)
def test_names_say_arm_and_part(name, arm, part):
    meaning = read_name(name)
    assert (meaning.arm, meaning.part) == (arm, part)


def test_a_pose_with_gripper_is_that_of_arm7_but_for_its_name():
    found, arm7 = infer_embodiment(POSE, 20.0, title="t"), load_embodiment("arm7")
    assert [(g.kind, g.indices, g.convention, g.unit) for g in found.groups] == [
        (g.kind, g.indices, g.convention, g.unit) for g in arm7.groups
    ]


def test_an_arm_of_joints_has_joints_and_a_gripper():
    names = ("shoulder_pan.pos", "elbow_flex.pos", "wrist_roll.pos", "gripper.pos")
    groups = infer_embodiment(names, 30.0, title="t").groups
    assert {g.kind: g.labels for g in groups} == {"gripper": names[3:], "joint": names[:3]}


def test_two_arms_are_kept_apart_and_half_a_pose_is_joints():
    names = ("left_x", "left_y", "left_z", "left_qx", "left_qy", "left_qz", "left_qw", "right_x", "right_y")
    groups = {(g.arm, g.kind): g.indices for g in infer_embodiment(names, 30.0, title="t").groups}
    assert groups == {
        ("left", "position"): (0, 1, 2),
        ("left", "rotation"): (3, 4, 5, 6),
        ("right", "joint"): (7, 8),
    }


def test_relative_joints_are_differences_and_come_back():
    layout = infer_embodiment(("a", "b", "gripper"), 30.0, title="t")
    actions, anchor = torch.randn(4, 5, 3), torch.randn(4, 3)
    relative = layout.to_relative(actions, anchor)
    assert torch.allclose(relative[..., :2], actions[..., :2] - anchor[:, None, :2])
    assert torch.equal(relative[..., 2], actions[..., 2])
    assert torch.allclose(layout.to_absolute(relative, anchor), actions, atol=1e-6)


def test_numbers_are_found_by_meaning_in_any_order():
    mapping = map_actions(
        ("gripper", "eef_x", "eef_y", "eef_z", "eef_roll", "eef_pitch", "eef_yaw"), 20.0,
        embodiment="arm7", action_names=None, title="t",
    )  # fmt: skip
    assert mapping.columns == (1, 2, 3, 4, 5, 6, 0)
    assert mapping.pick(torch.arange(7.0)).tolist() == [1, 2, 3, 4, 5, 6, 0]
    assert "x = eef_x" in mapping.describe()


def test_unnamed_numbers_are_taken_in_order_but_other_names_never():
    def to_arm7(names):
        return map_actions(names, 20.0, embodiment="arm7", action_names=None, title="t")

    assert to_arm7([f"action_{i}" for i in range(7)]).columns == tuple(range(7))
    with pytest.raises(EmbodimentError, match="action_names"):
        to_arm7([f"joint_{i}" for i in range(7)])


def test_explicit_names_choose_and_order():
    names = ("a", "b", *POSE)
    mapping = map_actions(names, 20.0, embodiment="arm7", action_names=POSE, title="t")
    assert mapping.columns == tuple(range(2, 9))
    with pytest.raises(EmbodimentError, match="nope"):
        map_actions(names, 20.0, embodiment="arm7", action_names=(*POSE[:6], "nope"), title="t")
    with pytest.raises(UnknownNameError, match="arm7"):
        map_actions(names, 20.0, embodiment="arm8", action_names=None, title="t")


def test_inferred_layouts_are_known_by_name_and_never_change_under_it():
    mapping = map_actions(("p", "q"), 20.0, embodiment=None, action_names=None, title="registered")
    name = mapping.embodiment.name
    assert load_embodiment(name) == mapping.embodiment
    with pytest.raises(EmbodimentError, match="another name"):
        register_embodiment(type(mapping.embodiment)(name, mapping.embodiment.groups, 5.0))
