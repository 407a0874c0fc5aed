"""Latents of pairs of frames: extraction, resume, codes, and the table that finds them again."""

import pytest
import torch

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.codebook import codebook_health
from lary_policy.encoders.kinds import encode_two, pair_spec
from lary_policy.errors import DatasetError, ShapeError, StoreError
from lary_policy.frames.frame import decode_frame, frame_id, pair_id
from lary_policy.latents.encode import encode_windows
from lary_policy.latents.plan import FRAMES, PAIRS, encode_tables
from lary_policy.latents.samples import load_latents
from lary_policy.latents.store import LatentStore


@pytest.fixture
def pairs(synthetic, arm7):
    return load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5)


@pytest.fixture
def encoder():
    return load_encoder("villa-x", weights="tiny-random", image_px=28)


@pytest.fixture
def make_store(tmp_path):
    return lambda encoder: LatentStore(tmp_path / "store", encoder.fingerprint, pair_spec(encoder))


@pytest.fixture
def store(make_store, encoder):
    return make_store(encoder)


def frame_pairs(table):
    """All pairs of frames that count, each once: (before, source) and (source, target) of rows."""
    rows = zip(table.rows, table.frames_before(), strict=True)
    sides = [s for row, before in rows for s in ((before, row.src_frames), (row.src_frames, row.tgt_frames))]
    return tuple(dict.fromkeys(pair for one, two in sides for pair in zip(one, two, strict=True)))


class Counting:
    """Counts the images that go through a model's per-frame part."""

    def __init__(self, encoder, monkeypatch):
        self.images = 0
        features = encoder.model.features

        def count(images):
            self.images += len(images)
            return features(images)

        monkeypatch.setattr(encoder.model, "features", count)


def latent_of(encoder, first, second):
    return encode_two(encoder, *(decode_frame(path)[None] for path in (first, second)))[0]


def test_frame_pairs_are_chains(pairs):
    # Three episodes of four chained rows: a row's first pair is the row's before, but at an episode's start.
    assert len(frame_pairs(pairs)) == 15
    before = pairs.frames_before()
    for number, row in enumerate(pairs.rows):
        expected = row.src_frames if number % 4 == 0 else pairs.rows[number - 1].src_frames
        assert before[number] == expected
    assert pairs.select([1, 0]).frames_before() == (pairs.rows[0].src_frames, pairs.rows[0].src_frames)


@pytest.mark.parametrize("name", ["villa-x", "vjepa2-large"])
def test_every_row_finds_the_latents_of_its_own_pairs(pairs, make_store, name):
    encoder = load_encoder(name, weights="tiny-random", image_px=28 if name == "villa-x" else 32)
    store = make_store(encoder)
    report = encode_windows(frame_pairs(pairs), PAIRS, encoder, store, batch_size=4)
    assert (report.requested, report.unique, report.encoded, report.unit) == (15, 15, 15, "pair")
    table = load_latents(pairs, store)
    assert table.bank.shape == (15, store.latent.tokens, store.latent.width)
    assert table.index.shape == (12, 2, 1)
    assert table.change().shape == table.present().shape == (12, 1, 1)
    for row, before, index in zip(pairs.rows, pairs.frames_before(), table.index, strict=True):
        expected = (
            latent_of(encoder, before[0], row.src_frames[0]),
            latent_of(encoder, row.src_frames[0], row.tgt_frames[0]),
        )
        for place, latent in zip(index[:, 0], expected, strict=True):
            torch.testing.assert_close(table.bank[place].float(), latent, rtol=2e-3, atol=2e-3)


def test_frame_tables_keep_both_frames(pairs, pool_encoder, tmp_path):
    store = LatentStore(tmp_path / "frames", pool_encoder.fingerprint, pool_encoder.latent)
    encode_tables([pairs], pool_encoder, store)
    table = load_latents(pairs, store)
    assert torch.equal(table.change(), table.index)
    assert torch.equal(table.present(), table.index[:, :1])


def test_a_frame_goes_through_the_backbone_once_a_batch(pairs, encoder, store, monkeypatch):
    calls = Counting(encoder, monkeypatch)
    encode_windows(frame_pairs(pairs), PAIRS, encoder, store, batch_size=64)
    assert calls.images == len(pairs.frame_paths())


def test_what_is_stored_is_not_encoded_again(pairs, encoder, store, monkeypatch):
    encode_windows(frame_pairs(pairs)[:6], PAIRS, encoder, store, batch_size=4)
    calls = Counting(encoder, monkeypatch)
    report = encode_windows(frame_pairs(pairs), PAIRS, encoder, LatentStore.open(store.root), batch_size=64)
    assert (report.reused, report.encoded) == (6, 9)
    assert calls.images < 15
    assert encode_windows(frame_pairs(pairs), PAIRS, encoder, LatentStore.open(store.root)).encoded == 0


def test_codes_are_stored_with_the_latents(pairs, encoder, store):
    encode_windows(frame_pairs(pairs), PAIRS, encoder, store, batch_size=4, shard_rows=4)
    assert len(store.shards()) > 1
    wanted = frame_pairs(pairs)[2:9]
    names = [pair_id(*map(frame_id, pair)) for pair in wanted]
    codes = LatentStore.open(store.root).read_codes(names)
    frames = [torch.stack([decode_frame(path) for path in pair]) for pair in wanted]
    expected = encoder.encode_indices(torch.stack(frames))
    assert codebook_health(codes, 32) == codebook_health(expected, 32)
    assert store.verify() == []


def test_frame_stores_have_no_codes(pairs, pool_encoder, tmp_path):
    store = LatentStore(tmp_path / "frames", pool_encoder.fingerprint, pool_encoder.latent)
    encode_tables([pairs], pool_encoder, store)
    with pytest.raises(StoreError, match="codes"):
        store.read_codes([frame_id(pairs.frame_paths()[0])])


def test_an_interruption_costs_at_most_one_shard(pairs, encoder, store):
    def stop(done, total):
        assert total == 15
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_windows(
            frame_pairs(pairs), PAIRS, encoder, store, batch_size=2, shard_rows=4, on_progress=stop
        )
    report = encode_windows(frame_pairs(pairs), PAIRS, encoder, LatentStore.open(store.root), batch_size=2)
    assert (report.reused, report.encoded) == (8, 7)


def test_pairs_of_damaged_frames_are_left_out_and_listed(pairs, encoder, store):
    damaged = pairs.rows[1].tgt_frames[0]  # also the source of row 2 and the frame before row 3
    damaged.write_bytes(damaged.read_bytes()[:100])
    pairs.rows[11].tgt_frames[0].unlink()
    report = encode_windows(frame_pairs(pairs), PAIRS, encoder, store, batch_size=4)
    assert {q.item for q in report.quarantined} == {str(damaged), str(pairs.rows[11].tgt_frames[0])}
    table = load_latents(pairs, store)
    assert table.kept.tolist() == [0, *range(4, 11)]
    assert len(table.quarantined) == 4


def test_frames_of_two_sizes_make_no_pair(pairs, encoder, store, make_synthetic):
    other = make_synthetic("other", episodes=1, px=16)
    odd = pairs.rows[4].tgt_frames[0]
    odd.write_bytes(next((other.root / "images").rglob("*.png")).read_bytes())
    report = encode_windows(frame_pairs(pairs), PAIRS, encoder, store)
    assert all("different sizes" in q.reason for q in report.quarantined)
    assert len(report.quarantined) == 2
    table = load_latents(pairs, store)
    assert not {4, 5} & set(table.kept.tolist())
    assert "after a frame of" in table.quarantined[0].reason


def test_a_pair_that_was_never_extracted_is_an_error_not_a_gap(pairs, encoder, store):
    encode_windows(frame_pairs(pairs)[:-2], PAIRS, encoder, store)
    with pytest.raises(StoreError, match=r"2 pairs of frames without.*lary extract"):
        load_latents(pairs, store)


def test_nothing_usable_is_an_error(pairs, encoder, store):
    for path in pairs.frame_paths():
        path.write_bytes(b"")
    encode_windows(frame_pairs(pairs), PAIRS, encoder, store)
    with pytest.raises(DatasetError, match="12 rows set aside"):
        load_latents(pairs, store)


def test_the_wrong_kind_of_encoder_or_store_is_refused(pairs, encoder, store, tmp_path):
    pixels = load_encoder("pixels", image_px=28)
    with pytest.raises(ShapeError, match="pixels"):
        encode_windows(frame_pairs(pairs), PAIRS, pixels, store)
    other = LatentStore(tmp_path / "other", "feedfeedfeedfeed", pair_spec(encoder))
    with pytest.raises(StoreError, match="feedfeedfeedfeed"):
        encode_windows(frame_pairs(pairs), PAIRS, encoder, other)
    with pytest.raises(ShapeError, match="'pair'"):
        encode_windows([(path,) for path in pairs.frame_paths()], FRAMES, encoder, store)
