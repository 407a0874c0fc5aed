from .piper import PADDLE_HALF_M as PADDLE_HALF_M
from .robot import OVERVIEW as OVERVIEW
from .robot import Gripper as Gripper
from .robot import Robot as Robot
from .robot import list_robots as list_robots
from .robot import register_robot as register_robot
from .robot import robot_of as robot_of
