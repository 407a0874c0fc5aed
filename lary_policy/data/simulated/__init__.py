"""Simulated tasks as sources: collected, stored, replayed."""

from __future__ import annotations

from lary_policy.data.simulated.collect import (
    DENSE,
    FIRST_SEED,
    GOALS,
    SPLITS,
    collect_demonstrations,
    seeds_of,
)
from lary_policy.data.simulated.publish import DemonstrationReport, complete, layout_of, report_on, reuse
from lary_policy.data.simulated.recorder import EpisodeJob, Recording, png_bytes
from lary_policy.data.simulated.replay import ReplayCheck, Replayed, read_settings, replay_episodes
from lary_policy.data.simulated.scene import Scene
from lary_policy.data.simulated.source import SimulatedSource, collect_dense, collect_goals, collect_splits
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.simulated.writer import (
    DemonstrationLayout,
    EpisodeRecord,
    read_episodes,
    records_from_json,
    write_episode,
)

__all__ = [
    "DENSE",
    "FIRST_SEED",
    "GOALS",
    "SPLITS",
    "DemonstrationLayout",
    "DemonstrationReport",
    "EpisodeJob",
    "EpisodeRecord",
    "Recording",
    "ReplayCheck",
    "Replayed",
    "Scene",
    "SimulatedSource",
    "collect_demonstrations",
    "collect_dense",
    "collect_goals",
    "collect_splits",
    "complete",
    "layout_of",
    "png_bytes",
    "read_episodes",
    "read_settings",
    "records_from_json",
    "replay_episodes",
    "report_on",
    "reuse",
    "seeds_of",
    "verify_dataset",
    "write_episode",
]
