"""Kinds of heads and what they can be asked; a kind is one file of this package that registers itself."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from lary_policy.errors import UnknownNameError, look_up
from lary_policy.heads.objective import Objective
from lary_policy.heads.pool import LatentShape, TokenGrid
from lary_policy.paths import import_modules

Head = nn.Module
DRAWING = threading.RLock()  # held by who draws from torch's global generator, as heads train in threads
Answer = Literal["numbers", "class"]
# What a head can be asked, and what kind of answer that needs.
QUESTIONS: Mapping[str, Answer] = {
    "pair": "numbers",  # the actions between two frames
    "subgoal": "numbers",  # the same, asked in closed loop with a frame of a demonstration as the second
    "policy": "numbers",  # the next actions from present and past frames, with or without proprioception
    "state": "numbers",  # where things are in a frame
    "forward": "numbers",  # what a frame becomes after given actions
    "atomic": "class",  # the primitive that two frames show
    "composite": "class",  # the action that a clip shows
}


class ModelConfig(Protocol):
    """Sizes of a head: a frozen dataclass.

    Attributes:
        kind: Name of the kind of head, the same for all its sizes.
    """

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `mlp512-project32`."""
        ...


@dataclass(frozen=True)
class HeadSizes:
    """What a head's shape depends on beside its configuration.

    Attributes:
        latent_shape: (t, c, n, d) of one sample.
        chunk: Actions k of one chunk; numbers only.
        action_dim: Numbers a of one action; numbers only.
        num_classes: Classes only.
        proprio_dim: Length of the proprioception vector, 0 for none.
        token_grid: Layout of the n tokens, or None.
    """

    latent_shape: LatentShape
    chunk: int = 0
    action_dim: int = 0
    num_classes: int = 0
    proprio_dim: int = 0
    token_grid: TokenGrid | None = None


@dataclass(frozen=True)
class HeadKind:
    """One architecture.

    Attributes:
        config: Dataclass of its sizes.
        build: Sizes to an untrained module, which is called with latents `[b t c n d]` and, where it has a
            `proprio_dim`, proprioception `[b p]`; it may draw weights from torch's global generator.
        answer: `numbers` (normalised, `[b k a]`) or `class` (logits `[b classes]`).
        objective: Sizes to what it is trained on.
    """

    config: type[ModelConfig]
    build: Callable[[Any, HeadSizes], nn.Module]
    answer: Answer
    objective: Callable[[Any], Objective]

    def fits(self, question: str) -> bool:
        """Return whether it can answer a question of `QUESTIONS`.

        Raises:
            UnknownNameError: There is no such question.
        """
        if question not in QUESTIONS:
            raise UnknownNameError("question to a head", question, QUESTIONS)
        return QUESTIONS[question] == self.answer


_KINDS: dict[str, HeadKind] = {}


def register_head(kind: HeadKind) -> None:
    """Make a kind of head known under the name in its configuration."""
    _KINDS[kind.config.kind] = kind


@functools.cache
def head_kinds() -> Mapping[str, HeadKind]:
    """Return every kind of head by name: what the modules of this package register."""
    import_modules("lary_policy.heads")
    return _KINDS


def head_kind(name: str) -> HeadKind:
    """Return a kind of head.

    Raises:
        UnknownNameError: There is none of that name; the message lists the known ones.
    """
    return look_up("head kind", name, head_kinds())


def build_module(
    model: ModelConfig,
    latent_shape: LatentShape,
    *,
    chunk: int = 0,
    action_dim: int = 0,
    num_classes: int = 0,
    proprio_dim: int = 0,
    token_grid: TokenGrid | None = None,
    seed: int = 0,
) -> Head:
    """Build an untrained head with initial weights that depend on `seed` alone.

    Args:
        model: Its sizes.
        latent_shape: See `HeadSizes`, as for the others.
        chunk: Actions of one chunk.
        action_dim: Numbers of one action.
        num_classes: Classes.
        proprio_dim: Length of the proprioception vector.
        token_grid: Layout of the tokens.
        seed: Of the weights; the global random state is not touched.

    Raises:
        ConfigError: The latents lack what the head's pool needs.
    """
    sizes = HeadSizes(latent_shape, chunk, action_dim, num_classes, proprio_dim, token_grid)
    with DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return head_kind(model.kind).build(model, sizes)
