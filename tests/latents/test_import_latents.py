"""Latents that the reference extracted, in both of its layouts, taken into a store under our ids."""

import itertools

import numpy as np
import pytest
import torch
from larybench_files import make_calvin, make_clips, read_csv, to_old_style, write_csv

from lary_policy.data.larybench.sets import benchmark_set
from lary_policy.data.registry import open_source
from lary_policy.errors import DatasetError, StoreError, UnsafePathError
from lary_policy.frames.frame import clip_frame_id, clip_id, frame_id, pair_id
from lary_policy.latents.reference import NpzError, find_latent, import_latents, latent_folders, read_npz
from lary_policy.latents.samples import load_latents
from lary_policy.latents.store import LatentStore

MODEL = "dinov2"


def write_latents(root, key, split, shape, *, bare=False, codes=None):
    """Write what the reference's extraction writes: one npz a row and the CSV with `la_path`."""
    data = benchmark_set(key)
    rows = read_csv(root / "data" / f"{key}_metadata_{split}.csv")
    folder = latent_folders(data, split, MODEL)[1 if bare else 0]
    (root / "la" / folder).mkdir(parents=True)
    for i, row in enumerate(rows):
        name = f"latent_action_{i:08d}.npz"
        tokens = np.random.default_rng(i).normal(size=shape).astype(np.float32)
        if (
            data.kind == "pairs"
            and len(shape) == 3
            and shape[0] == 2
            and i
            and row["src_img"] == rows[i - 1]["tgt_img"]
        ):
            before = np.load(root / "la" / folder / f"latent_action_{i - 1:08d}.npz")["tokens"]
            tokens[0] = before[1]  # the same frame has the same latent
        kept = np.arange(codes) if codes else np.empty(0)
        np.savez_compressed(root / "la" / folder / name, tokens=tokens, indices=kept)
        row["la_path"] = name if bare else f"{folder}/{name}"
    return write_csv(root, data.latents_name(split, MODEL), rows[0], rows)


def run(root, key, split, csv, **options):
    source = open_source(key, data_dir=root, protocol="lary")
    return import_latents(
        source.data, split, MODEL, csv_path=csv, media_root=source.media_root(split),
        latents_root=root / "la", store_root=root / "store", **options,
    )  # fmt: skip


def tokens_of(root, csv, row):
    name = read_csv(csv)[row]["la_path"]
    [path] = (root / "la").rglob(name.split("/")[-1])
    return torch.from_numpy(np.load(path)["tokens"])


@pytest.mark.parametrize("bare", [False, True], ids=["portable paths", "bare names"])
def test_frame_latents_serve_the_probe_tables(tmp_path, bare):
    make_calvin(tmp_path)
    csv = write_latents(tmp_path, "calvin", "val", (2, 6, 4), bare=bare)
    if bare:
        rows = read_csv(csv)
        to_old_style(csv)
        assert [r["la_path"] for r in read_csv(csv)] == [r["la_path"] for r in rows]
    store, report = run(tmp_path, "calvin", "val", csv)
    assert (report.rows, report.imported, report.quarantined) == (12, 15, ())
    assert (store.latent.kind, store.latent.tokens, store.latent.width) == ("frame", 6, 4)
    table = open_source("calvin", data_dir=tmp_path, protocol="lary").pairs("val")
    latents = load_latents(table, store)
    for row in (0, 5, 11):
        found = latents.bank[latents.change()[row].flatten()].float()
        torch.testing.assert_close(found, tokens_of(tmp_path, csv, row), atol=2e-3, rtol=2e-3)


def test_pair_latents_with_codes(tmp_path):
    make_calvin(tmp_path)
    csv = write_latents(tmp_path, "calvin", "train", (6, 4), codes=3)
    store, report = run(tmp_path, "calvin", "train", csv)
    assert (store.latent.kind, report.imported) == ("pair", 24)
    row = open_source("calvin", data_dir=tmp_path, protocol="lary").pairs("train").rows[3]
    name = pair_id(frame_id(row.src_frames[0]), frame_id(row.tgt_frames[0]))
    torch.testing.assert_close(
        store.read([name])[0].float(), tokens_of(tmp_path, csv, 3), atol=2e-3, rtol=2e-3
    )
    assert store.read_codes([name]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("shape", "kind"), [((9, 4, 3), "frame"), ((8, 4, 3), "pair"), ((24, 3), "clip")])
def test_clip_latents(tmp_path, shape, kind):
    make_clips(tmp_path, recordings=2, segments=1)
    csv = write_latents(tmp_path, "robot_1st", "train", shape)
    store, _ = run(tmp_path, "robot_1st", "train", csv)
    row = open_source("robot_1st", data_dir=tmp_path, protocol="lary").clips("train").rows[1]
    digest = frame_id(row.path)
    ids = [clip_frame_id(digest, i) for i in row.indices]
    names = {
        "frame": ids,
        "pair": [pair_id(*p) for p in itertools.pairwise(ids)],
        "clip": [clip_id(ids)],
    }
    assert store.latent.kind == kind
    found = store.read(names[kind]).float().reshape(shape)
    torch.testing.assert_close(found, tokens_of(tmp_path, csv, 1), atol=2e-3, rtol=2e-3)


def test_d17_d19_rows_without_latents_are_counted_and_folders_are_given_not_guessed(tmp_path):
    """Defects D17, D19: the reference drops such rows or crashes, and assumes one folder and one model."""
    make_calvin(tmp_path)
    csv = write_latents(tmp_path, "calvin", "train", (2, 6, 4))
    rows = read_csv(csv)
    rows[1]["la_path"] = ""
    rows[2]["la_path"] = "../../etc/passwd"
    rows[3]["la_path"] = "calvin/train/other/latent_action_00000003.npz"
    (tmp_path / "la" / rows[4]["la_path"]).write_bytes(b"PK no zip")
    np.savez(tmp_path / "la" / rows[5]["la_path"], tokens=np.full((2, 6, 4), np.nan, np.float32))
    np.savez(tmp_path / "la" / rows[6]["la_path"], tokens=np.array([{}], object))
    np.savez(tmp_path / "la" / rows[7]["la_path"], tokens=np.zeros((2, 7, 4), np.float32))
    write_csv(tmp_path, csv.name, rows[0], rows)
    store, report = run(tmp_path, "calvin", "train", csv)
    reasons = [q.reason for q in report.quarantined]
    assert [q.item for q in report.quarantined] == [f"{csv.name}:{n}" for n in range(3, 10)]
    for reason, part in zip(
        reasons,
        ("empty cell", "inside", "no such file", "BadZipFile", "NaN", "dtype object", "7 x 4"),
        strict=True,
    ):
        assert part in reason
    assert len(store) == report.imported
    moved = (tmp_path / "la").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"24 without.*la_path"):
        run(tmp_path, "calvin", "train", csv)
    with pytest.raises(UnsafePathError):
        find_latent("/etc/passwd", moved, ("a",))


def test_an_import_goes_on_and_a_store_of_something_else_is_refused(tmp_path):
    make_calvin(tmp_path)
    csv = write_latents(tmp_path, "calvin", "val", (2, 6, 4))
    rows = read_csv(csv)
    write_csv(tmp_path, csv.name, rows[0], rows[:5])
    _, first = run(tmp_path, "calvin", "val", csv)
    write_csv(tmp_path, csv.name, rows[0], rows)
    store, second = run(tmp_path, "calvin", "val", csv)
    assert first.imported + second.imported == 15
    assert (second.reused, len(store)) == (5, 15)
    with pytest.raises(StoreError, match="fingerprint"):
        LatentStore(tmp_path / "store", "0" * 16, store.latent)


def test_tokens_must_be_numbers_of_two_or_three_dimensions(tmp_path):
    path = tmp_path / "x.npz"
    for tokens in (np.zeros(3, np.float32), np.zeros((1, 2, 3, 4), np.float32), np.zeros((2, 3), np.int64)):
        np.savez(path, tokens=tokens)
        with pytest.raises(NpzError, match="tokens of shape"):
            read_npz(path)
    np.savez(path, other=np.zeros((2, 3)))
    with pytest.raises(NpzError, match="tokens"):
        read_npz(path)
    np.savez(path, tokens=np.ones((2, 3), np.float32))
    assert read_npz(path).codes is None
