"""Stores that machines share: folders, and URLs that fsspec opens."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import fsspec
import pytest
import torch
from shared_files import SharedFileSystem

from lary_policy.errors import StoreError
from lary_policy.latents.places import Place
from lary_policy.latents.store import LatentStore
from lary_policy.types import LatentSpec

SPEC, PRINT = LatentSpec("frame", 4, 3, (1, 2, 2)), "00112233aabbccdd"


@pytest.fixture(params=["folder", "url"])
def place(request, tmp_path, shared_url) -> Place:
    return Place(tmp_path / "there" if request.param == "folder" else shared_url)


def test_files_come_back_as_they_were_put(place, tmp_path):
    below = place / "store"
    assert (below.get("a/x.json"), below.names("a"), below.holds("a/x.json")) == (None, set(), False)
    below.put("a/x.json", [b"one", memoryview(b"two")])
    below.put("a/y.json", [b"other"])
    below.put("a/x.json", [b"anew"])
    assert (below.get("a/x.json"), below.names("a"), below.holds("a/x.json")) == (
        b"anew",
        {"x.json", "y.json"},
        True,
    )
    assert [path.name for path in (tmp_path / "there").rglob(".*")] == []
    for _ in range(2):
        below.remove("a/x.json")
    assert below.names("a") == {"y.json"}


@pytest.mark.parametrize("address", ["nowhere://bucket/x", "file:///tmp", "memory://x"])
def test_urls_that_nobody_shares_or_knows_are_named(address):
    with pytest.raises(StoreError, match="expected a folder"):
        Place(address)


def latents(count: int) -> torch.Tensor:
    return torch.arange(count * 12.0).reshape(count, 4, 3)


def mirror(tmp_path: Path, url: str, name: str, **options) -> LatentStore:
    return LatentStore(tmp_path / name, PRINT, SPEC, packed=True, remote=Place(url), **options)


def test_what_one_machine_writes_another_reads_shard_by_shard(tmp_path, shared_url):
    writer = mirror(tmp_path, shared_url, "one")
    writer.write_shard(["a", "b"], latents(2))
    writer.write_shard(["c"], latents(1))
    reader = mirror(tmp_path, shared_url, "two")
    assert len(reader) == 3
    assert not list(reader.root.glob("shards/*"))
    assert torch.equal(reader.read(["b", "a"]).float(), latents(2).flip(0))
    assert len(list(reader.root.glob("shards/*"))) == 1
    assert len(LatentStore.open(tmp_path / "three", Place(shared_url))) == 3
    assert (tmp_path / "there" / "index.parquet").read_bytes() == (writer.root / "index.parquet").read_bytes()


def test_a_shard_that_no_index_names_is_found_there(tmp_path, shared_url):
    mirror(tmp_path, shared_url, "one").write_shard(["a"], latents(1), index=False)
    reader = mirror(tmp_path, shared_url, "two")
    assert torch.equal(reader.read(["a"]).float(), latents(1))
    assert len(mirror(tmp_path, shared_url, "three")) == 1


def test_a_damaged_or_foreign_store_there_is_named(tmp_path, shared_url):
    mirror(tmp_path, shared_url, "one").write_shard(["a"], latents(1))
    with pytest.raises(StoreError, match="bfloat16"):
        mirror(tmp_path, shared_url, "two", dtype="bfloat16")
    (shard,) = (tmp_path / "there" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="intact shard"):
        mirror(tmp_path, shared_url, "two").read(["a"])
    shard.unlink()
    (tmp_path / "two" / "shards" / shard.name).unlink()
    assert mirror(tmp_path, shared_url, "two").missing(["a"]) == ("a",)


def test_a_full_store_there_is_named_and_keeps_what_it_has(tmp_path, shared_url, monkeypatch):
    store = mirror(tmp_path, shared_url, "one")
    store.write_shard(["a"], latents(1))
    monkeypatch.setattr(SharedFileSystem, "full", True)
    with pytest.raises(StoreError, match=r"room and permission.*shared://.*No space left.*start the same"):
        store.write_shard(["b"], latents(1))
    assert len(mirror(tmp_path, shared_url, "two")) == 1


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The URL of a bucket on a server of this machine.

    It needs s3fs, and `moto_server` on the path: `moto[server]` has an environment of its own: Hydra needs
    an older antlr4.
    """
    pytest.importorskip("s3fs")
    command = shutil.which("moto_server")
    if command is None:
        pytest.skip("no moto_server")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        log = (tmp_path_factory.mktemp("moto") / "log.txt").open("w")
        server = subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            assert server.poll() is None
            fsspec.filesystem("s3").mkdir("bucket")
            yield "s3://bucket/latents"
        finally:
            server.terminate()
            server.wait()


@pytest.mark.slow
def test_a_store_in_s3_is_read_where_it_was_not_written(s3, tmp_path):
    place = Place(s3)
    place.put("a/x", [b"one"])
    assert (place.get("a/x"), place.names("a"), place.holds("a/x")) == (b"one", {"x"}, True)
    assert (place.get("a/y"), place.names("b"), place.holds("a/y")) == (None, set(), False)
    writer = mirror(tmp_path, s3, "one")
    writer.write_shard(["a", "b"], latents(2))
    reader = mirror(tmp_path, s3, "two")
    assert torch.equal(reader.read(["b", "a"]).float(), latents(2).flip(0))
    with pytest.raises(StoreError, match="s3://no-such-bucket"):
        mirror(tmp_path, "s3://no-such-bucket/x", "three").write_shard(["a"], latents(1))
