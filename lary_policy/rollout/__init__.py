"""Closed loop: a trained head drives simulated robots from pixels."""

from __future__ import annotations

from lary_policy.rollout.agents import Agent, ExpertAgent, HeadAgent, Observation
from lary_policy.rollout.film import tile_video
from lary_policy.rollout.loop import EpisodeFrames, RolloutResult, run_episodes
from lary_policy.rollout.policy_agent import PolicyAgent
from lary_policy.rollout.waves import Wave, run_waves

__all__ = [
    "Agent",
    "EpisodeFrames",
    "ExpertAgent",
    "HeadAgent",
    "Observation",
    "PolicyAgent",
    "RolloutResult",
    "Wave",
    "run_episodes",
    "run_waves",
    "tile_video",
]
