"""LeRobot datasets as sources, and what is written as one."""

from __future__ import annotations

from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.frames import EpisodeFrames, bounds, episode_frames
from lary_policy.data.lerobot.from_lerobot import import_demonstrations
from lary_policy.data.lerobot.to_lerobot import export_demonstrations
from lary_policy.data.lerobot.view import LeRobotAbout, write_view

__all__ = [
    "EpisodeFrames",
    "LeRobotAbout",
    "LeRobotFiles",
    "bounds",
    "episode_frames",
    "export_demonstrations",
    "import_demonstrations",
    "write_view",
]
