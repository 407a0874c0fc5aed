"""Heads learn the same from latents on disk as from latents in memory, and memory stays flat."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from lary_policy.heads.config import load_head_config
from lary_policy.heads.files import HeadMeta
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import fit
from lary_policy.latents.bank import StoredLatents
from lary_policy.latents.store import LatentStore
from lary_policy.machine import made_ahead
from lary_policy.scores.classes import evaluate_class
from lary_policy.types import LatentSpec

IDS = [f"{n:064x}" for n in range(60)]


@pytest.fixture
def both(tmp_path):
    """Return samples in memory, and the same on disk."""
    g = torch.Generator().manual_seed(0)
    store = LatentStore(tmp_path, "0" * 16, LatentSpec("frame", 4, 8), packed=True)
    for part in range(0, 60, 16):
        store.write_shard(IDS[part : part + 16], torch.randn(len(IDS[part : part + 16]), 4, 8, generator=g))
    index, targets = torch.randint(60, (90, 2, 1), generator=g), torch.arange(90) % 3
    return [LatentBatches(bank, index, targets) for bank in (store.read(IDS), StoredLatents(store, IDS))]


def trained(samples, **changes):
    config = load_head_config("attentive-small")
    meta = HeadMeta(
        model=replace(config.model, width=16, num_heads=2), encoder="e", fingerprint="0" * 16,
        latent_shape=samples.latent_shape, cameras=("front",), embodiment="-", task="t", mode="atomic",
        target="class", token_grid=None, seed=0, class_names=("a", "b", "c"),
    )  # fmt: skip
    settings = replace(config.train, epochs=2, batch_size=16, device="cpu", **changes)
    head, result = fit(meta, samples, samples, settings)
    return head.state_dict(), [r.member_scores for r in result.history], evaluate_class(head, samples, "abc")


@pytest.mark.parametrize(
    "changes", [{}, {"balanced": True, "micro_batch": 5, "sweep": ((1e-3, 0.1), (3e-3, 0.1))}]
)
def test_weights_scores_and_answers_are_the_same_bit_for_bit(both, changes):
    (ready, ready_scores, ready_found), (lazy, lazy_scores, lazy_found) = (
        trained(s, **changes) for s in both
    )
    assert all(torch.equal(ready[name], lazy[name]) for name in ready)
    assert ready_scores == lazy_scores
    assert torch.equal(ready_found.logits, lazy_found.logits)
    assert both[0].digest() == both[1].digest()


def test_what_is_made_ahead_comes_in_order_and_errors_reach_the_loop():
    assert list(made_ahead(range(50), lambda i: i * i, 3)) == [i * i for i in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(made_ahead([1, 0, 1], lambda i: 1 / i, 2))


# One epoch on 96 MiB of latents, with batches of 2 MiB. Measured is the most that the process itself holds
# meanwhile; files that the system maps into memory, and takes back as it likes, are not counted.
PROBE = """
    import sys, threading, torch
    from pathlib import Path
    from torch import nn
    from lary_policy.latents import LatentStore
    from lary_policy.latents.bank import RamBudget, load_bank
    from lary_policy.heads import TrainConfig, action_objective
    from lary_policy.heads.training import LatentBatches, batches
    from lary_policy.heads.training.loop import train

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(512, 35)

        def forward(self, latents):
            return self.linear(latents.mean((1, 2, 3))).view(-1, 5, 7)

    def held():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    def watch():
        while not done.wait(0.01):
            seen.append(held())

    def epoch(bank, rows):
        samples = LatentBatches(bank, index[:rows], targets[:rows])
        train(Head(), samples, samples, action_objective(), TrainConfig(epochs=1, batch_size=8))

    batches._EVAL_BYTES["cpu"] = 2 << 20
    index = torch.arange(1536).view(-1, 2, 1)
    targets = torch.randn(768, 5, 7, generator=torch.Generator().manual_seed(0))
    ids = [f"{n:064x}" for n in range(1536)]
    store = LatentStore.open(Path(sys.argv[1]))
    epoch(store.read(ids[:32]), 16)  # all libraries are loaded
    before = held()
    touched = torch.ones(32 << 18)  # 32 MiB
    assert held() - before > 16, "this kernel does not report RssAnon as it grows"
    del touched
    seen, done = [held()], threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    bank = load_bank(store, ids, RamBudget(int(sys.argv[2])))
    epoch(bank, 768)
    done.set()
    watcher.join()
    print(max(seen) - seen[0], bank.nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize(("budget", "least", "most"), [(16 << 20, 0, 48), (1 << 30, 96, 1024)])
def test_memory_stays_flat_while_probing_a_store_larger_than_its_budget(tmp_path, budget, least, most):
    store = LatentStore(tmp_path, "0" * 16, LatentSpec("frame", 64, 512), packed=True)
    block = torch.randn(256, 64, 512, generator=torch.Generator().manual_seed(0))
    for part in range(6):
        store.write_shard([f"{n:064x}" for n in range(256 * part, 256 * part + 256)], block + part)
    command = [sys.executable, "-c", textwrap.dedent(PROBE), str(tmp_path), str(budget)]
    # What glibc keeps for each thread, up to 64 MiB, differs from run to run.
    one_arena = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=one_arena)
    if "does not report RssAnon" in done.stderr:
        pytest.skip("this kernel does not report RssAnon as it grows")
    assert done.returncode == 0, done.stderr
    grown, size = map(float, done.stdout.split())
    assert size == 96
    assert least <= grown < most, f"{grown:.0f} MiB more"
