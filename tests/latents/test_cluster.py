"""Extraction on a Ray cluster: the store of one process, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster_encoders import Telling, digest_of
from PIL import Image

from lary_policy.errors import ConfigError, StoreError, WeightsMismatchError
from lary_policy.frames import decode_frame, frame_id
from lary_policy.latents import cluster as module
from lary_policy.latents.cluster import Cluster, encode_on_cluster, join_cluster
from lary_policy.latents.encode import encode_windows
from lary_policy.latents.places import Place
from lary_policy.latents.plan import FRAMES
from lary_policy.latents.store import LatentStore
from lary_policy.latents.worker import RECORDS, ShardEncoder, ShardPlan, check_worker, decode_shards
from lary_policy.paths import lock_beside

SIZE = {"batch_size": 4, "shard_rows": 8}


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Frames of 7 shards, three of them twice."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(53)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    return [*files, *files[:3]]


@pytest.fixture
def telling(paths, tmp_path) -> Telling:
    names = {digest_of(decode_frame(path)): frame_id(path) for path in paths}
    (tmp_path / "names.json").write_text(json.dumps(names))
    return Telling(tmp_path / "names.json", tmp_path / "log.txt", tmp_path / "store")


@pytest.fixture
def one(paths, make_encoder, tmp_path):
    """What a single process writes: shards by their digests, and the entries of the index."""
    encoder = make_encoder()
    store = LatentStore(tmp_path / "one", encoder.fingerprint, encoder.latent, packed=True)
    encode_windows([(path,) for path in paths], FRAMES, encoder, store, **SIZE)
    return content(store)


def content(store: LatentStore) -> tuple[list[str], dict]:
    found = LatentStore.open(store.root)
    assert found.quarantined == []
    assert found.verify() == []
    return sorted(path.name for path in found.shards()), dict(sorted(found._where.items()))


def extract(paths, telling, **options):
    encoder = telling()
    store = LatentStore(telling.store, encoder.fingerprint, encoder.latent, packed=True)
    windows = [(path,) for path in paths]
    options = {"load": telling, "cluster": Cluster(), **SIZE, **options}
    return store, encode_on_cluster(windows, FRAMES, encoder, store, **options)


@pytest.fixture
def without_ray(monkeypatch):
    """Rows go through decoders and encoders in this process, in any order, with what Ray Data gives them."""

    def results(plan, inputs, lacking, *_):
        encoder = ShardEncoder(plan)
        shards = [module._windows(inputs, names) for names in lacking.values()]
        rows = [{"shard": np.array([shard, None], object)[:1]} for shard in shards]
        for row in random.Random(1).sample(rows, len(rows)):
            (found,) = encoder(decode_shards(plan, row))["shard"]
            if isinstance(found, Exception):
                raise found
            yield found

    monkeypatch.setattr(module, "_results", results)
    monkeypatch.setattr(module, "join_cluster", lambda *_: None)


def test_shards_in_any_order_are_those_of_one_process(without_ray, paths, telling, one):
    seen = []
    store, report = extract(paths, telling, on_progress=lambda *told: seen.append(told))
    assert content(store) == one
    assert len(one[0]) == 7
    assert (report.requested, report.unique, report.encoded, report.reused) == (53, 53, 53, 0)
    assert seen[-1] == (53, 53)
    assert sorted(name for _, name, _ in telling.lines) == sorted(set(map(frame_id, paths)))
    assert list((store.root / RECORDS).glob("*")) == []
    assert extract(paths, telling)[1].reused == 53


def test_what_is_left_out_is_told_with_its_reason(without_ray, paths, telling):
    paths[9].write_bytes(paths[9].read_bytes()[:200])
    paths[20].unlink()
    store, report = extract(paths, telling)
    assert (report.encoded, len(store)) == (51, 51)
    assert {q.item for q in report.quarantined} == {str(paths[9]), str(paths[20])}


@pytest.mark.parametrize("published", [3, 6])
def test_another_driver_goes_on_where_one_was_lost(without_ray, paths, telling, one, published):
    """The first driver died before it wrote any index."""

    def stop(done, total):
        if done >= 8 * published:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(paths, telling, on_progress=stop)
    (telling.store / "index.parquet").unlink()
    store, report = extract(paths, telling)
    assert content(store) == one
    assert report.reused >= 8 * (published - 1)
    assert not any(again for _, _, again in telling.lines)


def test_a_shard_that_is_given_again_is_not_encoded_again(paths, telling, one):
    encoder = telling()
    store = LatentStore(telling.store, encoder.fingerprint, encoder.latent, packed=True)
    inputs = module.WindowInputs.of([(path,) for path in paths], FRAMES)
    place = Place(store.root)
    plan = ShardPlan(
        telling, FRAMES, store.fingerprint, store.latent, store.dtype, True, place, 4, module.__version__
    )
    names, *_ = module._lacking(inputs, store, 8).values()
    row = {"shard": np.array([module._windows(inputs, names), None], object)[:1]}
    decoded = decode_shards(plan, row)
    (first,) = ShardEncoder(plan)(decoded)["shard"]
    told = telling.lines
    for again in (decoded, decode_shards(plan, row)):
        (found,) = ShardEncoder(plan)(again)["shard"]
        assert (found.digest, found.order, found.encoded) == (first.digest, first.order, 0)
    assert telling.lines == told
    (store.root / "shards" / f"{first.digest}.safetensors").unlink()  # the record alone does not count
    (found,) = ShardEncoder(plan)(decode_shards(plan, row))["shard"]
    assert (found.digest, found.encoded) == (first.digest, 8)


def test_workers_that_differ_are_named(paths, telling, make_encoder, monkeypatch):
    with pytest.raises(ConfigError, match=r"expected lary_policy 9\.9 on every machine"):
        check_worker("9.9", telling().fingerprint, telling)
    with pytest.raises(WeightsMismatchError, match=r"expected the encoder 0011.*got feed"):
        check_worker(module.__version__, telling().fingerprint, partial(make_encoder, "feedfeedfeedfeed"))


def test_a_cluster_that_is_not_there_is_named_within_seconds(monkeypatch):
    pytest.importorskip("ray")  # an extra, looked for first
    asked = []
    monkeypatch.setattr(
        socket, "create_connection", lambda *a: asked.append(a) or (_ for _ in ()).throw(TimeoutError())
    )
    with pytest.raises(ConfigError, match=r"at 192\.0\.2\.1:6379.*TimeoutError"):
        join_cluster(Cluster("192.0.2.1:6379"), "cpu")
    assert asked == [(("192.0.2.1", 6379), module.REACH_SECONDS)]
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"HTTP/1.1 400 Bad Request"))
        thread.start()
        with pytest.raises(ConfigError, match=r"something else that listens there and says b'HTTP"):
            join_cluster(Cluster(f"127.0.0.1:{other.getsockname()[1]}"), "cpu")
        thread.join()
    for address in ("nowhere", "ray://head:10001", "host:port"):
        with pytest.raises(ConfigError, match="no host:port"):
            join_cluster(Cluster(address), "cpu")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'ray missing. Run: pip install "ray\[data\]'):
        join_cluster(Cluster(), "cpu")


@pytest.fixture(scope="module")
def ray():
    """A cluster of two cores whose workers find the modules of the tests."""
    ray = pytest.importorskip("ray")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    join_cluster(Cluster(), "cpu")
    yield ray
    ray.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.mark.slow  # Ray starts, and each of its workers imports torch
def test_a_cluster_makes_the_store_of_one_process(ray, paths, telling, one):
    store, report = extract(paths, telling)
    assert content(store) == one
    assert (report.encoded, report.reused) == (53, 0)
    assert sorted(name for _, name, _ in telling.lines) == sorted(set(map(frame_id, paths)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_worker_killed_at_any_moment_costs_nothing_that_was_published(ray, paths, telling, one, seed):
    """Its shard is given to another; no frame is encoded that a published shard holds."""
    telling = Telling(telling.names, telling.log, telling.store, seconds=0.2)
    moment, killed = random.Random(seed).uniform(0.0, 2.0), []

    def kill():
        while not telling.lines:
            time.sleep(0.01)
        time.sleep(moment)
        killed.append(telling.lines[-1][0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    store, _ = extract(paths, telling)
    killer.join()
    assert content(store) == one
    assert len({pid for pid, *_ in telling.lines}) > 1
    assert not any(again for _, _, again in telling.lines)


DRIVER = """
import sys
from pathlib import Path
from cluster_encoders import Telling
from lary_policy.latents import Cluster, LatentStore, encode_on_cluster
from lary_policy.latents.plan import FRAMES
names, log, store, *files = map(Path, sys.argv[1:])
telling = Telling(names, log, store, seconds=0.5)
encoder = telling()
to = LatentStore(store, encoder.fingerprint, encoder.latent, packed=True)
windows = [(file,) for file in files]
encode_on_cluster(windows, FRAMES, encoder, to, load=telling, cluster=Cluster(), batch_size=4, shard_rows=8)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_is_followed_by_another(ray, paths, telling, one):
    words = [telling.names, telling.log, telling.store, *paths]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, words)])
    while len(list(telling.store.glob("shards/[!.]*"))) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    while any(Path(f"/proc/{pid}").exists() for pid, *_ in telling.lines):
        time.sleep(0.1)  # its workers end with it
    store, report = extract(paths, telling)
    assert content(store) == one
    assert 16 <= report.reused < 53
    assert not any(again for _, _, again in telling.lines)


@pytest.mark.slow
def test_workers_that_differ_stop_the_run_before_anything_is_encoded(
    ray, paths, telling, monkeypatch, make_encoder
):
    monkeypatch.setattr(module, "__version__", "9.9")  # here, not on the workers
    with pytest.raises(ConfigError, match=r"lary_policy 9\.9 on every machine"):
        extract(paths, telling, cluster=Cluster("auto"))
    monkeypatch.undo()
    other = partial(make_encoder, "feedfeedfeedfeed")
    with pytest.raises(WeightsMismatchError, match="got feed"):
        extract(paths, telling, load=other, cluster=Cluster("auto"))
    with pytest.raises(WeightsMismatchError, match="got feed"):  # of a machine that joins later
        extract(paths, telling, load=other)
    assert telling.lines == []
    assert not list(telling.store.glob("shards/*"))


def test_a_shared_store_by_url_is_that_of_one_process(without_ray, paths, telling, one, tmp_path, shared_url):
    """Encoders publish there; here lies what says where everything is, until it is read."""
    place = Place(shared_url)
    encoder = telling()
    for reused in (0, 53):
        store = LatentStore(
            tmp_path / "mirror", encoder.fingerprint, encoder.latent, packed=True, remote=place
        )
        report = encode_on_cluster(
            [(path,) for path in paths], FRAMES, encoder, store, load=telling, cluster=Cluster(), **SIZE
        )
        assert (report.encoded, report.reused) == (53 - reused, reused)
    assert not list(store.root.glob("shards/*"))
    assert sorted(place.names("shards")) == one[0]
    assert place.names(RECORDS) == set()
    ids = [frame_id(path) for path in paths]
    assert torch.equal(store.read(ids), LatentStore.open(tmp_path / "one").read(ids))


def test_no_clock_is_asked(without_ray, paths, telling, one):
    """Machines disagree about the time: files of the past and the future are as good as any."""

    def stop(done, total):
        if done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(paths, telling, on_progress=stop)
    (telling.store / "index.parquet").unlink()
    lock_beside(telling.store).touch()  # as of a driver that was killed: nobody holds it
    for number, path in enumerate([lock_beside(telling.store), *telling.store.rglob("*"), *paths]):
        os.utime(path, (number % 2 * 4e9, number % 2 * 4e9))  # 1970 or 2096
    store, report = extract(paths, telling)
    assert (content(store), report.reused) == (one, 24)
    assert not any(again for _, _, again in telling.lines)


def test_a_store_that_cannot_be_written_is_named_and_kept(without_ray, paths, telling, one, monkeypatch):
    real, calls = os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > 9:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"room and permission to write.*No space left.*start the same"):
        extract(paths, telling)
    monkeypatch.setattr(os, "fsync", real)
    store, report = extract(paths, telling)
    assert content(store) == one
    assert report.reused >= 24
    assert not any(again for _, _, again in telling.lines)


def test_a_store_that_may_only_be_read_is_named_before_anything_is_decoded(paths, telling, monkeypatch):
    monkeypatch.setattr(module, "join_cluster", lambda *_: None)
    monkeypatch.setattr(module, "_results", lambda *_: pytest.fail("work was given out"))

    def read_only(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("lary_policy.paths._locked_temporary", read_only)
    with pytest.raises(StoreError, match="Read-only file system"):
        extract(paths, telling)
