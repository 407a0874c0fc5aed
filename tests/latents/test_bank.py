"""Latents that stay on disk are those that are in memory."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lary_policy.errors import StoreError
from lary_policy.latents import store
from lary_policy.latents.bank import RamBudget, StoredLatents, load_bank
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec

SPEC = LatentSpec(kind="frame", tokens=6, width=5)
IDS = [f"{n:064x}" for n in range(40)]


@pytest.fixture(params=["float16-packed", "float16", "float32"])
def filled(request, tmp_path):
    made = LatentStore(tmp_path, "0" * 16, SPEC, dtype=request.param[:7], packed="-" in request.param)
    values = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0))
    for start in range(0, 40, 7):  # the last shard is smaller
        made.write_shard(IDS[start : start + 7], values[start : start + 7])
    return made


def test_any_index_gives_the_rows_in_memory(filled):
    ids = IDS[30:] + IDS[:25]
    lazy, ready = load_bank(filled, ids, RamBudget(0)), load_bank(filled, ids)
    assert isinstance(lazy, StoredLatents)
    assert (lazy.shape, lazy.dtype, lazy.nbytes, len(lazy)) == (ready.shape, ready.dtype, ready.nbytes, 35)
    g = torch.Generator().manual_seed(1)
    for index in (torch.randperm(35, generator=g), torch.randint(35, (4, 3, 2), generator=g)):
        assert torch.equal(lazy[index], ready[index])
    assert lazy[torch.empty(0, 2, dtype=torch.int64)].shape == (0, 2, 6, 5)


def test_clips_are_split_into_their_steps(filled):
    index = torch.tensor([[5, 2, 2], [119, 0, 1]])
    assert torch.equal(StoredLatents(filled, IDS).in_steps(3)[index], filled.read(IDS).view(-1, 2, 5)[index])


def test_threads_read_at_once_with_few_shards_open(filled, monkeypatch):
    monkeypatch.setattr(store, "OPEN_SHARDS", 2)
    lazy, ready = StoredLatents(filled, IDS), filled.read(IDS)
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lazy.__getitem__, orders))
    assert all(torch.equal(a, ready[order]) for a, order in zip(found, orders, strict=True))


def test_what_is_missing_or_damaged_is_named(filled):
    with pytest.raises(StoreError, match="1 that are not there"):
        StoredLatents(filled, [*IDS, "f" * 64])
    lazy = StoredLatents(LatentStore.open(filled.root), IDS)
    path = filled.shards()[1]
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    assert lazy[torch.arange(7)].isfinite().all()
    with pytest.raises(StoreError, match="lary extract"):
        lazy[torch.arange(8)]


def test_a_budget_is_spent_split_by_split(filled):
    budget = RamBudget(25 * 30 * STORED[filled.dtype])
    banks = [load_bank(filled, IDS[: count + 1], budget) for count in (19, 9, 4)]
    assert [isinstance(bank, StoredLatents) for bank in banks] == [False, True, False]
    assert budget.left == 0


STORED = {"float16": 2, "float32": 4}


def test_readers_of_one_order_read_the_store_once(filled, monkeypatch):
    lazy, ready = StoredLatents(filled, IDS), filled.read(IDS)
    lazy.shared = True
    read, rows_read = lazy._read, []
    monkeypatch.setattr(lazy, "_read", lambda rows: (rows_read.extend(rows.tolist()), read(rows))[1])
    batches = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(8)

    def epoch():
        return torch.cat([lazy[rows] for rows in batches])

    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(epoch) for _ in range(3)]]
    assert all(torch.equal(one, ready[torch.cat(batches)]) for one in found)
    assert sorted(rows_read) == list(range(40))
    with pytest.raises(IndexError):
        lazy[torch.tensor([99])]
    with pytest.raises(IndexError):
        lazy[torch.tensor([99])]
