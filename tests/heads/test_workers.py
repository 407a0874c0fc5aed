import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lary_policy.heads.objective import share_of
from lary_policy.heads.training.workers import SingleWorker, open_workers
from lary_policy.machine import is_main_process

KINDS = ("mlp", "dit", "probe", "sweep")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """How training in two processes differs from one, by kind of head."""
    path = tmp_path_factory.mktemp("workers") / "found.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [*launcher, str(script), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_processes_are_those_of_one(found, kind):
    """Batches that do not divide evenly and random noise included."""
    assert found[kind]["same parameters have gradients"]
    assert found[kind]["gradient"] < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_of_two_processes_end_at_the_weights_of_one(found, kind):
    longer = found[f"{kind}/epochs"]
    assert longer["weight"] < 1e-3  # of the order of a step of 1e-2
    assert longer["score"] < 1e-4
    assert longer["loss"] < 1e-5
    assert len(set(longer["losses"])) == 3


def test_d12_the_diffusion_loss_is_synchronised_over_processes(found):
    """The reference computes it on the unwrapped module: each of its processes trains a DiT of its own."""
    assert found["dit"]["gradient"] < 1e-5
    assert found["dit/epochs"]["weight"] < 1e-3


def test_without_a_launcher_there_is_one_worker(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    workers = open_workers("cpu")
    head = torch.nn.Linear(1, 1)
    assert isinstance(workers, SingleWorker)
    assert (workers.rank, workers.count, workers.wrap(head)) == (0, 1, head)
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


@pytest.mark.parametrize(("total", "count"), [(7, 2), (1, 2), (8, 4), (5, 8)])
def test_weighted_means_over_shares_are_the_mean_over_samples(total, count):
    values = torch.randn(total, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = [share_of(total, rank, count) for rank in range(count)]
    mean = sum(values[s.positions].mean() * s.weight for s in shares) / count
    torch.testing.assert_close(mean, values.mean())
    counted = torch.cat([s.positions for s in shares if s.weight])
    assert counted.sort().values.tolist() == list(range(total))
    drawn = torch.cat([s.draw(torch.arange) for s in shares if s.weight])
    assert drawn.sort().values.tolist() == list(range(total))
