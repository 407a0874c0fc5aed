"""What a robot is, and the registry of robots: one module in `lary_envs/robots` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lary_envs.kinematics import SerialChain
from lary_envs.scene import CameraPlace, Vec3
from lary_policy.errors import SimulationError, look_up
from lary_policy.paths import import_modules

if TYPE_CHECKING:
    import mujoco


@dataclass(frozen=True)
class Gripper:
    """A parallel gripper."""

    fingers: tuple[str, str]  # joint names; the first finger is actuated, the second mirrors it
    open_m: float  # travel of one finger, metres


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm of a robot."""

    side: str  # `single`, `left` or `right`, as in the embodiment's action groups
    chain: SerialChain  # its kinematics
    joints: tuple[str, ...]  # joint names from base to tool; actuators have the same names
    gripper: Gripper | None  # its gripper, or None
    workspace_m: tuple[Vec3, Vec3]  # low and high corner of the box (world frame) in which every task happens


OVERVIEW = "overview"  # name of a camera


@dataclass(frozen=True, eq=False)
class Robot:
    """A robot, its cameras and how to build it."""

    name: str  # name of the robot
    embodiment: str  # name of its action layout
    arms: tuple[Arm, ...]  # its arms, left before right
    # Adds materials, bodies and wrist cameras to a scene, and actuators in the order of `ctrl`: for each arm
    # its joints, then its first finger
    build: Callable[[mujoco.MjSpec], None]
    cameras: Mapping[str, CameraPlace]  # fixed cameras by name, world frame
    wrist_cameras: tuple[str, ...]  # names of the cameras that `build` mounts on the hands
    # Contacts and constraint rows a world may need (`nconmax`, `njmax` of MuJoCo Warp)
    contacts: tuple[int, int]
    overview: CameraPlace  # of the camera `overview`, which shows the whole robot and its table: for films
    table_near_m: float = -0.2  # x of the table's edge towards the robot

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of all cameras that a policy may see; films look through `OVERVIEW`."""
        return (*self.cameras, *self.wrist_cameras)

    @property
    def sides(self) -> tuple[str, ...]:
        """Which arms there are, in order."""
        return tuple(arm.side for arm in self.arms)

    @property
    def num_actuators(self) -> int:
        """Length of `ctrl`."""
        return sum(len(arm.joints) + (arm.gripper is not None) for arm in self.arms)


_ROBOTS: dict[str, Robot] = {}


def register_robot(robot: Robot) -> Robot:
    """Register a robot for its embodiment.

    Raises:
        SimulationError: The embodiment has a robot already.
    """
    if robot.embodiment in _ROBOTS:
        raise SimulationError(
            expected="one robot for an embodiment",
            got=f"'{robot.name}' and '{_ROBOTS[robot.embodiment].name}' for '{robot.embodiment}'",
            fix="Give the second robot an embodiment of its own in configs/embodiment.",
        )
    _ROBOTS[robot.embodiment] = robot
    return robot


def list_robots() -> tuple[str, ...]:
    """Return the embodiments that have a robot: every module in `lary_envs/robots` registers one."""
    import_modules("lary_envs.robots", packages=True)
    return tuple(sorted(_ROBOTS))


def robot_of(embodiment: str) -> Robot:
    """Return the robot of an embodiment.

    Raises:
        UnknownNameError: No robot has this action layout; the message lists those that exist.
    """
    list_robots()
    return look_up("embodiment with a simulated robot", embodiment, _ROBOTS)
