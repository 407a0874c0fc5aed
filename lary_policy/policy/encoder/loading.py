"""The encoder that a policy's configuration names, checked against what its checkpoint recorded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import nn

from lary_policy.encoders import LatentEncoder, load_encoder
from lary_policy.encoders.weights import Weights
from lary_policy.errors import ConfigError, LaryPolicyError, WeightsMismatchError, WeightsMissingError
from lary_policy.policy.configuration_lary import DRAWN, EncoderConfig


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder whose weights are those of the configuration, or will come with a checkpoint.

    Attributes:
        encoder: The encoder.
        module: What it runs; registered in a policy, so that it moves and trains with it.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
        awaits: Why the weights are not there yet, where a checkpoint that holds them has to be loaded.
    """

    encoder: LatentEncoder
    module: nn.Module
    fingerprint: str
    awaits: LaryPolicyError | None = None


def load_referenced(config: EncoderConfig, device: str) -> LoadedEncoder:
    """Build the encoder, compare its hash with the recorded one, or record it.

    A checkpoint that holds the weights itself needs no file: where there is none, or another one, the encoder
    is built with random weights and marked as awaiting those of the checkpoint.

    Raises:
        ConfigError: The configuration does not fit the encoder, or it runs no module.
        UnknownNameError: No such encoder.
        WeightsMissingError: The weights are not on this machine.
        WeightsMismatchError: They are not those whose hash is recorded.
    """
    try:
        encoder = _load(config, config.weights, device)
        weights = _weights(encoder)
        if config.sha256 not in (None, weights.sha256):
            raise WeightsMismatchError(
                expected=f"weights of '{config.name}' with sha256 {config.sha256}",
                got=f"{weights.sha256} ({weights.source})",
                fix="What stands on an encoder works with its weights alone.",
            )
    except (WeightsMissingError, WeightsMismatchError) as error:
        if config.sha256 is None:
            raise
        if not config.stores_backbone:
            raise _with_reference(config, error) from error
        encoder = _load(config, config.weights if config.weights in DRAWN else "random", device)
        mixed = hashlib.sha256(f"{encoder.fingerprint} {config.sha256}".encode())
        return LoadedEncoder(
            encoder, _module(encoder), mixed.hexdigest()[:16], _with_reference(config, error)
        )
    config.sha256, config.revision = weights.sha256, weights.source
    return LoadedEncoder(encoder, _module(encoder), encoder.fingerprint)


def _weights(encoder: LatentEncoder) -> Weights:
    """Return the record of an encoder's weights; own encoders without one go by their fingerprint."""
    found = getattr(encoder, "weights", None)
    own = Weights(f"fingerprint-{encoder.fingerprint}", "its own code")
    return found if isinstance(found, Weights) else own


def _module(encoder: LatentEncoder) -> nn.Module:
    """Return what an encoder runs: without a module it could neither move with the policy nor train."""
    module = getattr(encoder, "model", None)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            expected=f"encoder '{encoder.spec.name}' with an nn.Module as its attribute `model`",
            got=type(module).__name__,
            fix="Build it as FrameEncoder, PairEncoder or ClipEncoder, as the package's own encoders are.",
        )
    return module


def _load(config: EncoderConfig, weights: str, device: str) -> LatentEncoder:
    return load_encoder(
        config.name,
        weights=weights,
        image_px=config.image_px,
        preprocess=config.preprocess,
        dtype=config.dtype,
        device=device,
        seed=config.seed,
        output=config.output,
    )


def _with_reference(config: EncoderConfig, error: LaryPolicyError) -> LaryPolicyError:
    """Return the error with what a checkpoint's user can do about it."""
    ways = (
        f"The checkpoint refers to weights that were found as: {config.revision}. Give that file with "
        "--policy.encoder.weights=<path>, or write the checkpoint with --policy.encoder.save=true, which "
        "stores them in it."
    )
    known = "" if isinstance(error, WeightsMismatchError) else f" (sha256 {config.sha256})"
    return type(error)(expected=error.expected + known, got=error.got, fix=f"{error.fix} {ways}")
