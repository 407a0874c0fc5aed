"""The encoder all video families share: a module that sees the frames of a clip together."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions, encoder_fingerprint
from lary_policy.encoders.modules import device_of, no_grad_if_frozen
from lary_policy.encoders.preprocess import check_frames, prepare_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights
from lary_policy.errors import ShapeError
from lary_policy.types import LatentSpec

# From frames [b t h w 3] to the frames that the model gets; raises FrameFormatError for a t it cannot use.
FrameRule = Callable[[Tensor], Tensor]


class ClipEncoder:
    """Encodes clips; the number of latent steps follows from the number of frames.

    Args:
        spec: What the encoder is.
        options: Input size, pipeline, dtype and device.
        model: Module from clips [b t 3 h w] to tokens [b t' n d]; it is frozen and moved here.
        weights: Which weights the module holds.
        frame_rule: Which frames of a clip the model gets.
        latent: Output of this module where it is not the spec's (toy sizes).

    Attributes:
        spec: As given.
        latent: Output of one latent step at `options.image_px`.
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
        frame_rule: FrameRule,
        latent: LatentSpec | None = None,
    ) -> None:
        self.spec = spec
        self.latent = latent or spec.latent_at(options.image_px)
        self.weights = weights
        # The rule decides the latents as well, and two input pipelines may differ in nothing else.
        self.fingerprint = encoder_fingerprint(spec, options, f"{weights.sha256} {frame_rule.__name__}")
        self.model = model.to(options.device, options.dtype).eval().requires_grad_(False)
        self._options = options
        self._preprocess = spec.preprocess_named(options.preprocess)
        self._frame_rule = frame_rule

    @no_grad_if_frozen
    def encode(self, frames: Tensor) -> Tensor:
        """Encode clips without gradients while the module is frozen, as it is when loaded.

        Args:
            frames: uint8 RGB [b t h w 3] of any size, on any device.

        Returns:
            Latents [b t' n d] in the encoder's dtype on its device.

        Raises:
            FrameFormatError: Frames are not non-empty uint8 [b t h w 3], or the model cannot use t frames.
            ShapeError: The model's output contradicts the latent spec.
        """
        check_frames(frames)
        frames = self._frame_rule(frames)
        options = self._options
        images = prepare_frames(
            frames,
            options.image_px,
            self._preprocess,
            device=device_of(self.model, options.device),
            dtype=options.dtype,
        )
        tokens = self.model(images.unflatten(0, frames.shape[:2]))
        if tokens.shape[2:] != (self.latent.tokens, self.latent.width):
            raise ShapeError(
                expected=f"tokens [b t {self.latent.tokens} {self.latent.width}] from '{self.spec.name}'",
                got=str(list(tokens.shape)),
                fix="Correct the encoder's LatentSpec or its module.",
            )
        return tokens
