"""Registers the package's policy and environment types with LeRobot; only configurations are imported here.

LeRobot imports `lerobot_policy_lary`, which imports this module, before it parses a command line. Whatever is
raised here it would log and forget ("invalid choice"), so that nothing heavy or optional may be imported.
"""

from __future__ import annotations

import importlib
import logging
import sys

# Our configurations by the module of LeRobot that defines what they subclass.
CONFIGURATIONS = {
    "lerobot.configs": ("lary_policy.policy.configuration_lary",),
    "lerobot.envs.configs": ("lary_envs.gym.lerobot",),
    "lerobot.policies": ("lary_policy.policy.drop_in.configuration_drop_in",),
}


class _OneLine(logging.Filter):
    """Lets LeRobot say once and in one line that torchcodec cannot be loaded; it takes a hundred, twice."""

    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is said; that of torchcodec is shortened."""
        if "'torchcodec' is installed but cannot be loaded" not in record.getMessage():
            return True
        record.msg, record.args = "torchcodec cannot be loaded here; videos are decoded with PyAV.", ()
        first, self.said = not self.said, True
        return first


def register() -> None:
    """Import the configurations that the running program can use.

    That is all of them, except in tools of LeRobot without policies: `lerobot.policies` takes seconds to
    import, and `lerobot-calibrate` shall not wait for it because this package is installed. LeRobot's tools
    import what they parse before they look for plugins.
    """
    in_tool = any(name.startswith("lerobot.scripts.") for name in sys.modules)
    for theirs, ours in CONFIGURATIONS.items():
        if theirs in sys.modules or not in_tool:
            for name in ours:
                importlib.import_module(name)


logging.getLogger("lerobot.utils.import_utils").addFilter(_OneLine())
register()
