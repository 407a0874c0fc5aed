"""What a head sees in a closed loop: latents of the live frames and, in mode `subgoal`, of goal frames."""

from __future__ import annotations

import torch
from torch import Tensor

from lary_policy.encoders import LatentEncoder, StreamingEncoder, encode_two
from lary_policy.errors import ShapeError


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

    Raises:
        ShapeError: Only one of `goals` and `goal_lengths` is given, or the goals are of the other kind.
    """

    def __init__(self, encoder: LatentEncoder, goals: Tensor | None, goal_lengths: Tensor | None) -> None:
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
        self._encoder, self._goals, self._lengths = encoder, goals, goal_lengths
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
        latents = self._encoder.encode(frames.flatten(0, 1).unsqueeze(1))
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
