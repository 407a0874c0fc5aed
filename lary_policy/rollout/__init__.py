"""Closed loop: a trained head drives simulated robots from pixels."""

from lary_policy.rollout.agents import Agent, ExpertAgent, HeadAgent, Observation
from lary_policy.rollout.rollout import EpisodeFrames, RolloutResult, run_episodes
from lary_policy.rollout.video import tile_video
from lary_policy.rollout.waves import Wave, run_waves

__all__ = [
    "Agent",
    "EpisodeFrames",
    "ExpertAgent",
    "HeadAgent",
    "Observation",
    "RolloutResult",
    "Wave",
    "run_episodes",
    "run_waves",
    "tile_video",
]
