"""What the workers of a cluster do with shards: tasks decode their frames, actors encode and publish them.

Before a shard is published, a record of what will hold it is: whoever is given its windows again (a worker
died) finds both and encodes nothing. Nothing depends on clocks, and locks end with the processes that hold
them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lary_policy import __version__
from lary_policy.encoders import encode_stream
from lary_policy.errors import ConfigError, LaryPolicyError, WeightsMismatchError
from lary_policy.frames import Frame
from lary_policy.latents.encode import Window, WindowEncoder, WindowInputs, WindowKind, checked_encode
from lary_policy.latents.places import Place
from lary_policy.latents.shards import SUFFIX, shard_content
from lary_policy.latents.store import SHARDS, STORE_DTYPES
from lary_policy.latents.writer import cast_parts
from lary_policy.types import LatentSpec

RECORDS = "unmerged"  # folder of a store: which shard holds which windows, until the index says so


def key_of(names: Iterable[str]) -> str:
    """Return what names windows that make a shard (64 hex digits)."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


@dataclass(frozen=True)
class ShardWindows:
    """The windows of one shard, and the ids of their frames."""

    named: Mapping[str, Window]
    ids: Mapping[Frame, str]


@dataclass(frozen=True)
class DecodedShard:
    """A shard's batches: names, arrays of frames `[m h w 3]` and places `[p t]`; what is left out, why."""

    key: str
    named: tuple[str, ...]
    groups: list[tuple[list[str], Any, Any]]
    aside: list[dict[str, str]]


@dataclass(frozen=True)
class ShardDone:
    """A shard, which window each row holds, how many were encoded now, what is left out and why.

    Windows are named by their places in what was given out: names that come back would be the driver's twice.
    """

    key: str
    digest: str
    order: list[int]
    encoded: int
    aside: list[dict[str, str]]


@dataclass(frozen=True)
class ShardPlan:
    """What every worker is told.

    Attributes:
        load: Loads the encoder; may be sent to other machines.
        kind: What windows are.
        fingerprint: Of the driver's encoder.
        latent: Shape of a latent.
        dtype: Dtype of the store.
        packed: Whether shards are compressed.
        place: Where the store is published.
        batch_size: Windows encoded at once.
        version: Of the driver's package.
    """

    load: Callable[[], WindowEncoder]
    kind: WindowKind
    fingerprint: str
    latent: LatentSpec
    dtype: str
    packed: bool
    place: Place
    batch_size: int
    version: str

    def published(self, key: str) -> ShardDone | None:
        """Return what was published of the windows of this key, if anything was."""
        text = self.place.get(f"{RECORDS}/{key}.json")
        if text is None:
            return None
        found = json.loads(text)
        if not self.place.holds(f"{SHARDS}/{found['shard']}{SUFFIX}"):
            return None
        return ShardDone(key, found["shard"], found["order"], 0, found["aside"])


def other_version(expected: str, got: str, where: str) -> ConfigError:
    """Return what is said of a machine whose package has another version than the driver's."""
    return ConfigError(
        expected=f"lary_policy {expected} on every machine of the cluster, as on the one that started it",
        got=f"{got} on {where}",
        fix="Install the same wheel, or the same commit of a clone, on all of them and start Ray there anew.",
    )


def check_worker(version: str, fingerprint: str, load: Callable[[], WindowEncoder]) -> WindowEncoder:
    """Load the encoder on a worker and compare both with the driver's.

    Raises:
        ConfigError: The package has another version.
        WeightsMismatchError: The encoder has another fingerprint.
        LaryPolicyError: It cannot be loaded.
    """
    host = socket.gethostname()
    if version != __version__:
        raise other_version(version, __version__, host)
    encoder = load()
    if encoder.fingerprint != fingerprint:
        raise WeightsMismatchError(
            expected=f"the encoder {fingerprint} on every machine of the cluster",
            got=f"{encoder.fingerprint} on {host}: other weights, or another version of its code",
            fix="Put the same weight files and packages on all machines, e.g. on a folder that they share.",
        )
    return encoder


class ShardEncoder:
    """An actor: loads the encoder once, encodes and publishes one shard after the other."""

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._fault: LaryPolicyError | None = None
        torch.set_num_threads(1)
        try:
            self._encoder = check_worker(plan.version, plan.fingerprint, plan.load)
            self._encode = checked_encode(plan.kind, self._encoder, plan.latent)
        except LaryPolicyError as error:
            self._fault = error  # an actor that dies would be started again

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Encode and publish the shards of a batch of rows."""
        return _each(rows, self._publish)

    def _publish(self, shard: DecodedShard | LaryPolicyError) -> ShardDone:
        if self._fault is not None:
            raise self._fault
        if isinstance(shard, LaryPolicyError):
            raise shard
        plan = self._plan
        known = plan.published(shard.key)
        if known is not None:
            return known
        names: list[str] = []
        outputs: list[Sequence[torch.Tensor]] = []
        pin = torch.cuda.is_initialized()
        groups = ((n, tuple(_tensor(a, pin) for a in arrays)) for n, *arrays in shard.groups)
        for some, made in encode_stream(self._encode, groups):
            names.extend(some)
            outputs.append([one.detach().cpu() for one in made])
        if not names:
            return ShardDone(shard.key, "", [], 0, shard.aside)
        latents, *codes = ([made[place] for made in outputs] for place in range(len(outputs[0])))
        del outputs
        rows = cast_parts(latents, plan.latent, STORE_DTYPES[plan.dtype])
        all_codes = torch.cat(codes[0]) if codes else None
        digest, parts = shard_content(names, rows, all_codes, packed=plan.packed)
        places = {name: place for place, name in enumerate(shard.named)}
        order = [places[name] for name in names]
        record = json.dumps({"shard": digest, "order": order, "aside": shard.aside}).encode()
        plan.place.put(f"{RECORDS}/{shard.key}.json", [record])
        plan.place.put(f"{SHARDS}/{digest}{SUFFIX}", parts)
        return ShardDone(shard.key, digest, order, len(names), shard.aside)


def _tensor(array: Any, pin: bool) -> torch.Tensor:
    found = torch.from_numpy(array)
    return found.pin_memory() if pin else found


def decode_shards(plan: ShardPlan, rows: dict[str, Any]) -> dict[str, Any]:
    """Decode the batches of shards, each different frame of a batch once."""
    torch.set_num_threads(1)

    def decode(shard: ShardWindows) -> DecodedShard:
        found = DecodedShard(key_of(shard.named), tuple(shard.named), [], [])
        inputs = WindowInputs(plan.kind, 0, shard.named, shard.ids, {})
        for batch in itertools.batched(shard.named, plan.batch_size):
            groups, aside = inputs.decode(batch)
            found.groups.extend((names, frames.numpy(), at.numpy()) for names, (frames, at) in groups)
            found.aside.extend(aside)
        return found

    return _each(rows, decode)


def _each(rows: dict[str, Any], work: Callable[[Any], Any]) -> dict[str, Any]:
    """Do the work of each row of a batch of Ray Data; a named error is a result, which the driver raises."""
    out = np.empty(len(rows["shard"]), object)
    for place, shard in enumerate(rows["shard"]):
        try:
            out[place] = work(shard)
        except LaryPolicyError as error:
            out[place] = error
    return {"shard": out}
