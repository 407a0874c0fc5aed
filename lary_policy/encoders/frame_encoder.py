"""The encoder all frame-wise families share: a module behind the input pipeline of its spec."""

from __future__ import annotations

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, encoder_fingerprint
from lary_policy.encoders.modules import device_of, no_grad_if_frozen
from lary_policy.encoders.preprocess import prepare_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights
from lary_policy.errors import ShapeError
from lary_policy.types import LatentSpec


class FrameEncoder:
    """Encodes each frame on its own.

    Args:
        spec: What the encoder is.
        options: Input size, pipeline, dtype and device.
        model: Module from images [b 3 h w] to tokens [b n d]; it is frozen and moved here.
        weights: Which weights the module holds.
        latent: Output of this module where it is not the spec's (toy sizes, models found by name).

    Attributes:
        spec: As given.
        latent: Output at `options.image_px`.
        fingerprint: 16 hex digits; equal fingerprints give equal latents.
        weights: As given.
        model: The frozen module.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        options: EncoderOptions,
        model: nn.Module,
        weights: Weights,
        latent: LatentSpec | None = None,
    ) -> None:
        self.spec = spec
        self.latent = latent or spec.latent_at(options.image_px)
        self.weights = weights
        self.fingerprint = encoder_fingerprint(spec, options, weights.sha256)
        self.model = model.to(options.device, options.dtype).eval().requires_grad_(False)
        self._options = options
        self._preprocess = spec.preprocess_named(options.preprocess)

    @no_grad_if_frozen
    def encode(self, frames: Tensor) -> Tensor:
        """Encode frames without gradients while the module is frozen, as it is when loaded.

        Args:
            frames: uint8 RGB [b t h w 3] of any size, on any device.

        Returns:
            Latents [b t n d] in the encoder's dtype on its device.

        Raises:
            FrameFormatError: Frames are not non-empty uint8 [b t h w 3].
            ShapeError: The model's output contradicts the latent spec.
        """
        options = self._options
        images = prepare_frames(
            frames,
            options.image_px,
            self._preprocess,
            device=device_of(self.model, options.device),
            dtype=options.dtype,
        )
        tokens = self.model(images)
        if tokens.shape[1:] != (self.latent.tokens, self.latent.width):
            raise ShapeError(
                expected=f"tokens [b {self.latent.tokens} {self.latent.width}] from '{self.spec.name}'",
                got=str(list(tokens.shape)),
                fix="Correct the encoder's LatentSpec or its module.",
            )
        return tokens.unflatten(0, frames.shape[:2])
