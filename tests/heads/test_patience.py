"""When a training stops early, and that heads which train side by side learn what they learn alone."""

import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch
from torch import nn

from lary_policy.errors import ConfigError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.objective import Objective, action_objective
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module
from lary_policy.heads.training import loop
from lary_policy.heads.training.loop import train
from lary_policy.machine import abreast, intra_op_threads, leave_if_asked

CONFIG = TrainConfig(6, 32, 3e-3, 1e-2, 0.1, "cosine", precision="float32", seed=3)


class Drifting(nn.Module):
    """One weight that grows by 0.1 an epoch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, latents):
        return self.weight


def drift(planted, path=None, **changes):
    """Train towards 0.35, which epoch 3 or 4 comes nearest to."""

    def score(head, batch):
        return (head.weight.detach() - 0.35).abs().expand(len(batch.targets))

    objective = Objective("distance", lambda head, batch: -head(batch.latents).sum(), score)
    config = TrainConfig(12, 300, 0.1, 0.0, 0.0, "constant", precision="float32")
    return train(Drifting(), *planted, objective, replace(config, **changes), checkpoint=path)


def test_training_stops_when_val_has_not_improved_for_so_many_epochs(planted):
    whole, early = drift(planted), drift(planted, patience=3)
    assert len(whole.history) == 12
    assert early.best_epoch == whole.best_epoch
    assert [r.val_score for r in early.history] == [r.val_score for r in whole.history][
        : early.best_epoch + 3
    ]
    assert len(drift(planted, patience=3, select="last").history) == 12


def test_one_that_stopped_is_not_trained_on(planted, tmp_path):
    first = drift(planted, tmp_path / "t.safetensors", patience=2)
    again = drift(planted, tmp_path / "t.safetensors", patience=2)
    assert first.history == again.history


def test_patience_of_no_epoch_is_refused():
    with pytest.raises(ConfigError, match="patience"):
        TrainConfig(patience=0)


def test_a_checkpoint_that_takes_long_is_written_seldom_and_at_the_end(planted, tmp_path, monkeypatch):
    written, save = [], loop.save_progress

    def slow(path, wanted, progress, *rest):
        written.append(progress.epoch)
        time.sleep(0.06)
        save(path, wanted, progress, *rest)

    monkeypatch.setattr(loop, "save_progress", slow)
    drift(planted, tmp_path / "t.safetensors")
    assert written == [1, 12]


def test_heads_abreast_learn_what_each_learns_alone(planted):
    def run(seed):
        with intra_op_threads(1):
            model = ActionExpertConfig(16, 1, PoolConfig("project", width=4))
            head = build_module(model, (2, 1, 4, 8), chunk=2, action_dim=3, seed=seed)
            train(head, *planted, action_objective(), replace(CONFIG, seed=seed))
            return head.state_dict()

    alone = [run(seed) for seed in range(4)]
    together = abreast([lambda s=seed: run(s) for seed in range(4)], 2)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_that_fails_ends_the_others():
    left, started = [], threading.Event()

    def fails():
        started.wait(5)
        raise ZeroDivisionError

    def works():
        started.set()
        try:
            for _ in range(500):
                time.sleep(0.01)
                leave_if_asked()
        except CancelledError:
            left.append(True)
            raise

    with pytest.raises(ZeroDivisionError):
        abreast([fails, works, works], 2)
    assert left  # whoever had begun
