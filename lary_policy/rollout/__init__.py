"""Closed loop: a trained head drives simulated robots from pixels."""

from __future__ import annotations

from lary_policy.rollout.agents import Agent, ExpertAgent, HeadAgent, Observation
from lary_policy.rollout.film import Clip, Film, tile_video
from lary_policy.rollout.loop import RolloutResult, run_episodes
from lary_policy.rollout.policy_agent import PolicyAgent
from lary_policy.rollout.waves import Wave, run_waves
from lary_policy.rollout.world import Controller, Described, World

__all__ = [
    "Agent",
    "Clip",
    "Controller",
    "Described",
    "ExpertAgent",
    "Film",
    "HeadAgent",
    "Observation",
    "PolicyAgent",
    "RolloutResult",
    "Wave",
    "World",
    "run_episodes",
    "run_waves",
    "tile_video",
]
