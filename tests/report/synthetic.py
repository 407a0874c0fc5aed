"""A synthetic report with the shape of a real quick suite: three encoders, two tasks, both modes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from lary_policy.report.parts import Confusion, Trajectory
from lary_policy.scores.score import Score

ENCODERS = ("pixels", "efficientnet-lite0", "dinov2-small")
HEAD = "mlp512-project32"
DIMS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
MSE = {"pixels": 0.52, "efficientnet-lite0": 0.40, "dinov2-small": 0.31}
SUCCESS = {"pixels": 0.22, "efficientnet-lite0": 0.44, "dinov2-small": 0.56}
PRIMITIVES = ("+x", "-x", "+y", "-y", "+z", "-z", "+x+y", "-x-y", "Open", "Close")


def score(**changes: object) -> Score:
    base = Score(
        stage="probe",
        encoder="pixels",
        head=HEAD,
        embodiment="arm7",
        task="reach",
        mode="pair",
        target="relative",
        metric="mse",
        value=0.5,
        ci95=(0.45, 0.55),
        n=800,
        split="test",
        seed=0,
        protocol="native",
        fingerprint="f00d",
        seconds=3.2,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def wilson(rate: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(float(centre - half), rate)), min(1.0, max(float(centre + half), rate))


def probe_scores(task: str, mode: str, mse: dict[str, float], half: float = 0.02) -> list[Score]:
    found = []
    for encoder, value in mse.items():
        same = {"encoder": encoder, "task": task, "mode": mode, "fingerprint": f"fp-{encoder}"}
        for target, factor in (("absolute", 0.3), ("relative", 1.0)):
            parts = {"mse": 1.0, "mse/position": 0.8, "mse/orientation": 1.3, "mse/gripper": 0.4}
            parts |= {"rmse_cm/position": 4.0, "deg/orientation": 9.0}
            for metric, scale in parts.items():
                v, h = value * factor * scale, half * factor * scale
                found.append(score(**same, target=target, metric=metric, value=v, ci95=(v - h, v + h)))
    return found


def rollout_scores(task: str, mode: str, success: dict[str, float], n: int = 50) -> list[Score]:
    found = []
    rows = [(e, HEAD, v) for e, v in success.items()]
    rows += [(e, "random", 0.0) for e in success] + [("-", "expert", 1.0)]
    for encoder, head, rate in rows:
        for metric, value in (("success", rate), ("success_at_end", max(0.0, rate - 0.04))):
            same = {"stage": "rollout", "encoder": encoder, "head": head, "task": task, "mode": mode}
            same |= {"n": n, "split": "seeds 9000-9049", "fingerprint": f"fp-{encoder}"}
            found.append(score(**same, metric=metric, value=value, ci95=wilson(value, n)))
    return found


def atomic_scores(task: str) -> list[Score]:
    found = []
    for encoder, value in {"pixels": 0.61, "efficientnet-lite0": 0.74, "dinov2-small": 0.79}.items():
        for metric, drop in (("top1", 0.0), ("top1_macro", 0.09)):
            same = {
                "encoder": encoder,
                "task": task,
                "mode": "atomic",
                "target": "class",
                "head": "attentive768",
            }
            v = value - drop
            found.append(
                score(**same, metric=metric, value=v, ci95=(v - 0.04, v + 0.03), fingerprint=f"fp-{encoder}")
            )
    return found


def all_scores() -> list[Score]:
    shift = {"reach": (0.8, 0.38), "pick_place": (1.0, 0.0)}
    found: list[Score] = []
    for task, (factor, bonus) in shift.items():
        for mode, extra in (("pair", 1.0), ("policy", 1.7)):
            found += probe_scores(task, mode, {e: v * factor * extra for e, v in MSE.items()})
        found += atomic_scores(task)
        for mode, cut in (("subgoal", 0.0), ("policy", 0.2)):
            rates = {e: round(max(0.0, min(1.0, v + bonus - cut)), 2) for e, v in SUCCESS.items()}
            found += rollout_scores(task, mode, rates)
    return found


def trajectories() -> list[Trajectory]:
    rng = np.random.default_rng(0)
    found = []
    for task, mode in (("reach", "pair"), ("pick_place", "policy")):
        steps = np.linspace(0, 3, 60)
        true = np.stack([np.sin(steps * (i + 1) / 2 + i) * 0.1 for i in range(7)], axis=1)
        true[:, 6] = steps > 1.5
        for encoder, noise in (("pixels", 0.03), ("efficientnet-lite0", 0.015), ("dinov2-small", 0.01)):
            predicted = true + rng.normal(0, noise, true.shape)
            units = ("m", "m", "m", "rad", "rad", "rad", "")
            found.append(Trajectory(encoder, task, mode, "relative", "412", DIMS, true, predicted, units))  # type: ignore[arg-type]
    return found


def confusions() -> list[Confusion]:
    rng = np.random.default_rng(1)
    size = len(PRIMITIVES)
    found = []
    for encoder, sharp in (("pixels", 6), ("efficientnet-lite0", 14), ("dinov2-small", 30)):
        counts = rng.poisson(1.0 + sharp * np.eye(size)) * (np.arange(size)[:, None] != 7)
        found.append(Confusion(encoder, "pick_place", PRIMITIVES, tuple(map(tuple, counts.tolist()))))
    return found


def write_mp4(path: Path, frames: int = 12, px: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, px, dtype=np.uint8)
    movie = np.stack([np.roll(np.tile(ramp, (px, 1)), 4 * i, axis=1) for i in range(frames)])
    iio.imwrite(path, np.repeat(movie[..., None], 3, axis=-1), fps=20, codec="libx264")
    return path
