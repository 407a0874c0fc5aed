import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.encoders import layers_together
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import ShapeError, StoreError
from lary_policy.frames.frame import decode_frame, frame_id
from lary_policy.latents.encode import encode_windows
from lary_policy.latents.plan import FRAMES, HISTORIES, joined_latent, window_id
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec


def extract(paths, encoder, store, **options):
    return encode_windows([(path,) for path in paths], FRAMES, encoder, store, **options)


@pytest.fixture
def paths(synthetic, arm7):
    return load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5).frame_paths()


@pytest.fixture
def store(tmp_path, pool_encoder):
    return LatentStore(tmp_path / "store", pool_encoder.fingerprint, pool_encoder.latent)


def test_each_unique_frame_is_encoded_once_however_many_files_hold_it(paths, pool_encoder, store):
    copy = paths[0].with_name("copy.png")
    shutil.copy(paths[0], copy)
    report = extract([*paths, *paths, copy], pool_encoder, store, batch_size=4)
    assert pool_encoder.frames_seen == len(paths) == 15
    assert (report.requested, report.unique, report.encoded, report.reused) == (16, 15, 15, 0)
    assert max(pool_encoder.batches) == 4


def test_stored_latents_are_those_of_the_encoder(paths, pool_encoder, store):
    extract(paths, pool_encoder, store, batch_size=4)
    read = store.read([frame_id(p) for p in paths])
    for latent, path in zip(read, paths, strict=True):
        expected = pool_encoder.encode(decode_frame(path)[None, None])[0, 0]
        assert torch.equal(latent, expected.half())


def test_batch_size_and_threads_do_not_change_the_result(paths, make_encoder, tmp_path):
    stores = []
    for size, threads in ((1, 1), (7, 1), (2, 3)):
        encoder = make_encoder()
        stores.append(LatentStore(tmp_path / f"s{size}", encoder.fingerprint, encoder.latent))
        extract(paths, encoder, stores[-1], batch_size=size, threads=threads)
    ids = [frame_id(p) for p in paths]
    assert torch.equal(stores[0].read(ids), stores[1].read(ids))
    assert torch.equal(stores[0].read(ids), stores[2].read(ids))


def test_a_second_run_encodes_nothing(paths, pool_encoder, store):
    extract(paths, pool_encoder, store)
    reopened = LatentStore(store.root, pool_encoder.fingerprint, pool_encoder.latent)
    report = extract(paths, pool_encoder, reopened)
    assert (report.encoded, report.reused, pool_encoder.frames_seen) == (0, 15, 15)


def test_an_interrupted_run_continues_behind_its_last_shard(paths, make_encoder, store):
    def stop(done, total):
        assert total == 15
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(paths, make_encoder(), store, batch_size=2, shard_rows=4, on_progress=stop)
    encoder = make_encoder()
    reopened = LatentStore(store.root, encoder.fingerprint, encoder.latent)
    report = extract(paths, encoder, reopened, batch_size=2, shard_rows=4)
    assert (report.reused, report.encoded, encoder.frames_seen) == (8, 7, 7)
    assert reopened.verify() == []
    assert len(reopened) == 15


def test_a_full_disk_keeps_finished_shards(paths, make_encoder, store, monkeypatch):
    real, sync, calls = LatentStore.write_shard, os.fsync, []

    def third_fails(self, ids, latents, **options):
        calls.append(threading.get_ident() if len(calls) == 2 else None)
        return real(self, ids, latents, **options)

    def full(file):
        if threading.get_ident() in calls:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(LatentStore, "write_shard", third_fails)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        extract(paths, make_encoder(), store, batch_size=2, shard_rows=4)
    monkeypatch.undo()
    assert len(LatentStore.open(store.root)) >= 8
    assert not [path for path in store.root.rglob(".*") if path.is_file()]


def test_damaged_images_are_quarantined_and_the_rest_is_encoded(paths, pool_encoder, store):
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    paths[5].unlink()
    report = extract(paths, pool_encoder, store, batch_size=4)
    assert report.encoded == 13
    assert {q.item for q in report.quarantined} == {str(paths[3]), str(paths[5])}
    assert all(q.reason.startswith("expected") for q in report.quarantined)


def test_images_of_several_sizes_are_encoded(tmp_path, pool_encoder, store):
    files = []
    for number, px in enumerate((16, 24, 16, 32)):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((px, px, 3), number, np.uint8)).save(files[-1])
    assert extract(files, pool_encoder, store).encoded == 4
    means = store.read([frame_id(f) for f in files]).float().mean((1, 2)) * 255
    torch.testing.assert_close(means, torch.arange(4.0), atol=0.01, rtol=0)


def test_progress_ends_at_the_total(paths, pool_encoder, store):
    seen = []
    extract(paths, pool_encoder, store, batch_size=4, on_progress=lambda *args: seen.append(args))
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]


def test_mismatched_store_and_wrong_latents_are_refused(paths, make_encoder, store):
    with pytest.raises(StoreError, match="feedfeedfeedfeed"):
        extract(paths, make_encoder("feedfeedfeedfeed"), store)
    pair = make_encoder()
    pair.latent = LatentSpec("pair", 16, 3)
    with pytest.raises(ShapeError, match="'pair'"):
        extract(paths, pair, store)
    short = make_encoder()
    short.encode = lambda frames: torch.zeros(len(frames), 1, 15, 3)
    with pytest.raises(ShapeError, match="16, 3"):
        extract(paths, short, store)


def test_overflow_in_float16_names_the_way_out(paths, make_encoder, tmp_path):
    encoder = make_encoder(scale=1e6)
    with pytest.raises(StoreError, match="bfloat16"):
        extract(paths, encoder, LatentStore(tmp_path / "h", encoder.fingerprint, encoder.latent))
    wide = LatentStore(tmp_path / "b", encoder.fingerprint, encoder.latent, dtype="bfloat16")
    assert extract(paths, encoder, wide).encoded == 15


def test_a_registered_encoder_fits(paths, tmp_path):
    encoder = load_encoder("pixels", image_px=28)
    store = LatentStore(tmp_path / "pixels", encoder.fingerprint, encoder.latent)
    assert extract(paths, encoder, store).encoded == 15
    frames = torch.stack([decode_frame(p) for p in paths]).unsqueeze(1)
    read = store.read([frame_id(p) for p in paths])
    torch.testing.assert_close(read.float(), encoder.encode(frames)[:, 0], atol=1e-3, rtol=0)


def test_shares_of_several_processes_are_the_shards_of_one(paths, make_encoder, tmp_path):
    def shards(name, shares):
        for share in shares:
            encoder = make_encoder()
            store = LatentStore(tmp_path / name, encoder.fingerprint, encoder.latent)
            report = extract(paths, encoder, store, batch_size=2, shard_rows=3, share=share)
            assert (report.unique, report.encoded) == (15, encoder.frames_seen)
        found = LatentStore.open(tmp_path / name)
        assert found.quarantined == []
        assert len(found) == 15
        return {path.name for path in found.shards()}

    one = shards("one", [(0, 1)])
    assert len(one) == 4
    assert shards("two", [(1, 2), (0, 2)]) == one
    assert shards("five", [(n, 5) for n in range(5)]) == one  # the last one has nothing to do


def test_two_extractions_at_once_encode_everything_once(paths, make_encoder, tmp_path):
    encoders = [make_encoder() for _ in range(3)]

    def run(encoder):
        store = LatentStore(tmp_path / "s", encoder.fingerprint, encoder.latent)
        report = extract(paths, encoder, store, batch_size=2, shard_rows=4)
        assert report.encoded + report.reused == len(store) == 15

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, encoders))
    assert sum(encoder.frames_seen for encoder in encoders) == 15
    assert LatentStore.open(tmp_path / "s").verify() == []


def test_windows_share_frames_and_histories_repeat_them(paths, make_encoder, tmp_path, monkeypatch):
    decoded = []
    loop = sys.modules["lary_policy.latents.encode"]
    real = loop.decode_frames
    monkeypatch.setattr(loop, "decode_frames", lambda frames: decoded.extend(frames) or real(frames))
    encoder = make_encoder()
    store = LatentStore(
        tmp_path / "h", encoder.fingerprint, joined_latent(encoder.latent, 3), dtype="float32"
    )
    windows = [tuple(paths[max(i + d, 0)] for d in (-2, -1, 0)) for i in range(6)]
    report = encode_windows(windows, HISTORIES, encoder, store, batch_size=6)
    assert (report.unit, report.requested, report.encoded) == ("window", 6, 6)
    assert sorted(decoded) == sorted(paths[:6])
    for window in windows:
        found = store.read([window_id([frame_id(path) for path in window])])[0]
        frames = torch.stack([decode_frame(path) for path in window])[None]
        torch.testing.assert_close(found, encoder.encode(frames)[0].flatten(0, 1))


def test_layers_fill_their_stores_together_and_each_takes_what_it_lacks(paths, tmp_path):
    """One pass for two stores, of which one holds some frames already, is two passes."""
    encoders = [load_encoder("dinov2-small", weights="tiny-random", image_px=28, layer=k) for k in (2, 1)]

    def stores(name):
        return [LatentStore(tmp_path / f"{name}{i}", e.fingerprint, e.latent) for i, e in enumerate(encoders)]

    alone, shared = stores("alone"), stores("shared")
    for encoder, one in zip(encoders, alone, strict=True):
        extract(paths, encoder, one)
    extract(paths[:4], encoders[1], shared[1])
    with layers_together(encoders) as encode:
        kind = replace(FRAMES, encode=lambda _, f, p: tuple(z.flatten(1, 2) for z in encode(f.unsqueeze(1))))
        report = encode_windows(
            [(p,) for p in paths], kind, encoders[0], shared[0], also=shared[1:], threads=2
        )
    assert (report.encoded, report.reused) == (15, 0)
    ids = [frame_id(path) for path in paths]
    assert all(torch.equal(a.read(ids), b.read(ids)) for a, b in zip(alone, shared, strict=True))
    assert len(shared[1]) == 15
