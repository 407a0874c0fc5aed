"""`invariance`: how much a latent changes with the looks of a scene, relative to its state; no head.

For initial states s of `STATES` episodes, with z_s the latent in the plain scene (all tokens and cameras,
less the mean over states) and z'_s that of the same state in other colours, light, textures, sizes and camera
poses:

    invariance = mean_s d(z_s, z'_s) / mean_{s != t} d(z_s, z_t),   d = 1 - cosine

0 ignores looks, 1 confuses them with other states. `invariance/train` are looks as `randomisation=train`
draws them; `invariance` itself those of `shifted`, outside that range. A score of this kind complements
action scores over 23 encoders from simulation to reality (arXiv 2501.16389).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lary_policy.data.simulated import seeds_of
from lary_policy.runs.questions.registry import Question, register_question
from lary_policy.runs.questions.state import with_scene
from lary_policy.scores import Metric, SampleScores, Score, bootstrap_ratio_ci, register_metric

if TYPE_CHECKING:
    from lary_policy.runs.context import RunContext, RunData
    from lary_policy.runs.probe import Probing

VERSION = 1  # raised when the same inputs give another answer
STATES = 24  # enough that the ratio's interval is a few hundredths wide; seconds to draw
_LEVELS = {"invariance": "shifted", "invariance/train": "train"}  # metric -> level of randomisation


def invariance_terms(plain: Tensor, other: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each state's distance to itself under other looks, and its mean distance to other states.

    Args:
        plain: Latents `[S D]`, S >= 2, a state each.
        other: Latents `[S D]` of the same states under other looks.
    """
    mean = plain.mean(0)
    first, second = (F.normalize(one.double() - mean, dim=1) for one in (plain, other))
    apart = 1 - first @ first.T
    between = apart.sum(1) / (len(plain) - 1)
    return (1 - (first * second).sum(1)).numpy(), between.numpy()


def run_invariance(probing: Probing) -> dict[str, Any]:
    """Draw the same states in several looks, encode them and compare."""
    from lary_policy.runs.encode import encoder_of

    started = time.perf_counter()
    job, context = probing.job, probing.context
    encoder = encoder_of(context, job.data, job.view)
    seeds = seeds_of("test", STATES)
    latents = {}
    for level in ("none", *_LEVELS.values()):
        frames = _drawn(context, job.data, level, seeds).flatten(0, 1)
        encoded = [encoder.encode(some[:, None]).float().cpu() for some in frames.split(STATES)]
        latents[level] = torch.cat(encoded).reshape(len(seeds), -1)
    scores, samples = [], {}
    for metric, level in _LEVELS.items():
        own, between = invariance_terms(latents["none"], latents[level])
        estimate = bootstrap_ratio_ci(own, between, seeds)
        score = Score.of(
            estimate, stage="probe", encoder=job.view.label, head=job.probe.head.label,
            embodiment=job.data.spec.embodiment or "-", task=job.data.name, mode=job.probe.mode,
            target=job.probe.target, metric=metric, n=len(seeds), split="test", seed=job.seed,
            protocol=job.data.protocol, fingerprint=encoder.fingerprint,
            seconds=time.perf_counter() - started,
        )  # fmt: skip
        scores.append(score.to_dict())
        if metric == "invariance":
            names = tuple(map(str, seeds))
            found = SampleScores(metric, names, names, tuple((own / between.mean()).tolist()))
            samples["test"] = found.to_dict()
    seconds = time.perf_counter() - started
    return {**probing.facts([]), "scores": scores, "samples": samples, "seconds": seconds}


def _drawn(context: RunContext, data: RunData, level: str, seeds: list[int]) -> Tensor:
    """Return uint8 frames `[S c h w 3]` of initial states in looks of a level."""
    env = with_scene(data).world(
        len(seeds), render_device=context.device, physics="mujoco", randomisation=level
    )
    try:
        env.reset(seeds)
        return env.frames()
    finally:
        env.close()


def of_looks(context: RunContext, data: RunData) -> tuple[Any, ...]:
    """Return what the answer depends on."""
    return VERSION, STATES, data.name, data.spec.cameras, context.config.image_px, context.config.looks


register_metric(Metric("invariance", "change with looks, of that with states", False, order=14))
register_question(
    Question(
        "invariance",
        "invariance to looks",
        "looks",
        run_invariance,
        of_looks,
        asks=None,
        targets=("looks",),
        of_frames=True,
    )
)
