"""The loop over windows on a Ray cluster, which schedules, moves and repeats the work.

A row of Ray Data is one shard: the windows whose latents a single process would put into one file.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lary_policy import __version__
from lary_policy.console import OnProgress
from lary_policy.errors import ConfigError, LaryPolicyError, StoreError, summary
from lary_policy.latents.encode import (
    ExtractReport,
    Window,
    WindowEncoder,
    WindowInputs,
    WindowKind,
    check_store,
    share_lock,
    whole_batches,
)
from lary_policy.latents.places import Place
from lary_policy.latents.store import LatentStore
from lary_policy.latents.worker import (
    RECORDS,
    ShardDone,
    ShardEncoder,
    ShardPlan,
    ShardWindows,
    check_worker,
    decode_shards,
    key_of,
    other_version,
)
from lary_policy.latents.writer import INDEX_SECONDS, SHARD_ROWS, shard_limit
from lary_policy.machine import available_cores, free_memory, require_extra
from lary_policy.paths import exclusive

REACH_SECONDS = 5.0  # until an address that does not answer is given up; Ray itself takes a minute and more
MOST_BLOCKS = 10_000  # of Ray Data: each costs the driver a few kB
INIT_DEATHS = 8  # encoders in a row that may die while they load, before the run does
# What an encoder and a decoder take of a core that they share: decoding is the lesser part.
ENCODER_CORES, DECODER_CORES = 0.75, 0.25
GIB = 1 << 30
# What a client of HTTP/2, and so of gRPC, says first (RFC 9113, 3.4); a server's first frame: its settings.
_SETTINGS = b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0" * 5
# Nothing is told to Ray's makers; workers that we start wait for others no more than this process would (Ray
# gives them the niceness 15); what Ray logs in C++ is in its files; the last one is a warning of Ray's.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """How a run uses Ray.

    Attributes:
        address: `local` starts a cluster of this machine for the run; `auto` finds the one this machine is
            part of; otherwise `host:port` of a cluster's head.
        encoders: Processes that encode, each with a GPU of its own under device=cuda; None for one a GPU, or
            one a core.
        decoders: Tasks that decode at once; None for the cores that encoders leave.
    """

    address: str = "local"
    encoders: int | None = None
    decoders: int | None = None


def encode_on_cluster(
    windows: Iterable[Window],
    kind: WindowKind,
    encoder: WindowEncoder,
    store: LatentStore,
    *,
    load: Callable[[], WindowEncoder],
    cluster: Cluster,
    device: str = "cpu",
    batch_size: int = 32,
    shard_rows: int = SHARD_ROWS,
    on_progress: OnProgress | None = None,
) -> ExtractReport:
    """Encode every window that the store lacks on a Ray cluster; the store is the one `encode_windows` makes.

    The folder of the store and the files of the frames must be there under the same paths on all machines. A
    worker that dies is replaced and its shard given to another; a driver that dies leaves what was published
    to the next one.

    Arguments are those of `encode_windows`, and `load`, which loads the same encoder on a worker; `cluster`,
    where and by how many; `device`, `cpu` or `cuda` for a GPU of its own for each encoder.

    Raises:
        ConfigError: Ray is missing or not to be reached, or a worker has another version of this package.
        WeightsMismatchError: A worker has another encoder.
        StoreError: As for `encode_windows`, or the cluster broke; what was published is kept.
    """
    start = time.perf_counter()
    check_store(store, encoder, kind)
    inputs = WindowInputs.of(windows, kind)
    place = store.remote or Place(store.root)
    plan = ShardPlan(
        load,
        kind,
        encoder.fingerprint,
        store.latent,
        store.dtype,
        store.packed,
        place,
        batch_size,
        __version__,
    )
    with exclusive(share_lock(store)):
        store.reload()
        lacking = _lacking(inputs, store, whole_batches(shard_limit(store, shard_rows), batch_size))
        total = sum(map(len, lacking.values()))
        merge = _Merge(store, plan.place, inputs, lacking)
        if lacking:
            join_cluster(cluster, device)
            store.publish_identity()
            place.put(f"{RECORDS}/driver.json", [b"{}"])  # or it cannot be written: said before work starts
            with merge:
                for done in _results(plan, inputs, lacking, cluster, device):
                    merge.add(done)
                    if on_progress is not None:
                        on_progress(merge.done, total)
    return inputs.report(merge.encoded, len(inputs.named) - total, time.perf_counter() - start)


def _lacking(inputs: WindowInputs, store: LatentStore, size: int) -> dict[str, tuple[str, ...]]:
    """Return what the store lacks of every `size` windows, by key: another driver finds the same shards."""
    found = (store.missing(names) for names in itertools.batched(inputs.named, size))
    return {key_of(names): names for names in found if names}


def _windows(inputs: WindowInputs, names: Sequence[str]) -> ShardWindows:
    named = {name: inputs.named[name] for name in names}
    return ShardWindows(named, {frame: inputs.ids[frame] for window in named.values() for frame in window})


@dataclass
class _Merge:
    """Enters published shards into the index, which the driver alone writes.

    Attributes:
        store: The store.
        place: Where it is published.
        inputs: The windows.
        lacking: Names of those of each shard, by its key.
        done: Windows that are stored or left out so far.
        encoded: Those encoded by this run.
    """

    store: LatentStore
    place: Place
    inputs: WindowInputs
    lacking: Mapping[str, tuple[str, ...]]
    done: int = 0
    encoded: int = 0
    _indexed: float = field(default_factory=time.monotonic)

    def __enter__(self) -> _Merge:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if kind is None else suppress(StoreError):  # what went wrong is known already
            self.store.publish_index()
            for name in self.place.names(RECORDS):  # only now: the index says what they did
                self.place.remove(f"{RECORDS}/{name}")

    def add(self, done: ShardDone) -> None:
        """Take what became of a shard."""
        if done.order:
            names = self.lacking[done.key]
            self.store.adopt(done.digest, [names[place] for place in done.order])
        for reasons in done.aside:
            self.inputs.set_aside(reasons)
        self.done += len(done.order) + len(done.aside)
        self.encoded += done.encoded
        if time.monotonic() - self._indexed > INDEX_SECONDS:
            self.store.publish_index()
            self._indexed = time.monotonic()


def _results(
    plan: ShardPlan,
    inputs: WindowInputs,
    lacking: Mapping[str, tuple[str, ...]],
    cluster: Cluster,
    device: str,
) -> Iterator[ShardDone]:
    """Yield what became of shards, as they end, in no order."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    for handler in logging.getLogger("ray.data").handlers:  # its files keep what the terminal is not told
        if handler.name == "console":
            handler.setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    try:
        encoders, decoders = _sizes(cluster, device)
        if cluster.address != "local":
            _check_nodes(plan, device)
        blocks = min(len(lacking), MOST_BLOCKS)
        rows = ray.data.from_items(
            [{"shard": _windows(inputs, names)} for names in lacking.values()], override_num_blocks=blocks
        )
        decoded = rows.map_batches(
            partial(decode_shards, plan),
            batch_size=1,
            compute=TaskPoolStrategy(decoders.count),
            **decoders.each,
        )
        encoded = decoded.map_batches(
            ShardEncoder, fn_constructor_args=(plan,), batch_size=1,
            compute=ActorPoolStrategy(size=encoders.count), **encoders.each,
        )  # fmt: skip
        for row in encoded.iter_rows():
            if isinstance(row["shard"], LaryPolicyError):
                raise row["shard"]
            yield row["shard"]
    except ray.exceptions.RayError as error:
        raise StoreError(
            expected="a Ray cluster that works until all latents are stored",
            got=summary(getattr(error, "cause", None) or error, 500),
            fix="Look at its logs, then start the same command again: shards that were published are kept.",
        ) from error


@dataclass(frozen=True)
class _Size:
    """How many of something Ray runs at once, and what it sets aside for each."""

    count: int
    each: dict[str, Any]


def _sizes(cluster: Cluster, device: str) -> tuple[_Size, _Size]:
    """Return the sizes of encoders and decoders: of a cluster without GPUs, each core has one of both."""
    import ray

    there = ray.cluster_resources()
    cores, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if device == "cpu":
        encoders, decoders = cluster.encoders or cores, cluster.decoders or cores
        each = ENCODER_CORES * min(1.0, cores / encoders), DECODER_CORES * min(1.0, cores / decoders)
        return _Size(encoders, {"num_cpus": each[0]}), _Size(decoders, {"num_cpus": each[1]})
    encoders = cluster.encoders or gpus
    if not 0 < encoders <= min(gpus, cores - 1):
        raise ConfigError(
            expected=f"a GPU and a core for each of {encoders or 'some'} encoders, and a core for decoders",
            got=f"a cluster of {gpus} GPUs and {cores} cores",
            fix="Pass ray_encoders=<number of GPUs>, or device=cpu.",
        )
    decoders = cluster.decoders or cores - encoders
    return _Size(encoders, {"num_cpus": 1, "num_gpus": 1}), _Size(decoders, {"num_cpus": 1})


def _check_nodes(plan: ShardPlan, device: str) -> None:
    """Compare package and encoder of every machine of a cluster with the driver's before any work starts."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def version_of() -> str:  # sent as it is: a machine may have no such package, or one without this module
        try:
            from lary_policy import __version__ as found
        except ImportError:
            return "none"
        return found

    def on_each(nodes: Sequence[Mapping[str, Any]], gpus: int, call: Callable[..., Any], *given: Any) -> Any:
        there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        task = ray.remote(num_cpus=0, num_gpus=gpus)(call)
        return ray.get([task.options(scheduling_strategy=one).remote(*given) for one in there])

    nodes = [node for node in ray.nodes() if node["Alive"]]
    for node, found in zip(nodes, on_each(nodes, 0, version_of), strict=True):
        if found != plan.version:
            raise other_version(plan.version, found, node["NodeManagerAddress"])
    able = [node for node in nodes if device == "cpu" or node["Resources"].get("GPU")]
    for fault in on_each(able, int(device != "cpu"), _fault, plan):
        if fault is not None:
            raise fault


def _fault(plan: ShardPlan) -> LaryPolicyError | None:
    try:
        check_worker(plan.version, plan.fingerprint, plan.load)
    except LaryPolicyError as error:
        return error
    return None


def join_cluster(cluster: Cluster, device: str) -> None:
    """Join the cluster, or start one of this machine that ends with this process; once a process.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    require_extra("ray")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == "local":
        cores = available_cores()
        ray.init(
            address="local", num_cpus=cores, num_gpus=0 if device == "cpu" else None, include_dashboard=False,
            object_store_memory=max(GIB // 4, min(cores * GIB, free_memory() // 4)), **quiet,
        )  # fmt: skip
        return
    _require_reachable(cluster.address)
    try:
        ray.init(address=cluster.address, **quiet)
    except Exception as error:  # ConnectionError, RuntimeError (other versions of Ray or Python), ...
        raise _unreachable(cluster.address, summary(error, 300)) from error


def _require_reachable(address: str) -> None:
    """Raise ConfigError unless a server of gRPC, as Ray's is, answers at `host:port`; Ray looks `auto` up."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise _unreachable(address, "no host:port")
    try:
        with socket.create_connection((host, int(port)), REACH_SECONDS) as peer:
            peer.sendall(_GREETING)
            answer = peer.recv(9)
    except OSError as error:
        raise _unreachable(address, summary(error)) from error
    if answer[3:4] != _SETTINGS and os.environ.get("RAY_USE_TLS") != "1":
        raise _unreachable(address, f"something else that listens there and says {answer!r}")


def _unreachable(address: str, got: str) -> ConfigError:
    return ConfigError(
        expected=f"a Ray cluster at {address}: ray_address=local, auto or <host>:<port> of its head",
        got=got,
        fix="Start one with `ray start --head --port=6379`, or leave ray_address out for this machine alone. "
        "A cluster that asks for a token wants RAY_AUTH_MODE=token and its token here, too.",
    )
