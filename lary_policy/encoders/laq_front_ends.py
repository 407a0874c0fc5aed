"""The frozen networks that latent action quantisers look through, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lary_policy.encoders import dino, siglip
from lary_policy.encoders.checkpoint import load_strictly
from lary_policy.encoders.magvit2 import Magvit2Autoencoder, Magvit2Config, magvit2_tensors
from lary_policy.encoders.open_magvit2 import OPEN_MAGVIT2
from lary_policy.encoders.sources import WeightsSource
from lary_policy.encoders.spec import EncoderSpec
from lary_policy.encoders.transformers_vit import TINY, TransformersVit
from lary_policy.encoders.weights import Weights


@dataclass(frozen=True)
class FrontEnd:
    """A frozen network from images [m 3 h w] to tokens [m n d].

    Attributes:
        name: For messages.
        weights: Places that carry its own weights.
        prefix: What its tensors' names begin with inside a quantiser's checkpoint.
        tiny_width: Width d of the toy model's tokens.
        module: Returns the network, or the toy model for True, with weights drawn from torch's generator.
        pretrained: Returns the network with a checkpoint's tensors; WeightsMismatchError if they do not fit.
    """

    name: str
    weights: WeightsSource
    prefix: str
    tiny_width: int
    module: Callable[[bool], nn.Module]
    pretrained: Callable[[Mapping[str, Tensor], Weights], nn.Module]


class Magvit2Tokens(nn.Module):
    """Open-MAGVIT2's features in front of its quantiser, row by row: [m 3 h w] -> [m n 18]."""

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        # Whole, because checkpoints hold both halves and the paper's table counts both.
        self.autoencoder = Magvit2Autoencoder(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens; only the encoder runs."""
        return self.autoencoder.encoder(images).flatten(2).mT


def load_magvit2(
    tensors: Mapping[str, Tensor], origin: Weights, config: Magvit2Config | None = None
) -> Magvit2Tokens:
    """Return Open-MAGVIT2 with the tensors of an upstream checkpoint.

    The raw weights, not the averaged ones: the quantiser was trained on what the raw encoder makes.

    Args:
        tensors: State dict by upstream names.
        origin: Where the tensors come from, for messages.
        config: Sizes, the published ones by default.

    Raises:
        WeightsMismatchError: A tensor is missing, left over or of another shape.
    """
    model = Magvit2Tokens(config)
    for part, half in model.autoencoder.named_children():
        load_strictly(half, magvit2_tensors(dict(tensors), part, ema=False), origin)
    return model


def vit_front_end(spec: EncoderSpec, vit: TransformersVit, prefix: str) -> FrontEnd:
    """Return a vision transformer that is an encoder of its own as a front end.

    Args:
        spec: That encoder.
        vit: Its architecture.
        prefix: See `FrontEnd`.
    """
    return FrontEnd(
        spec.name,
        spec.weights,
        prefix,
        tiny_width=TINY["hidden_size"],
        module=lambda tiny: vit.module(tiny=tiny),
        pretrained=vit.pretrained,
    )


DINOV2 = vit_front_end(dino.LARGE, dino.VITS["dinov2-large"], "dino_tokenizer.")
DINOV3 = vit_front_end(dino.DINOV3_SPECS[-1], dino.VITS["dinov3-large"], "dino_tokenizer.")
SIGLIP2 = vit_front_end(siglip.BASE, siglip.VITS["siglip2-base"], "encoder.vision_model.")
MAGVIT2 = FrontEnd(
    OPEN_MAGVIT2.name,
    OPEN_MAGVIT2.weights,
    "magvit2_tokenizer.",
    tiny_width=Magvit2Config().bits,
    module=lambda tiny: Magvit2Tokens(Magvit2Config(base_channels=32, blocks=1) if tiny else None),
    pretrained=load_magvit2,
)
