"""LeRobot datasets as sources, and what is written as one."""

from __future__ import annotations

from lary_policy.data.lerobot.files import LeRobotFiles
from lary_policy.data.lerobot.frames import EpisodeFrames, bounds, episode_frames
from lary_policy.data.lerobot.from_lerobot import import_demonstrations
from lary_policy.data.lerobot.metadata import feature_names, is_camera, is_depth, require_format
from lary_policy.data.lerobot.source import LeRobotSource
from lary_policy.data.lerobot.to_lerobot import export_demonstrations
from lary_policy.data.lerobot.verify import EXPORT_CHECKSUMS
from lary_policy.data.lerobot.view import ABOUT, LeRobotAbout, view_content, write_view

__all__ = [
    "ABOUT",
    "EXPORT_CHECKSUMS",
    "EpisodeFrames",
    "LeRobotAbout",
    "LeRobotFiles",
    "LeRobotSource",
    "bounds",
    "episode_frames",
    "export_demonstrations",
    "feature_names",
    "import_demonstrations",
    "is_camera",
    "is_depth",
    "require_format",
    "view_content",
    "write_view",
]
