"""A run whose latents stay on disk has the results of one that holds them in memory."""

import gc
import shutil
import threading
import time
import weakref
from functools import partial

import pytest
import torch

from lary_policy.latents.bank import StoredLatents, ram_budget
from lary_policy.machine import as_made, free_memory
from lary_policy.runs.collect import open_task
from lary_policy.runs.context import RunContext
from lary_policy.runs.encode import load_goals, load_splits
from lary_policy.runs.probe import HeldLatents


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


class Splits(dict):
    """One group's latents, told apart by identity."""

    __hash__ = object.__hash__


class Groups:
    """Latents of several groups of heads, which remember who is alive."""

    def __init__(self):
        self.alive, self.most, self.loads = weakref.WeakSet(), 0, []

    def load(self, number):
        splits = Splits(train=number)
        self.alive.add(splits)
        self.loads.append(number)
        self.most = max(self.most, len(self.alive))
        return splits


def test_a_group_of_heads_is_loaded_once_and_at_most_two_are_in_memory():
    groups, room = Groups(), threading.Semaphore(2)
    banks = [HeldLatents(partial(groups.load, number), room, 3, False) for number in range(5)]

    def train(bank):
        assert list(bank.splits()) == ["train"]
        time.sleep(0.01)
        bank.finished()

    made = dict(as_made([partial(train, bank) for bank in banks for _ in range(3)], 4))
    assert len(made) == 15
    assert sorted(groups.loads) == [0, 1, 2, 3, 4]
    assert groups.most == 2
    gc.collect()
    assert not groups.alive


def test_who_waits_for_memory_leaves_when_another_head_fails():
    groups, room = Groups(), threading.Semaphore(1)
    first, second = (HeldLatents(partial(groups.load, number), room, 1, False) for number in range(2))

    def fails():
        first.splits()
        time.sleep(0.05)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(as_made([fails, second.splits], 2))
    assert groups.loads == [0]
