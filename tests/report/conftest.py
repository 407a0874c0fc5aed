"""Fixtures of the report tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lary_policy.report.bundle import ReportBundle
from lary_policy.report.parts import ConstantDimension, EpisodeFailure, Video
from lary_policy.types import Quarantined

from .synthetic import all_scores, confusions, trajectories, write_mp4


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    write_mp4(root / "videos" / "reach.mp4")
    return root


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., ReportBundle]:
    def make(**changes: object) -> ReportBundle:
        videos = (
            Video("videos/reach.mp4", "reach: 4 episodes, 2 x 2.", (1, 2, 3, 4), (True, True, False, True)),
            Video("videos/gone.mp4", "pick_place, policy, dinov2-small: 4 episodes, 2 x 2."),
        )
        base: dict[str, object] = {
            "title": "lary report",
            "suite": "quick",
            "scores": all_scores(),
            "trajectories": trajectories(),
            "confusions": confusions(),
            "videos": videos,
            "quarantined": (Quarantined("images/ep_3/frame_15.png", "truncated PNG", "extract"),),
            "inputs_checked": 1840,
            "failures": (
                EpisodeFailure(
                    "pixels", "random", "reach", "policy", "out_of_range_action", (9003, 9017), 50
                ),
            ),
            "constant_dims": (ConstantDimension("reach", "absolute", "gripper", 1.0),),
            "stage_seconds": {
                "data": 212.4,
                "extract": 143.0,
                "probe": 301.2,
                "rollout": 388.9,
                "report": 9.1,
            },
            "environment": {
                "python": "3.12.3",
                "torch": "2.11.0",
                "device": "cpu, 2 cores",
                "git": "0d1c217",
                "seeds": "0",
            },
            "config_yaml": "suite: quick\ntasks:\n- reach\n- pick_place\nimage_px: 112\n",
        }
        return ReportBundle(**(base | changes))  # type: ignore[arg-type]

    return make
