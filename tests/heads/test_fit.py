"""What is refused before a training starts."""

from dataclasses import replace

import pytest

from lary_policy import machine
from lary_policy.errors import TrainingError
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.training import fit

CONFIG = TrainConfig(1, 32, 3e-3, 1e-2, 0.1, "cosine", precision="float32")


@pytest.mark.parametrize(("free_kb", "fits"), [(10_000_000, True), (20, False)])
def test_a_head_that_does_not_fit_into_memory_is_refused(planted, meta, free_kb, fits, tmp_path, monkeypatch):
    """Told before it starts: the kernel would end the process without a word."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free_kb} kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    model = ActionExpertConfig(64, 1, PoolConfig("flatten"))
    meta = replace(meta, model=model, chunk=2, action_dim=3, stats=None, proprio_stats=None, contract=None)
    if fits:
        assert fit(meta, *planted, CONFIG)[1].best_epoch == 1
        return
    with pytest.raises(TrainingError, match=r"GB of free memory for 0 million parameters; got 0 GB"):
        fit(meta, *planted, CONFIG)
