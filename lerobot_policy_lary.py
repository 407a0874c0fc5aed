"""Imported by LeRobot's plugin discovery; registrations of policies and envs hang here."""

import lary_policy as lary_policy
