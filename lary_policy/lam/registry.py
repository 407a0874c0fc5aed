"""The kinds of latent action model that can be trained: a protocol and who implements it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from lary_policy.encoders import Preprocess
from lary_policy.errors import look_up
from lary_policy.paths import atomic_write

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
        first_state: State of the robot [p s] at the earlier frames, in standard deviations; NaN where it is
            not known, None where the model does not ask.
        second_state: At the later frames.
        chunk: Actions that follow the earlier frames [p a], likewise.
    """

    first: Tensor
    second: Tensor
    first_image: Tensor | None = None
    second_image: Tensor | None = None
    first_state: Tensor | None = None
    second_state: Tensor | None = None
    chunk: Tensor | None = None


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
    """A network with its loss; all parameters that want a gradient are trained, of what is beside it too.

    Attributes:
        codes: Entries of its codebook.
        tokens: Codes of a pair.
        draws: Shape of the normal numbers that one pair takes in a step; empty for none.
    """

    codes: int
    tokens: int
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


# From settings, a first batch of pairs, whose shapes and spread may decide about first weights, and whether
# pixels are predicted, to a module with weights drawn from torch's generator.
LamBuilder = Callable[["LamConfig", FramePair, bool], LamModule]
# From a folder, the weights to keep and what is known of the model, to its files of weights.
LamWriter = Callable[[Path, Mapping[str, Tensor], Any], None]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict as `torch.save` does; equal tensors are equal files, whatever their names."""
    buffer = io.BytesIO()  # of a file torch keeps the name
    torch.save(state, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class LamKind:
    """A kind of model.

    Attributes:
        build: See `LamBuilder`.
        write: See `LamWriter`.
        files: Names of what it writes.
        encoder: Name that the folder is loaded by, `{}` being the backbone's.
        pipeline: How frames become images where that is not the backbone's business; they are in [0, 1].
        states: Whether it learns from states of robots.
        stages: Dataclass of its sizes where it is trained in two stages.
    """

    build: LamBuilder
    write: LamWriter
    files: tuple[str, ...]
    encoder: str
    pipeline: Preprocess | None = None
    states: bool = False
    stages: Callable[..., Any] | None = None


_KINDS: dict[str, LamKind] = {}


def register_lam(
    name: str, write: LamWriter, files: tuple[str, ...], encoder: str, **more: Any
) -> Callable[[LamBuilder], LamBuilder]:
    """Register what builds a kind of model, as a decorator; for the arguments see `LamKind`."""

    def decorate(builder: LamBuilder) -> LamBuilder:
        _KINDS[name] = LamKind(builder, write, files, encoder, **more)
        return builder

    return decorate


def list_lams() -> tuple[str, ...]:
    """Return the names of all kinds."""
    return tuple(sorted(_KINDS))


def lam_kind(name: str) -> LamKind:
    """Return a kind; UnknownNameError lists all."""
    return look_up("latent action model", name, _KINDS)
