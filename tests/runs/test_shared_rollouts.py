"""The episodes of a cell shared by processes: the same cell, equal to the last bit."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lary_policy import cli
from lary_policy.errors import ConfigError
from lary_policy.runs.collect import open_task
from lary_policy.runs.context import RunContext
from lary_policy.runs.rollout import loops_of, run_rollout, run_rollouts


class Pickled:
    """A crew of two that does all in this process, with what processes would be sent."""

    count = 2

    def each(self, run, batches):
        for batch in batches:
            yield pickle.loads(pickle.dumps(run))(pickle.loads(pickle.dumps(batch)))


def forget(tiny) -> None:
    for cell in tiny.cells("rollout"):
        (cell / "result.json").unlink()


def episodes(tiny) -> dict[str, list[dict]]:
    """Return what the episodes of each cell were, by its folder."""
    return {p.name: json.loads((p / "result.json").read_text())["episodes"] for p in tiny.cells("rollout")}


def test_what_processes_are_sent_makes_the_episodes_of_one(copy):
    context = RunContext.create(copy.config("num_worlds=2"))
    data = open_task(context, "reach")
    loop = next(loop for loop in loops_of(context, data) if loop.job and loop.rollout.mode == "subgoal")
    (cell,) = [p for p in copy.cells("rollout") if p == loop.cell(context).folder]
    found = []
    for crew in (None, Pickled()):
        (cell / "result.json").unlink()
        found.append(run_rollout(context, loop, crew=crew))
    alone, shared = found
    assert [e["seed"] for e in shared["episodes"]] == list(range(300_000, 300_004))
    assert shared["episodes"] == alone["episodes"]
    assert shared["filmed"] == alone["filmed"]


def test_a_launcher_and_workers_are_not_mixed(copy, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process for workers=2"):
        RunContext.create(copy.config("workers=2"))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="workers >= 1"):
        copy.config("workers=0")


@pytest.mark.slow  # processes import torch and the simulator
def test_two_processes_make_the_cells_of_one(copy):
    found = []
    for words in (("num_worlds=2",), ("num_worlds=2", "workers=2")):
        forget(copy)
        context = RunContext.create(copy.config(*words))
        loops = loops_of(context, open_task(context, "reach"))
        assert len(dict(run_rollouts(context, loops))) == len(loops)
        found.append(episodes(copy))
    assert found[0] == found[1]
    assert len(found[0]) == 5


SMALL = (
    "env=reach", "encoder=pixels", "cameras=[front]", "image_px=56", "episodes=4", "num_worlds=2",
    "demos={train:4,val:2,test:2}", "device=cpu", "run=run",
    "heads=[{kind:mlp,width:32,num_blocks:1,pool:{kind:project,width:8},train:{epochs:4,lr:0.001}}]",
)  # fmt: skip


@pytest.mark.slow
def test_two_processes_of_a_launcher_make_the_cells_of_one(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = tmp_path / "out"
    command = ["-m", "lary_policy.cli", "rollout", *SMALL, f"output_dir={output}"]
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, timeout=1200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("] rollout reach-expert ") == 1
    cells = sorted((output / "cache" / "rollout").iterdir())
    shared = [json.loads((cell / "result.json").read_text()) for cell in cells]
    assert len(cells) == 5
    for cell in cells:
        assert not Path(cell, "episodes.partial.json").exists()
        (cell / "result.json").unlink()
    assert cli.main(["rollout", *SMALL, f"output_dir={output}"]) == 0
    for cell, before in zip(cells, shared, strict=True):
        assert json.loads((cell / "result.json").read_text())["episodes"] == before["episodes"]
