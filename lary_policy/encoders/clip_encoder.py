"""The encoder all video families share: a module that sees the frames of a clip together."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lary_policy.encoders.base import EncoderOptions
from lary_policy.encoders.modules import ModuleEncoder, no_grad_if_frozen
from lary_policy.encoders.preprocess import check_frames
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.weights import Weights
from lary_policy.types import LatentSpec

# From frames [b t h w 3] to the frames that the model gets; raises FrameFormatError for a t it cannot use.
FrameRule = Callable[[Tensor], Tensor]


class ClipEncoder(ModuleEncoder):
    """Encodes clips; the number of latent steps follows from the number of frames.

    Args:
        spec: What the encoder is.
        options: Input size, pipeline, dtype and device.
        model: Module from clips [b t 3 h w] to tokens [b t' n d]; it is frozen and moved here.
        weights: Which weights the module holds.
        frame_rule: Which frames of a clip the model gets.
        latent: Output of this module where it is not the spec's (toy sizes).
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
        # The rule decides the latents as well, and two input pipelines may differ in nothing else.
        super().__init__(spec, options, model, weights, latent, rule=frame_rule.__name__)
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
        images = self.prepared(frames, video=True)
        return self.checked(self.model(images.unflatten(0, frames.shape[:2])))
