"""Imported by LeRobot's plugin discovery: registers the policy and environment types."""

import lary_policy.policy.register as register

__all__ = ["register"]
