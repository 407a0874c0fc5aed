"""Who decides what the robot does next: a trained head on an encoder's latents, or the scripted expert."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lary_policy.actions import ActionCodec, ActionStats, Embodiment, require_stats
from lary_policy.encoders import LatentEncoder, StreamingEncoder, encode_two
from lary_policy.errors import ShapeError
from lary_policy.latents import good_batch_size
from lary_policy.machine import intra_op_threads, made_ahead

if TYPE_CHECKING:
    from lary_envs import Expert


class LiveLatents:
    """Turns the frames of each plan into what the head was trained on.

    | encoders | `policy` | `subgoal` |
    |---|---|---|
    | of frames | latent of the live frame | latents of the live and of the goal frame |
    | of pairs, clips | latent of (frame at the last plan, live frame) | latent of (live frame, goal frame) |

    At a world's first plan there is no last frame: the live frame stands for it, as at the start of an
    episode in training.

    Args:
        encoder: Frozen encoder.
        goals: What each world's demonstration shows at chunk boundaries: latents `[w j c n d]` for frame
            encoders, uint8 frames `[w j c h w 3]` for pair and clip encoders; None in mode `policy`.
        goal_lengths: Valid entries `[w]` of `goals`; later chunks keep aiming at the last one.
        threads: Threads that encode a few frames each, of a frame encoder on the CPU.

    Raises:
        ShapeError: Only one of `goals` and `goal_lengths` is given, or the goals are of the other kind.
    """

    def __init__(
        self, encoder: LatentEncoder, goals: Tensor | None, goal_lengths: Tensor | None, threads: int = 1
    ) -> None:
        if (goals is None) != (goal_lengths is None):
            raise ShapeError(
                expected="goals together with goal_lengths",
                got="only one of them",
                fix="Pass both or neither.",
            )
        self._alone = encoder.latent.kind == "frame"
        if goals is not None and (goals.dtype == torch.uint8) == self._alone:
            raise ShapeError(
                expected=f"goals as {'latents' if self._alone else 'uint8 frames'} for '{encoder.spec.name}'",
                got=f"{goals.dtype} {list(goals.shape)}",
                fix="Pass latents to frame encoders and frames to encoders of pairs and clips.",
            )
        self._encoder, self._goals, self._lengths, self._threads = encoder, goals, goal_lengths, threads
        self._stream: StreamingEncoder | None = None

    def __call__(self, frames: Tensor, chunk_index: int, worlds: Tensor | None, num_worlds: int) -> Tensor:
        """Return float32 latents `[m t c n d]`.

        Args:
            frames: Live frames, uint8 `[m c h w 3]`.
            chunk_index: How many chunks were executed.
            worlds: Indices `[m]` of the worlds the frames are of; None for all.
            num_worlds: Number w of all worlds.
        """
        if self._alone:
            live = self._each(frames)
            goal = self._goal(chunk_index, worlds)
            seen = live if goal is None else torch.cat([live, goal.to(live)], 1)
        else:
            seen = self._change(frames, self._goal(chunk_index, worlds), worlds, num_worlds)
        return seen.float()

    def _goal(self, chunk_index: int, worlds: Tensor | None) -> Tensor | None:
        """Return the next goal of the worlds `[m 1 ...]`, or None in mode `policy`."""
        if self._goals is None or self._lengths is None:
            return None
        rows = torch.arange(len(self._goals), device=self._goals.device) if worlds is None else worlds
        last = self._lengths.to(rows.device)[rows] - 1
        return self._goals[rows, last.clamp(max=chunk_index + 1).to(self._goals.device)].unsqueeze(1)

    def _each(self, frames: Tensor) -> Tensor:
        flat = frames.flatten(0, 1).unsqueeze(1)
        on_cpu = flat.device.type == "cpu"
        parts = flat.split(good_batch_size("cpu") if on_cpu else len(flat))
        beside = self._threads if on_cpu and self._threads > 1 else 0
        latents = torch.cat(list(made_ahead(parts, self._encoder.encode, beside)))
        return latents.reshape(len(frames), 1, frames.shape[1], *latents.shape[-2:])

    def _change(self, frames: Tensor, goal: Tensor | None, worlds: Tensor | None, num_worlds: int) -> Tensor:
        """Return the latents `[m 1 c n d]` between live frames and goals, or last and live frames."""
        if goal is not None:
            ahead = goal.to(frames.device).flatten(0, 2)
            latents = encode_two(self._encoder, frames.flatten(0, 1), ahead)
            return latents.reshape(len(frames), 1, frames.shape[1], *latents.shape[-2:])
        if self._stream is None:
            self._stream = StreamingEncoder(self._encoder, num_worlds)
        return self._stream.push(frames, worlds).unsqueeze(1)


@dataclass(frozen=True)
class Observation:
    """What an agent may look at when it plans."""

    # Uint8 `[m c h w 3]` of the observed worlds, or None for agents that do not need frames
    frames: Tensor | None
    proprio: Tensor  # measured state `[w a]` in the embodiment's layout
    last_target: Tensor  # absolute target `[w a]` that was executed last
    chunk_index: int  # how many chunks were executed in this episode
    # Indices `[m]` of the observed worlds; None when all are. The others need no plan.
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
        self._latents = LiveLatents(encoder, goals, goal_lengths, threads)

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
        output = self._head(latents) if state is None else self._head(latents, state.to(latents.device))
        return codec.absolute(output, proprio)


def hold_unobserved(chunk: Tensor, observation: Observation) -> Tensor:
    """Return the plan `[w k a]` of all worlds: chunks `[m k a]` of the observed ones, the others stay."""
    if observation.worlds is None:
        return chunk
    plan = observation.last_target.unsqueeze(1).repeat(1, chunk.shape[1], 1)
    plan[observation.worlds] = chunk.to(plan)
    return plan
