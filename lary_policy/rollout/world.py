"""What the closed loop needs of a simulator and of a controller: whoever has these can be rolled out.

`lary_envs.SimEnv` with `lary_envs.EndEffectorController` is the pair that comes with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lary_policy.actions import ActionContract


class Steppable(Protocol):
    """Worlds that start, go on and are checked."""

    def reset(self, seeds: Sequence[int], /) -> None:
        """Start an episode in every world; its initial state depends on the world's seed alone."""

    def step(self, commands: Tensor, /, *, validate: bool = True) -> None:
        """Run one control step with a controller's commands `[w, u]`; `validate` may wait for the device."""

    def check(self) -> None:
        """Make sure, waiting for the device, that nothing went wrong unseen; raise what did."""


class Observable(Protocol):
    """Worlds that can be looked at."""

    def frames(self, worlds: Sequence[int] | None = None, /) -> Tensor:
        """Return uint8 RGB `[m, c, h, w, 3]` of the given worlds, all by default."""

    def proprio(self) -> Tensor:
        """Return the measured state `[w, a]` in the layout of the actions."""

    def joints(self) -> Tensor:
        """Return what the controller starts from, `[w, j]`."""


class Judged(Protocol):
    """Worlds that know how far their episodes are."""

    def success(self) -> Tensor:
        """Return bool `[w]`: the task's condition, with its duration, holds now."""

    def progress(self) -> Tensor:
        """Return `[w]` from 0 to 1 that never falls within an episode; 1 means that it succeeded."""

    def diverged(self) -> Tensor:
        """Return bool `[w]`: the simulation broke; the episode cannot go on."""


class World(Steppable, Observable, Judged, Protocol):
    """A batch of w worlds of one task.

    Attributes:
        num_worlds: Worlds w.
        cameras: Names of the c cameras, in the order of `frames`.
        control_hz: Control steps a second.
        max_steps: Control steps of an episode.
        instruction: The task in words.
        contract: What the numbers of an absolute action mean.
        device: Where states, targets and commands live.
    """

    num_worlds: int
    cameras: tuple[str, ...]
    device: torch.device

    @property
    def control_hz(self) -> float:
        """Control steps a second."""

    @property
    def max_steps(self) -> int:
        """Control steps of an episode."""

    @property
    def instruction(self) -> str:
        """The task in words."""

    @property
    def contract(self) -> ActionContract:
        """What the numbers of an absolute action mean."""


class ClosableWorld(World, Protocol):
    """A world that whoever opened it closes."""

    def close(self) -> None:
        """Free what it holds."""


@runtime_checkable
class Described(Protocol):
    """Worlds that can say what state they are in, which a simulator can and a robot cannot."""

    def state(self) -> Mapping[str, Tensor]:
        """Return float32 `[w, q]` of every named quantity: tools, objects, goals."""


@runtime_checkable
class Ending(Protocol):
    """Worlds whose episodes end by rules of their own, before the last step and whatever their success."""

    def ended(self) -> Tensor:
        """Return bool `[w]`: the episode is over."""


class Commanding(Protocol):
    """Turns absolute targets `[w, a]` into commands."""

    def reset(self, joints: Tensor, /) -> None:
        """Start from `World.joints()`."""

    def pose(self) -> Tensor:
        """Return the commanded target `[w, a]` as it is now."""

    def command(self, target: Tensor, /, *, validate: bool = True) -> Tensor:
        """Return the commands `[w, u]` of the next control step; `validate` may wait for the device."""


class Refusing(Protocol):
    """Says which targets cannot be executed, by codes of `lary_policy.types.FAILURES`."""

    def check_codes(self, target: Tensor, /) -> Tensor:
        """Return uint8 `[w]`: why targets `[w, a]` must not be executed, 0 where they may."""

    def out_of_reach(self) -> Tensor:
        """Return bool `[w]`: what executes has come to rest short of its target."""


class Controller(Commanding, Refusing, Protocol):
    """What stands between a policy's targets and a world's commands."""
