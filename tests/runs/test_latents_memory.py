"""A run whose latents stay on disk has the results of one that holds them in memory."""

import shutil

import pytest
import torch

from lary_policy.latents.bank import StoredLatents, ram_budget
from lary_policy.machine import free_memory
from lary_policy.runs.collect import open_task
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import load_goals, load_splits


def test_heads_and_closed_loop_do_not_notice(copy):
    before = {s.metric: s.value for s in copy.outcome.results.scores() if s.target == "absolute"}
    for folder in (*copy.cells("probe", "absolute"), *copy.cells("rollout", "subgoal-absolute")):
        shutil.rmtree(folder)
    after = copy.run("latents_ram_gb=0").results.scores()
    assert {s.metric: s.value for s in after if s.target == "absolute"} == before


def test_a_budget_of_nothing_leaves_everything_on_disk(tiny, capsys):
    goals = []
    for setting in ("latents_ram_gb=0", "latents_ram_gb=1"):
        context = RunContext.create(tiny.config(setting))
        data = open_task(context, "reach")
        splits = load_splits(context, data, context.config.encoders[0])
        stored = [isinstance(split.bank, StoredLatents) for split in splits.values()]
        assert stored == [setting.endswith("=0")] * 3
        _, table = load_goals(context, data, context.config.encoders[0])
        goals.append(table.bank[table.index[:5]])
    assert torch.equal(*goals)
    told = capsys.readouterr().err
    assert "stay on disk (latents_ram_gb): train" in told
    assert told.count("stay on disk") == 1


def test_the_default_is_a_quarter_of_what_is_free():
    assert ram_budget(None).left == pytest.approx(free_memory() / 4, rel=0.2)
    assert ram_budget(1.5).left == 1_500_000_000
