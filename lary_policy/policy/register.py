"""Registers the package's policy and environment types with LeRobot; only configurations are imported here.

LeRobot imports `lerobot_policy_lary`, which imports this module, before it parses a command line. Whatever is
raised here it would log and forget ("invalid choice"), so that nothing heavy or optional may be imported.
"""

from __future__ import annotations
