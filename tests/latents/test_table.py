import pytest
import torch

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.errors import DatasetError, StoreError
from lary_policy.frames.frame import decode_frame
from lary_policy.latents.encode import encode_windows
from lary_policy.latents.plan import FRAMES, encode_tables
from lary_policy.latents.samples import load_frames, load_latents
from lary_policy.latents.store import LatentStore


@pytest.fixture
def pairs(synthetic, arm7):
    return load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5)


@pytest.fixture
def store(tmp_path, pool_encoder):
    return LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)


def test_every_row_finds_the_latents_of_its_own_frames(pairs, pool_encoder, store):
    encode_tables([pairs], pool_encoder, store)
    table = load_latents(pairs, store)
    assert table.bank.shape == (15, 16, 3)
    assert table.bank.dtype == torch.float16
    assert table.index.shape == (12, 2, 1)
    assert torch.equal(table.kept, torch.arange(12))
    for row, index in zip(pairs.rows, table.index, strict=True):
        for side, path in enumerate((row.src_frames[0], row.tgt_frames[0])):
            expected = pool_encoder.encode(decode_frame(path)[None, None])[0, 0].half()
            assert torch.equal(table.bank[index[side, 0]], expected)


def test_rows_with_damaged_images_are_left_out_and_listed(pairs, pool_encoder, store):
    damaged = pairs.rows[1].tgt_frames[0]  # also the source of row 2
    damaged.write_bytes(damaged.read_bytes()[:100])
    pairs.rows[11].tgt_frames[0].unlink()
    encode_tables([pairs], pool_encoder, store)
    table = load_latents(pairs, store)
    assert table.kept.tolist() == [0, *range(3, 11)]
    assert [q.item for q in table.quarantined] == [f"calvin_metadata_val.csv:{n}" for n in (3, 4, 13)]
    assert damaged.name in table.quarantined[0].reason
    assert len(pairs.actions()[table.kept]) == len(table)


def test_a_good_frame_that_was_never_extracted_is_an_error_not_a_gap(pairs, pool_encoder, store):
    encode_windows([(path,) for path in pairs.frame_paths()[:-2]], FRAMES, pool_encoder, store)
    with pytest.raises(StoreError, match=r"2 frames without.*lary extract"):
        load_latents(pairs, store)


def test_a_flipped_byte_stops_loading(pairs, pool_encoder, store):
    encode_tables([pairs], pool_encoder, store)
    data = bytearray(store.shards()[0].read_bytes())
    data[-5] ^= 4
    store.shards()[0].write_bytes(data)
    with pytest.raises(StoreError, match="sha256"):
        load_latents(pairs, LatentStore.open(store.root))


def test_nothing_usable_is_an_error(pairs, pool_encoder, store):
    for path in pairs.frame_paths():
        path.write_bytes(b"")
    encode_tables([pairs], pool_encoder, store)
    with pytest.raises(DatasetError, match="12 rows set aside"):
        load_latents(pairs, store)


def test_frames_themselves_in_place_of_latents(pairs):
    damaged = pairs.rows[1].tgt_frames[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    table = load_frames(pairs)
    assert table.bank.dtype == torch.uint8
    assert table.kept.tolist() == [0, *range(3, 12)]
    for number, index in zip(table.kept.tolist(), table.index, strict=True):
        row = pairs.rows[number]
        for side, path in enumerate((row.src_frames[0], row.tgt_frames[0])):
            assert torch.equal(table.bank[index[side, 0]], decode_frame(path))


def test_frames_of_two_sizes_have_no_table(pairs, make_synthetic):
    other = make_synthetic("other", episodes=1, px=16)
    odd = next((other.root / "images").rglob("*.png"))
    pairs.rows[4].tgt_frames[0].write_bytes(odd.read_bytes())
    with pytest.raises(DatasetError, match="image_px"):
        load_frames(pairs)
