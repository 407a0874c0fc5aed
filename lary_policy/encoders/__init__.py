"""Frozen encoders: uint8 frames in, latent tokens out, one registry for all of them."""

from __future__ import annotations

from lary_policy.encoders import auto, families
from lary_policy.encoders.base import (
    EncoderOptions,
    LatentEncoder,
    check_installed,
    encoder_fingerprint,
    encoder_spec,
    find_encoder,
    list_encoders,
    load_encoder,
    register_encoder,
)
from lary_policy.encoders.codebook import CodebookHealth, codebook_health
from lary_policy.encoders.kinds import (
    FrameEncoder,
    PairEncoder,
    PairLatents,
    PairModel,
    PairTokens,
    encode_pairs,
    encode_two,
    pair_spec,
)
from lary_policy.encoders.modules import build_seeded, module_with_weights
from lary_policy.encoders.preprocess import Preprocess, check_frames, prepare_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.streaming import StreamingEncoder, compiled, encode_stream
from lary_policy.encoders.view import EncoderShelf, EncoderView
from lary_policy.encoders.weights import (
    HubRepo,
    Weights,
    WeightsSource,
    WeightsStatus,
    WheelFile,
    find_weights,
)
from lary_policy.paths import import_modules

__all__ = [
    "CodebookHealth",
    "EncoderOptions",
    "EncoderShelf",
    "EncoderSpec",
    "EncoderView",
    "FrameEncoder",
    "HubRepo",
    "LatentEncoder",
    "PairEncoder",
    "PairLatents",
    "PairModel",
    "PairTokens",
    "Preprocess",
    "StreamingEncoder",
    "Weights",
    "WeightsSource",
    "WheelFile",
    "build_seeded",
    "check_frames",
    "check_installed",
    "codebook_health",
    "compiled",
    "encode_pairs",
    "encode_stream",
    "encode_two",
    "encoder_fingerprint",
    "encoder_spec",
    "find_encoder",
    "list_encoders",
    "load_encoder",
    "module_with_weights",
    "pair_spec",
    "prepare_frames",
    "register_encoder",
    "weights_status",
]

import_modules(auto.__name__)
import_modules(families.__name__, packages=True)


def weights_status(name: str) -> WeightsStatus:
    """Return where an encoder's weights would come from on this machine; downloads nothing.

    Args:
        name: Registry name of the encoder.

    Raises:
        UnknownNameError: No such encoder; the message lists the valid names.
    """
    return find_weights(encoder_spec(name).weights)
