"""Who decides what the robot does next: a trained head on an encoder's latents, or the scripted expert."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lary_policy.actions import ActionCodec, ActionStats, Embodiment, require_stats
from lary_policy.encoders import LatentEncoder
from lary_policy.errors import ShapeError
from lary_policy.machine import intra_op_threads
from lary_policy.rollout.live import LiveLatents

if TYPE_CHECKING:
    from lary_envs import Expert


@dataclass(frozen=True)
class Observation:
    """What an agent may look at when it plans.

    Attributes:
        frames: uint8 `[m c h w 3]` of the observed worlds, or None for agents that do not need frames.
        proprio: Measured state `[w a]` in the embodiment's layout.
        last_target: Absolute target `[w a]` that was executed last.
        chunk_index: How many chunks were executed in this episode.
        worlds: Indices `[m]` of the observed worlds; None when all are. The others need no plan.
    """

    frames: Tensor | None
    proprio: Tensor
    last_target: Tensor
    chunk_index: int
    worlds: Tensor | None = None

    def seen(self) -> tuple[Tensor, Tensor]:
        """Return frames `[m c h w 3]` and measured state `[m a]` of the observed worlds.

        Raises:
            ShapeError: There are no frames.
        """
        if self.frames is None:
            raise ShapeError(expected="frames", got="None", fix="Run the episodes with frames switched on.")
        return self.frames, self.proprio if self.worlds is None else self.proprio[self.worlds]

    def one_by_one(self) -> list[Observation]:
        """Return the observation of each observed world by itself, in their order.

        Raises:
            ShapeError: There are no frames.
        """
        frames, proprio = self.seen()
        rows = torch.arange(len(proprio), device=proprio.device) if self.worlds is None else self.worlds
        pairs = zip(frames.split(1), rows.split(1), strict=True)
        return [replace(self, frames=frame, worlds=world) for frame, world in pairs]


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

    In mode `policy` the head sees the present frame (of an encoder of pairs or clips: what changed since the
    last plan). In mode `subgoal` it also sees a held-out demonstration's frame one chunk ahead and acts as
    the inverse model that the pair probe trained. Frames, latents, states and targets stay on their device.

    Args:
        encoder: Frozen encoder.
        head: Maps latents `[w t c n d]` (and proprioception `[w p]`) to normalised chunks `[w k a]`.
        embodiment: Layout of the actions.
        stats: Statistics that undo the normalisation of targets.
        target: `absolute` or `relative` (to the measured pose at the start of the chunk).
        proprio_stats: Statistics of the proprioceptive input, or None when the head takes none.
        goals: Each world's demonstration at chunk boundaries, see `LiveLatents`; None for `policy`.
        goal_lengths: Valid entries `[w]` of `goals`; later chunks keep aiming at the last one.
        threads: Intra-op CPU threads of encoder and head.
        alone: Encode and predict for one world after the other. A larger batch is faster, but rounds
            differently: alone, an episode is the same to the last bit whatever worlds it shares a wave with.

    Raises:
        EmbodimentError: Statistics do not fit the embodiment.
        ShapeError: Only one of `goals` and `goal_lengths` is given, or the goals are of the wrong kind.
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
        alone: bool = False,
    ) -> None:
        require_stats(stats, embodiment, "action statistics")
        self._head, self._threads, self._alone = head.eval(), threads, alone
        self._codec = ActionCodec.of(embodiment, stats, target, proprio_stats)
        self._latents = LiveLatents(encoder, goals, goal_lengths)

    @torch.inference_mode()
    def plan(self, observation: Observation) -> Tensor:
        """Encode the live frames once and return one chunk `[w k a]` of absolute targets.

        Worlds that were not observed keep their last target.

        Raises:
            ShapeError: There are no frames.
        """
        with intra_op_threads(self._threads):
            parts = observation.one_by_one() if self._alone else [observation]
            chunk = torch.cat([self._chunk(part) for part in parts])
        return hold_unobserved(chunk, observation)

    def _chunk(self, observation: Observation) -> Tensor:
        """Return the chunks `[m k a]` of the observed worlds."""
        frames, proprio = observation.seen()
        codec = self._codec.to(proprio.device)
        num_worlds = len(observation.proprio)
        latents = self._latents(frames, observation.chunk_index, observation.worlds, num_worlds)
        state = codec.state(proprio)
        output = self._head(latents, None if state is None else state.to(latents.device))
        return codec.absolute(output, proprio)


def hold_unobserved(chunk: Tensor, observation: Observation) -> Tensor:
    """Return the plan `[w k a]` of all worlds: chunks `[m k a]` of the observed ones, the others stay."""
    if observation.worlds is None:
        return chunk
    plan = observation.last_target.unsqueeze(1).repeat(1, chunk.shape[1], 1)
    plan[observation.worlds] = chunk.to(plan)
    return plan
