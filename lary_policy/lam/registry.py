"""The kinds of latent action model that can be trained: a protocol and who implements it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from lary_policy.errors import look_up

if TYPE_CHECKING:
    from lary_policy.lam.config import LamConfig


@dataclass(frozen=True)
class FramePair:
    """A batch of two frames each, as the model sees them.

    Attributes:
        first: Features [p n d] of the earlier frames, or images [p 3 h w] where there is no backbone.
        second: Of the later frames.
        first_image: Images [p 3 h w] of the earlier frames, where the decoder predicts pixels.
        second_image: Of the later frames.
    """

    first: Tensor
    second: Tensor
    first_image: Tensor | None = None
    second_image: Tensor | None = None


@dataclass(frozen=True)
class LamScore:
    """What a model says of p held-out pairs, without noise.

    Attributes:
        error: Mean squared error [p n] of the predicted later frame, by token or patch.
        copied: The same of predicting that nothing changed.
        codes: Codebook indices [p s].
        predicted: The prediction: features [p n d] or images [p 3 h w].
    """

    error: Tensor
    copied: Tensor
    codes: Tensor
    predicted: Tensor


class LamModule(Protocol):
    """A network with its loss; all its parameters are trained.

    Attributes:
        codes: Entries of its codebook.
        draws: Shape of the normal numbers that one pair takes in a step.
    """

    codes: int
    draws: tuple[int, ...]

    @property
    def network(self) -> nn.Module:
        """What is saved."""
        ...

    def loss(self, pairs: FramePair, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch and its codes [p s]; `draws` are its standard normal numbers."""
        ...

    def score(self, pairs: FramePair) -> LamScore:
        """Return how well held-out pairs are predicted."""
        ...

    def tend(self, step: int, used: Tensor, batch_size: int, seed: int) -> int:
        """Tend to the codebook before the weights change; return how many codes were replaced.

        Args:
            step: Number of the step, from 0.
            used: 1 for each code [K] that the batch used, else 0.
            batch_size: Pairs in the batch.
            seed: Of what is drawn.
        """
        ...


# From settings, the shape (n, d) of a frame's features (None without backbone), the side of the images and
# whether pixels are predicted, to a module with weights drawn from torch's generator.
LamBuilder = Callable[["LamConfig", tuple[int, int] | None, int, bool], LamModule]

_KINDS: dict[str, LamBuilder] = {}


def register_lam(name: str) -> Callable[[LamBuilder], LamBuilder]:
    """Register what builds a kind of model, as in `@register_lam("laq")` above a function."""

    def decorate(builder: LamBuilder) -> LamBuilder:
        _KINDS[name] = builder
        return builder

    return decorate


def list_lams() -> tuple[str, ...]:
    """Return the names of all kinds."""
    return tuple(sorted(_KINDS))


def build_lam(
    config: LamConfig, features: tuple[int, int] | None, image_px: int, *, pixels: bool
) -> LamModule:
    """Build an untrained model, see `LamBuilder`; UnknownNameError lists all kinds."""
    return look_up("latent action model", config.model, _KINDS)(config, features, image_px, pixels)
