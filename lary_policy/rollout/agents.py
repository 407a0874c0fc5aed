"""Who decides what the robot does next: a trained head on an encoder's latents, or the scripted expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lary_policy.embodiment import ActionStats, Embodiment
from lary_policy.encoders import LatentEncoder
from lary_policy.errors import ShapeError
from lary_policy.threads import intra_op_threads

if TYPE_CHECKING:
    from lary_envs import Expert


@dataclass(frozen=True)
class Observation:
    """What an agent may look at when it plans.

    Attributes:
        frames: uint8 `[w c h w 3]`, or None for agents that do not need frames.
        proprio: Measured pose `[w a]` in the embodiment's layout.
        last_target: Absolute pose `[w a]` that was executed last.
        chunk_index: How many chunks were executed in this episode.
    """

    frames: Tensor | None
    proprio: Tensor
    last_target: Tensor
    chunk_index: int


class Agent(Protocol):
    """Plans chunks of absolute end-effector targets for w worlds at once."""

    needs_frames: bool

    def plan(self, observation: Observation) -> Tensor:
        """Return `[w k a]` absolute targets."""
        ...


class ExpertAgent:
    """The scripted expert, one step at a time: the ceiling of every table."""

    needs_frames = False

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        expert.reset()

    def plan(self, observation: Observation) -> Tensor:
        """Return `[w 1 a]`, the expert's next target."""
        return self._expert.act(observation.last_target).unsqueeze(1)


class HeadAgent:
    """An action head behind a frozen encoder.

    In mode `policy` the head sees the present frame. In mode `subgoal` it also sees the frame of a held-out
    demonstration one chunk ahead and acts as the inverse model that the pair probe trained.

    Args:
        encoder: Frozen encoder.
        head: Maps latents `[w t c n d]` (and proprioception `[w p]`) to normalised chunks `[w k a]`.
        embodiment: Layout of the actions.
        stats: Statistics that undo the normalisation of targets.
        target: `absolute` or `relative` (to the measured pose at the start of the chunk).
        proprio_stats: Statistics of the proprioceptive input, or None when the head takes none.
        goals: Latents `[w j c n d]` of each world's demonstration at chunk boundaries, or None for `policy`.
        goal_lengths: Valid entries `[w]` of `goals`; later chunks keep aiming at the last one.
        threads: Intra-op CPU threads of encoder and head.
    """

    needs_frames = True

    def __init__(
        self,
        encoder: LatentEncoder,
        head: nn.Module,
        embodiment: Embodiment,
        stats: ActionStats,
        *,
        target: str,
        proprio_stats: ActionStats | None = None,
        goals: Tensor | None = None,
        goal_lengths: Tensor | None = None,
        threads: int = 1,
    ) -> None:
        if (goals is None) != (goal_lengths is None):
            raise ShapeError(
                expected="goals together with goal_lengths",
                got="only one of them",
                fix="Pass both or neither.",
            )
        self._encoder, self._head = encoder, head.eval()
        self._embodiment, self._stats, self._relative = embodiment, stats, target == "relative"
        self._proprio_stats, self._threads = proprio_stats, threads
        self._goals, self._goal_lengths = goals, goal_lengths

    @torch.inference_mode()
    def plan(self, observation: Observation) -> Tensor:
        """Encode the live frames once and return one chunk `[w k a]` of absolute targets on the CPU."""
        if observation.frames is None:
            raise ShapeError(expected="frames", got="None", fix="Run the episodes with frames switched on.")
        with intra_op_threads(self._threads):
            live = self._encode(observation.frames).unsqueeze(1)
            if self._goals is not None and self._goal_lengths is not None:
                step = torch.minimum(
                    torch.full_like(self._goal_lengths, observation.chunk_index + 1), self._goal_lengths - 1
                )
                goal = self._goals[torch.arange(len(step)), step].to(live)
                live = torch.cat([live, goal.unsqueeze(1)], 1)
            proprio = None
            if self._proprio_stats is not None:
                proprio = self._proprio_stats.normalise(observation.proprio).to(live.device)
            chunk = self._stats.denormalise(self._head(live, proprio).float().cpu())
        if self._relative:
            chunk = self._embodiment.to_absolute(chunk, observation.proprio)
        return chunk

    def _encode(self, frames: Tensor) -> Tensor:
        worlds, cameras = frames.shape[:2]
        latents = self._encoder.encode(frames.flatten(0, 1).unsqueeze(1))
        return latents.reshape(worlds, cameras, *latents.shape[-2:]).float()
