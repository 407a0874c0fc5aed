"""Simulated tasks as sources: collected, stored, replayed."""

from __future__ import annotations

from lary_policy.data.simulated.collect import collect_demonstrations
from lary_policy.data.simulated.episodes import EpisodeRecord, read_episodes, records_from_json
from lary_policy.data.simulated.publish import DemonstrationReport, complete, layout_of, report_on, reuse
from lary_policy.data.simulated.recorder import EpisodeJob, Recording, png_bytes
from lary_policy.data.simulated.replay import ReplayCheck, read_settings, replay
from lary_policy.data.simulated.verify import verify_dataset
from lary_policy.data.simulated.writer import DemonstrationLayout, write_episode

__all__ = [
    "DemonstrationLayout",
    "DemonstrationReport",
    "EpisodeJob",
    "EpisodeRecord",
    "Recording",
    "ReplayCheck",
    "collect_demonstrations",
    "complete",
    "layout_of",
    "png_bytes",
    "read_episodes",
    "read_settings",
    "records_from_json",
    "replay",
    "report_on",
    "reuse",
    "verify_dataset",
    "write_episode",
]
