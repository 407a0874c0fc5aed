"""The encoder all frame-wise families share: a module behind the input pipeline of its spec."""

from __future__ import annotations

from torch import Tensor

from lary_policy.encoders.modules import PAIR, ModuleEncoder, no_grad_if_frozen
from lary_policy.encoders.preprocess import check_frames


class FrameEncoder(ModuleEncoder):
    """Encodes each frame on its own; its module maps images [b 3 h w] to tokens [b n d]."""

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
        check_frames(frames)
        images = self.prepared(frames, video=frames.shape[1] > PAIR)
        return self.checked(self.model(images)).unflatten(0, frames.shape[:2])
