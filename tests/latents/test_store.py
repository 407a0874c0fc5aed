import errno
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lary_policy.errors import ShapeError, StoreError, UnknownNameError
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec

SPEC = LatentSpec(kind="frame", tokens=4, width=3, grid=(1, 2, 2))
PRINT = "0123456789abcdef"


def ids(*numbers):
    return [f"{n:064x}" for n in numbers]


def latents(count, seed=0):
    return torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def filled(root):
    store = LatentStore(root, PRINT, SPEC)
    store.write_shard(ids(1, 2, 3), latents(3))
    store.write_shard(ids(4, 5), latents(2, seed=1))
    return store


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_read_returns_what_was_written_in_the_order_asked(root, dtype, packed):
    store = LatentStore(root, PRINT, SPEC, dtype=dtype, packed=packed)
    store.write_shard(ids(1, 2, 3), latents(3))
    store.write_shard(ids(4, 5), latents(2, seed=1))
    both = torch.cat([latents(3), latents(2, seed=1)]).to(getattr(torch, dtype))
    for reader in (store, LatentStore(root, PRINT, SPEC, dtype=dtype), LatentStore.open(root)):
        assert torch.equal(reader.read(ids(5, 1, 4, 1)), both[[4, 0, 3, 0]])
        assert len(reader) == 5
        assert reader.verify() == []
        assert reader.quarantined == []


def test_missing_lists_each_absent_id_once(filled):
    assert filled.missing(ids(9, 1, 8, 9)) == tuple(ids(9, 8))
    assert filled.contains(ids(1)[0])
    assert not filled.contains(ids(9)[0])
    with pytest.raises(StoreError, match="1 that are not there"):
        filled.read(ids(1, 9))


@pytest.mark.parametrize(
    "other",
    [
        lambda root: LatentStore(root, "f" * 16, SPEC),
        lambda root: LatentStore(root, PRINT, SPEC, dtype="bfloat16"),
        lambda root: LatentStore(root, PRINT, LatentSpec("frame", 4, 5, (1, 2, 2))),
    ],
    ids=["fingerprint", "dtype", "shape"],
)
def test_a_store_of_something_else_is_refused(filled, other):
    with pytest.raises(StoreError, match=PRINT):
        other(filled.root)


def test_unknown_dtype_lists_the_valid_ones(root):
    with pytest.raises(UnknownNameError, match="bfloat16, float16"):
        LatentStore(root, PRINT, SPEC, dtype="float8")


def test_wrong_shape_and_overflow_are_refused(filled):
    with pytest.raises(ShapeError, match=r"\(2, 4, 3\)"):
        filled.write_shard(ids(8, 9), latents(3))
    with pytest.raises(ShapeError):
        filled.write_shard([], latents(0))
    with pytest.raises(StoreError, match="bfloat16"):
        filled.write_shard(ids(8), torch.full((1, 4, 3), 1e6))
    with pytest.raises(StoreError, match="12 of them before the cast"):
        filled.write_shard(ids(8), torch.full((1, 4, 3), float("nan")))
    assert not filled.contains(ids(8)[0])
    assert len(filled.shards()) == 2


@pytest.mark.parametrize("place", [0, 9, 200, -1], ids=["length", "header", "metadata", "tensor"])
def test_a_flipped_byte_is_found_by_verify_and_stops_reading(filled, place):
    victim = filled.shards()[0]
    flip(victim, place)
    assert filled.verify() == [victim]
    fresh = LatentStore.open(filled.root)
    assert fresh.verify() == [victim]
    assert torch.equal(fresh.read(ids(4)), latents(2, seed=1)[:1].half())
    with pytest.raises(StoreError, match="sha256"):
        fresh.read(ids(1))


def test_a_deleted_shard_is_reported_and_only_its_frames_are_missing(filled):
    victim = filled.shards()[0]
    victim.unlink()
    fresh = LatentStore.open(filled.root)
    assert fresh.missing(ids(1, 2, 3, 4, 5)) == tuple(ids(1, 2, 3))
    assert [q.item for q in fresh.quarantined] == [str(victim)]
    fresh.write_shard(ids(1, 2, 3), latents(3))
    assert LatentStore.open(filled.root).quarantined == []


def test_a_crash_between_shard_and_index_loses_nothing(root, monkeypatch):
    store = LatentStore(root, PRINT, SPEC)
    store.write_shard(ids(1), latents(1))
    with monkeypatch.context() as patch:
        patch.setattr(LatentStore, "publish_index", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.write_shard(ids(2, 3), latents(2, seed=1))
    fresh = LatentStore.open(root)
    assert fresh.missing(ids(1, 2, 3)) == ()
    assert torch.equal(fresh.read(ids(3)), latents(2, seed=1)[1:].half())


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"no parquet"), flip])
def test_the_index_is_rebuilt_from_the_shards(filled, damage):
    damage(filled.root / "index.parquet")
    fresh = LatentStore.open(filled.root)
    assert fresh.missing(ids(1, 2, 3, 4, 5)) == ()
    assert torch.equal(fresh.read(ids(2)), latents(3)[1:2].half())


def test_a_damaged_orphan_is_set_aside_not_adopted(filled):
    (filled.root / "index.parquet").unlink()
    flip(filled.shards()[1])
    fresh = LatentStore.open(filled.root)
    assert fresh.missing(ids(1, 4, 5)) == tuple(ids(4, 5))
    assert "sha256" in fresh.quarantined[0].reason


def test_two_writers_of_one_store_lose_nothing(root):
    one, two = LatentStore(root, PRINT, SPEC), LatentStore(root, PRINT, SPEC)
    one.write_shard(ids(1, 2), latents(2))
    two.write_shard(ids(3, 4), latents(2, seed=1))  # its index knows nothing of the first shard
    assert LatentStore.open(root).missing(ids(1, 2, 3, 4)) == ()


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["pathlib.Path.write_bytes", "os.fsync", "pyarrow.parquet.write_table"])
def test_a_full_disk_is_a_store_error_and_keeps_what_is_finished(filled, monkeypatch, target):
    with monkeypatch.context() as patch:
        patch.setattr(target, full_disk)
        with pytest.raises(StoreError, match=r"No space left.*start the same command again"):
            filled.write_shard(ids(8, 9), latents(2, seed=2))
    fresh = LatentStore.open(filled.root)
    assert torch.equal(fresh.read(ids(1, 2, 3)), latents(3).half())
    assert fresh.verify() == []
    assert [p.name for p in filled.root.rglob(".*")] == []  # no half-written file remains
    fresh.write_shard(ids(8, 9), latents(2, seed=2))
    assert LatentStore.open(filled.root).missing(ids(1, 4, 8, 9)) == ()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"fingerprint": 3}'])
def test_a_damaged_identity_is_a_store_error(filled, text):
    (filled.root / "store.json").write_text(text)
    with pytest.raises(StoreError):
        LatentStore.open(filled.root)
    with pytest.raises(StoreError):
        LatentStore(filled.root, PRINT, SPEC)


def test_opening_what_is_not_there_names_the_folder(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        LatentStore.open(tmp_path / "nowhere")


def test_index_lists_shard_hashes(filled):
    table = pq.read_table(filled.root / "index.parquet").to_pydict()
    assert table["frame_id"] == ids(1, 2, 3, 4, 5)
    assert table["row"] == [0, 1, 2, 0, 1]
    assert {Path(p).stem for p in filled.shards()} == set(table["shard_sha256"])
    assert json.loads((filled.root / "store.json").read_text())["latent"]["tokens"] == 4


def rewrite_index(store, change, *, keep_digest=True):
    path = store.root / "index.parquet"
    table = pq.read_table(path)
    changed = pa.table(change({name: table.column(name).to_pylist() for name in table.column_names}))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata if keep_digest else None), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda columns: columns | {"row": columns["row"][::-1]},
        lambda columns: columns | {"frame_id": columns["frame_id"][::-1]},
        lambda columns: columns | {"row": [0] * 5},
        lambda columns: columns | {"row": [None] * 5},
        lambda columns: {name: values[:4] for name, values in columns.items()},
        lambda columns: {"frame_id": columns["frame_id"]},
    ],
    ids=["rows reversed", "ids reversed", "one row", "no rows", "cut", "columns gone"],
)
def test_an_index_that_says_something_else_is_named_and_made_anew(filled, change):
    rewrite_index(filled, change)
    fresh = LatentStore.open(filled.root)
    assert [q.item for q in fresh.quarantined] == [str(filled.root / "index.parquet")]
    assert "rebuilt from the shards" in fresh.quarantined[0].reason
    assert torch.equal(fresh.read(ids(1, 2, 3)), latents(3).half())
    assert LatentStore.open(filled.root).quarantined == []  # the new index is on the disk


def test_an_index_without_a_digest_is_not_believed(filled):
    rewrite_index(filled, lambda columns: columns | {"row": columns["row"][::-1]}, keep_digest=False)
    fresh = LatentStore.open(filled.root)
    assert fresh.quarantined == []
    assert torch.equal(fresh.read(ids(3, 1)), latents(3)[[2, 0]].half())


def test_a_flipped_byte_anywhere_in_the_index_changes_nothing(filled):
    path = filled.root / "index.parquet"
    sound = path.read_bytes()
    for place in range(0, len(sound), 37):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        assert torch.equal(LatentStore.open(filled.root).read(ids(2, 5)), expected_2_5())


def expected_2_5():
    return torch.stack((latents(3)[1], latents(2, seed=1)[1])).half()


def test_a_shard_of_another_store_is_not_adopted(filled, tmp_path):
    other = LatentStore(tmp_path / "other", PRINT, LatentSpec("frame", 4, 5, (1, 2, 2)))
    other.write_shard(ids(7), torch.ones(1, 4, 5))
    shutil.copy(other.shards()[0], filled.shards()[0].parent)
    fresh = LatentStore.open(filled.root)
    assert not fresh.contains(ids(7)[0])
    assert "(4, 5)" in fresh.quarantined[0].reason
