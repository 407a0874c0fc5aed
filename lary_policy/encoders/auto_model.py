"""What `auto:` has to know about a model before it can build it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lary_policy.encoders.preprocess import Preprocess
from lary_policy.encoders.sources import HubRepo
from lary_policy.encoders.weights import Weights


@dataclass(frozen=True)
class AutoModelSource:
    """A model found by name, not built yet.

    Attributes:
        image_px: Side of the images it is made for.
        preprocess: Its own input pipeline.
        build: From the input side to the model with weights drawn from torch's generator.
        load: From the input side and a checkpoint's tensors to the model; raises WeightsMismatchError.
        channels_last: Whether its feature maps are [b h w d].
        licence: As its configuration says.
        hub: Repository of its weights where the name itself is none.
    """

    image_px: int
    preprocess: Preprocess
    build: Callable[[int], nn.Module]
    load: Callable[[int, Mapping[str, Tensor], Weights], nn.Module]
    channels_last: bool = False
    licence: str = "see its page"
    hub: HubRepo | None = None


def three(values: Iterable[float]) -> tuple[float, float, float]:
    """Return one number for each of red, green and blue."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
