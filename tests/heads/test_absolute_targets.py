"""What absolute targets reward: appearance that tells the pose, not what the action changes."""

from dataclasses import replace

import pytest
import torch

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.actions.targets import build_targets
from lary_policy.cli.compose import compose
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import fit, predict
from lary_policy.runs.config import DEFAULT_TARGETS, run_config


@pytest.fixture
def reaches():
    """Episodes of an arm7 whose pose can be told from any frame, but whose motion cannot."""
    g = torch.Generator().manual_seed(0)
    pose = 0.3 * torch.randn(400, 7, generator=g)
    steps = 0.02 * torch.randn(400, 5, 7, generator=g).cumsum(1)
    return pose, pose[:, None] + steps


def explained(meta, latents, targets):
    """Return R² of a small head on the last quarter of the samples."""
    stats = ActionStats.fit(targets[:300])
    scaled = stats.normalise(targets).float()
    index = torch.arange(400).view(-1, 1, 1)
    train, val = (LatentBatches(latents, index[part], scaled[part]) for part in (slice(300), slice(300, 400)))
    meta = replace(
        meta, model=ActionExpertConfig(64, 1, PoolConfig("flatten")), latent_shape=train.latent_shape,
        proprio_stats=None, stats=stats, mode="pair", token_grid=None, chunk=targets.shape[1],
    )  # fmt: skip
    head, _ = fit(meta, train, val, TrainConfig(30, 64, 3e-3, precision="float32"))
    error = (predict(head, val) - scaled[300:]).square().sum()
    return 1 - float(error / (scaled[300:] - scaled[300:].mean(0)).square().sum())


def test_d9_a_static_pose_explains_absolute_targets_and_no_relative_ones(meta, reaches):
    """Defect D9: the reference's numbers are of absolute poses alone."""
    pose, actions = reaches
    embodiment = load_embodiment("arm7")
    latents = pose[:, None].clone()  # one token that says where the arm is, nothing of where it goes
    absolute, relative = (build_targets(name, actions, pose, embodiment) for name in ("absolute", "relative"))
    assert explained(meta, latents, absolute) > 0.6
    assert explained(meta, latents, relative) < 0.1


def test_d9_native_runs_put_relative_targets_beside_absolute_ones():
    assert DEFAULT_TARGETS["native"] == ("absolute", "relative")
    config = run_config(compose("suite", ["source=calvin"]))
    for protocol, targets in DEFAULT_TARGETS.items():
        found = {probe.target for probe in config.probes_for(protocol, ("actions",), "pairs")}
        assert found == set(targets)
