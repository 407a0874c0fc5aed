"""Shards are ordinary safetensors files, byte for byte, and several threads may write them."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from lary_policy.errors import StoreError
from lary_policy.latents.shards import (
    SUFFIX,
    PackedRows,
    cast_latents,
    check_shard,
    open_shard,
    pack,
    read_codes,
    read_shard,
    shard_frame_ids,
    write_shard,
)
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_shard_is_what_safetensors_itself_would_save(dtype, tmp_path):
    latents = torch.randn(3, 5, 7).to(dtype)
    digest = write_shard(tmp_path, ["a", "b", "c"], latents)
    ours = (tmp_path / f"{digest}{SUFFIX}").read_bytes()
    assert ours == save({"latents": latents}, metadata={"frame_ids": '["a", "b", "c"]'})
    assert hashlib.sha256(ours).hexdigest() == digest


def test_codes_stand_beside_strided_latents(tmp_path):
    latents, codes = torch.randn(4, 7, 5).half().mT, torch.randint(0, 8, (4, 16))
    path = tmp_path / f"{write_shard(tmp_path, list('wxyz'), latents, codes)}{SUFFIX}"
    assert torch.equal(load_file(path)["latents"], latents)
    assert torch.equal(read_codes(path), codes)
    assert shard_frame_ids(path) == ("w", "x", "y", "z")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 7e4])
@pytest.mark.parametrize("position", [0, 41, 104])
def test_one_value_that_is_not_finite_is_found(bad, position):
    latents = torch.randn(3, 5, 7)
    latents.view(-1)[position] = bad
    with pytest.raises(StoreError, match="1 non-finite values"):
        cast_latents(latents, torch.float16)


def test_a_row_too_small_for_float16_is_named_and_zeros_are_not():
    latents = torch.randn(3, 5, 7)
    latents[1] = 0
    assert cast_latents(latents, torch.float16)[1].count_nonzero() == 0
    latents[1, 0, 0] = 1e-5
    with pytest.raises(StoreError, match=r"1 rows below.*latents_dtype=float32 or bfloat16"):
        cast_latents(latents, torch.float16)
    assert cast_latents(latents, torch.bfloat16)[1].count_nonzero() == 1


@given(
    st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=9),
    st.sampled_from([torch.float16, torch.bfloat16]),
)
def test_packing_loses_no_bit(numbers, dtype):
    latents = torch.tensor(numbers).to(dtype)[:, None, None].expand(-1, 3, 1)
    rows = PackedRows(pack(latents))
    assert rows.shape == latents.shape
    picked = torch.arange(len(numbers)).flip(0)
    assert torch.equal(rows[picked].view(torch.int16), latents.flip(0).contiguous().view(torch.int16))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.86), (torch.bfloat16, 0.72)])
def test_packed_shards_are_smaller_and_whole(dtype, share, tmp_path):
    latents, codes = torch.randn(8, 64, 97).to(dtype), torch.randint(0, 8, (8, 3))
    digest = write_shard(tmp_path, list("abcdefgh"), latents, codes, packed=True)
    path = tmp_path / f"{digest}{SUFFIX}"
    assert path.stat().st_size < share * latents.nbytes + 2000  # ids and header
    assert torch.equal(read_shard(path), latents)
    assert torch.equal(read_codes(path), codes)
    check_shard(path)


def test_threads_of_one_process_write_at_once(tmp_path):
    store = LatentStore(tmp_path, "0" * 16, LatentSpec("frame", tokens=2, width=3))
    latents = {f"frame-{i}": torch.randn(1, 2, 3) for i in range(40)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.write_shard([item[0]], item[1]), latents.items()))
    reopened = LatentStore.open(tmp_path)
    assert len(reopened) == 40
    assert reopened.quarantined == []
    assert torch.equal(reopened.read(list(latents)), torch.cat(list(latents.values())).half())


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not say what it reads")
def test_a_row_is_read_and_nothing_around_it(tmp_path):
    """Disks that read ahead, as network file systems do by megabytes, would read a shard for each row."""
    latents = torch.randn(256, 64, 256).half()  # 8 MB
    path = tmp_path / f"{write_shard(tmp_path, [str(i) for i in range(256)], latents, packed=True)}{SUFFIX}"
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read_bytes() -> int:
        return int(re.findall(r"^read_bytes: (\d+)$", Path("/proc/self/io").read_text(), re.MULTILINE)[0])

    before = read_bytes()
    assert torch.equal(open_shard(path)[torch.tensor([200])], latents[200:201])
    assert read_bytes() - before < 1 << 20
