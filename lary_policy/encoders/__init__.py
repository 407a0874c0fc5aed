"""Frozen encoders: uint8 frames in, latent tokens out, one registry for all of them."""

from __future__ import annotations

from lary_policy.encoders import (
    auto,
    dino,
    efficientnet,
    flux2_vae,
    laq_registry,
    open_magvit2,
    pixels,
    siglip,
    univla,
    villax,
    vjepa,
    wan_vae,
)
from lary_policy.encoders.base import (
    EncoderOptions,
    LatentEncoder,
    encoder_fingerprint,
    encoder_spec,
    find_encoder,
    list_encoders,
    load_encoder,
    register_encoder,
)
from lary_policy.encoders.frame_encoder import FrameEncoder
from lary_policy.encoders.module_weights import module_with_weights
from lary_policy.encoders.pair_encoder import PairEncoder, PairModel, PairTokens
from lary_policy.encoders.preprocess import Preprocess, check_frames, prepare_frames
from lary_policy.encoders.sources import HubRepo, WeightsSource, WheelFile
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights, WeightsStatus
from lary_policy.encoders.weights import weights_status as _weights_status

__all__ = [
    "EncoderOptions",
    "EncoderSpec",
    "FrameEncoder",
    "HubRepo",
    "LatentEncoder",
    "PairEncoder",
    "PairModel",
    "PairTokens",
    "Preprocess",
    "Weights",
    "WeightsSource",
    "WeightsStatus",
    "WheelFile",
    "auto",
    "check_frames",
    "dino",
    "efficientnet",
    "encoder_fingerprint",
    "encoder_spec",
    "find_encoder",
    "flux2_vae",
    "laq_registry",
    "list_encoders",
    "load_encoder",
    "module_with_weights",
    "open_magvit2",
    "pixels",
    "prepare_frames",
    "register_encoder",
    "siglip",
    "univla",
    "villax",
    "vjepa",
    "wan_vae",
    "weights_status",
]


def weights_status(name: str) -> WeightsStatus:
    """Return where an encoder's weights would come from on this machine; downloads nothing.

    Args:
        name: Registry name of the encoder.

    Raises:
        UnknownNameError: No such encoder; the message lists the valid names.
    """
    return _weights_status(encoder_spec(name).weights)
