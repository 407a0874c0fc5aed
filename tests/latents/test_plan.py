"""Stores of encoders: where they lie, and what is done with what is not theirs."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from written import rewrite

from lary_policy.data.larybench.pair_csv import load_pairs
from lary_policy.encoders.base import load_encoder
from lary_policy.errors import ShapeError
from lary_policy.latents.plan import (
    CLIPS,
    FRAMES,
    PAIRS,
    encode_tables,
    kind_of,
    open_store,
    row_windows,
    store_is_whole,
    store_path,
)
from lary_policy.latents.samples import load_latents
from lary_policy.latents.store import LatentStore


@pytest.fixture
def pairs(synthetic, arm7):
    return load_pairs(synthetic.root, "calvin", "val", embodiment=arm7, stride=5)


@pytest.fixture
def pixels():
    return load_encoder("pixels", image_px=28)


def test_names_of_stores_tell_them_apart(tmp_path):
    choices = itertools.product(["float16", "float32"], [True, False])
    names = [store_path(tmp_path, "auto:a/b", "0" * 16, clips=clips, dtype=d).name for d, clips in choices]
    assert names == [f"auto-a-b-{'0' * 16}{end}" for end in ("-clips", "", "-clips-float32", "-float32")]


def change(name, value):
    def damage(path):
        rewrite(path, **{name: value})

    return damage


@pytest.mark.parametrize(
    ("damage", "seems_whole"),
    [
        (change("fingerprint", "f" * 16), False),
        (change("dtype", "bfloat16"), False),
        (lambda path: path.write_text(path.read_text().replace("fingerprint", "fingerprinT")), False),
        # Only the encoder knows the shape of its latents.
        (lambda path: change("latent", {**json.loads(path.read_text())["latent"], "width": 99})(path), True),
        (lambda path: path.write_text("{"), False),
        (lambda path: path.write_bytes(b"\xff\xfe"), False),
    ],
    ids=["fingerprint", "dtype", "letter", "shape", "json", "utf-8"],
)
def test_what_is_not_the_encoders_is_moved_aside_and_encoded_anew(
    pairs, pixels, tmp_path, damage, seems_whole, capsys
):
    store = open_store(tmp_path, pixels, clips=False, dtype="float16")
    assert encode_tables([pairs], pixels, store).encoded == 15
    assert store_is_whole(store.root, 15)
    assert not store_is_whole(store.root, 16)
    damage(store.root / "store.json")
    assert store_is_whole(store.root, 15) == seems_whole
    fresh = open_store(tmp_path, pixels, clips=False, dtype="float16")
    assert (fresh.root, len(fresh)) == (store.root, 0)
    assert encode_tables([pairs], pixels, fresh).encoded == 15
    assert store.root.with_name(f"{store.root.name}.old0").is_dir()
    assert ".old0" in capsys.readouterr().err


def test_rows_ask_for_windows_by_step_and_camera(pairs):
    row = next(row_windows(pairs, FRAMES))
    assert row == [[pairs.rows[0].src_frames], [pairs.rows[0].tgt_frames]]
    second = list(row_windows(pairs, PAIRS))[1]
    chain = [pairs.rows[0].src_frames[0], pairs.rows[1].src_frames[0], pairs.rows[1].tgt_frames[0]]
    assert second == [[window] for window in itertools.pairwise(chain)]
    assert [kind_of(kind, pairs) for kind in ("frame", "pair", "clip")] == [FRAMES, PAIRS, PAIRS]


def test_goals_are_encoded_for_encoders_of_frames_only(pairs, pixels, tmp_path):
    some, goals = pairs.select([0, 1]), pairs.select([8, 9])
    store = open_store(tmp_path, pixels, clips=False, dtype="float16")
    assert encode_tables([some], pixels, store, extra_frames=[goals]).encoded == 6
    two = load_encoder("villa-x", weights="tiny-random", image_px=28)
    store = open_store(tmp_path, two, clips=False, dtype="float16")
    assert encode_tables([some], two, store, extra_frames=[goals]).encoded == 3


def test_no_tables_and_a_latent_in_time_steps(pairs, pixels, tmp_path):
    with pytest.raises(ShapeError, match="no tables"):
        encode_tables([], pixels, open_store(tmp_path, pixels, clips=False, dtype="float16"))
    store = LatentStore(tmp_path / "two", pixels.fingerprint, replace(pixels.latent), dtype="float32")
    encode_tables([pairs], pixels, store)
    whole, split = load_latents(pairs, store), load_latents(pairs, store, time_steps=2)
    assert split.index.shape == (12, 4, 1)
    joined = split.bank[split.index].flatten(2, 3).unflatten(1, (2, 2)).flatten(2, 3)
    assert torch.equal(joined.flatten(), whole.bank[whole.index].flatten())
    assert CLIPS.whole
