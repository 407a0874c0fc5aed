"""Frames of recordings in order, and the pairs of frames that a latent action model learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lary_policy.data import ClipTable, PairTable
from lary_policy.encoders import Preprocess, prepare_frames
from lary_policy.errors import DatasetError
from lary_policy.frames import Frame
from lary_policy.lam.registry import FramePair
from lary_policy.latents import Bank


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames of several recordings.

    Attributes:
        frames: The F different frames.
        features: The backbone's latents [F n d], in memory or on disk; None where there is no backbone.
        images: uint8 frames [F h w 3]; None where nobody looks at pixels.
        place: Where each of M frames is among the F, int64 [M].
        recording: The recording of each, int64 [M].
        step: When it was taken, in the source's steps or frames, int64 [M].
        states: State of the robot [M s] in standard deviations, NaN where it is not known; None where nobody
            asks.
        chunks: Actions that follow [M a], likewise.
    """

    frames: tuple[Frame, ...]
    features: Bank | None
    images: Tensor | None
    place: Tensor
    recording: Tensor
    step: Tensor
    states: Tensor | None = None
    chunks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True, eq=False)
class Recorded:
    """Frames of recordings, not yet decoded.

    Attributes:
        frames: The different frames.
        rows: (recording, step, place of the frame) of each, in order.
        motion: State of the robot and the actions that follow, both flat, of rows where they are known, by
            (recording, step).
    """

    frames: tuple[Frame, ...]
    rows: tuple[tuple[int, int, int], ...]
    motion: Mapping[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        found: Iterable[tuple[object, int, Frame]],
        motion: Mapping[tuple[object, int], tuple[Tensor, Tensor]] | None = None,
    ) -> Recorded:
        """Number the recordings of (recording, step, frame); a step is counted once."""
        names: dict[object, int] = {}
        frames: dict[Frame, int] = {}
        rows: dict[tuple[int, int], int] = {}
        for name, step, frame in found:
            key = names.setdefault(name, len(names)), step
            rows[key] = frames.setdefault(frame, len(frames))
        known = {(names[name], step): one for (name, step), one in (motion or {}).items()}
        return cls(tuple(frames), tuple((*key, place) for key, place in sorted(rows.items())), known)

    @classmethod
    def joined(cls, parts: Sequence[Recorded]) -> Recorded:
        """Return several as one; their recordings stay apart."""
        return cls.of(
            (
                ((number, recording), step, part.frames[place])
                for number, part in enumerate(parts)
                for recording, step, place in part.rows
            ),
            {
                ((number, recording), step): one
                for number, part in enumerate(parts)
                for (recording, step), one in part.motion.items()
            },
        )

    def widths(self) -> tuple[int, int]:
        """Return the width of states and that of the actions that follow.

        Raises:
            DatasetError: None are known, or those of several robots differ.
        """
        found = sorted({(len(state), len(chunk)) for state, chunk in self.motion.values()})
        if len(found) != 1:
            raise DatasetError(
                expected="states of one kind of robot beside the frames",
                got=f"states of {', '.join(str(state) for state, _ in found)} numbers" if found else "none",
                fix="Choose tasks of one robot, or model=laq."
                if found
                else "Choose tasks or a source with states, or model=laq.",
            )
        return found[0]

    def footage(self, kept: Sequence[Frame], features: Bank | None, images: Tensor | None) -> Footage:
        """Return the recordings without frames that are not among `kept`, in whose order the banks are."""
        known = {frame: place for place, frame in enumerate(kept)}
        rows = [(r, s, known[self.frames[p]]) for r, s, p in self.rows if self.frames[p] in known]
        recording, step, place = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        return Footage(tuple(kept), features, images, place, recording, step)

    def motion_of(self, footage: Footage) -> tuple[Tensor, Tensor]:
        """Return states [M s] and the actions that follow [M a] of footage of these, NaN where not known."""
        parts = [torch.full((len(footage), width), float("nan")) for width in self.widths()]
        for row, key in enumerate(zip(footage.recording.tolist(), footage.step.tolist(), strict=True)):
            for part, values in zip(parts, self.motion.get(key, ()), strict=False):
                part[row] = values
        return parts[0], parts[1]


def recorded_pairs(table: PairTable) -> Recorded:
    """Return the frames of pairs; each camera of an episode is a recording.

    Rows without steps are recordings of two frames, one step apart. Of tables with measured states these are
    kept with the actions that follow.
    """
    found: list[tuple[object, int, Frame]] = []
    motion: dict[tuple[object, int], tuple[Tensor, Tensor]] = {}
    anchors, actions = table.anchors(), table.executed()
    for number, row in enumerate(table.rows):
        steps = row.src_step, row.tgt_step
        known = None not in steps
        for camera, two in enumerate(zip(row.src_frames, row.tgt_frames, strict=True)):
            name = (row.episode, camera) if known else (number, camera)
            for time, frame in enumerate(two):
                step = steps[time]
                found.append((name, time if step is None or not known else step, frame))
            if table.has_states:
                motion[found[-2][:2]] = anchors[number], actions[number].flatten()
    return Recorded.of(found, motion)


def recorded_clips(table: ClipTable) -> Recorded:
    """Return the frames of clips, one step apart; each clip is a recording.

    What pads a clip that is too short is left out.
    """
    return Recorded.of(
        (number, time, frame)
        for number, row in enumerate(table.rows)
        for time, frame in enumerate(dict.fromkeys(row.frames()))
    )


@dataclass(frozen=True, eq=False)
class PairSampler:
    """Pairs of frames of one recording, `offset` to 1.5 `offset` steps apart.

    The later frame is drawn as the reference draws it: evenly among offset..int(1.5 * offset) (protocol
    section 2.4), here among the steps that the recording has.

    Attributes:
        footage: The frames.
        offset: Least steps between the two.
        starts: Frames that have a later one, int64 [S] places among the M.
        nearest: The first later one of each start, int64 [S].
        count: How many later ones each start has, int64 [S].
    """

    footage: Footage
    offset: int
    starts: Tensor
    nearest: Tensor
    count: Tensor

    @classmethod
    def of(cls, footage: Footage, offset: int, name: str) -> PairSampler:
        """Find the pairs.

        Raises:
            DatasetError: No recording has two frames so far apart.
        """
        most = int(1.5 * offset)
        order = np.lexsort((footage.step.numpy(), footage.recording.numpy()))
        footage = replace(
            footage,
            place=footage.place[order], recording=footage.recording[order], step=footage.step[order],
            states=None if footage.states is None else footage.states[order],
            chunks=None if footage.chunks is None else footage.chunks[order],
        )  # fmt: skip
        wide = int(footage.step.max()) + most + 2 if len(footage) else 1
        keys = footage.recording.numpy() * wide + footage.step.numpy()
        low = np.searchsorted(keys, keys + offset, side="left")
        high = np.searchsorted(keys, keys + most, side="right")
        starts = np.flatnonzero(high > low)
        if not len(starts):
            gaps = footage.step.diff()[footage.recording.diff() == 0]
            least = int(gaps.min()) if len(gaps) else 0
            raise DatasetError(
                expected=f"two frames of one recording {offset} to {most} steps apart in {name}",
                got=f"{len(footage)} frames, the nearest two of one recording {least} steps apart"
                if least
                else "no recording with two frames",
                fix=f"Pass offset={least}." if least else "Choose recordings of several frames.",
            )
        rows = (torch.from_numpy(x[starts]) for x in (np.arange(len(keys)), low, high - low))
        return cls(footage, offset, *rows)

    def draw(self, pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw pairs; return which of the M frames are the first and the second ones, int64 [p] each."""
        which = torch.randint(len(self.starts), (pairs,), generator=generator)
        further = (torch.rand(pairs, generator=generator) * self.count[which]).long()
        return self._places(which, further)

    def spread(self, pairs: int) -> tuple[Tensor, Tensor]:
        """Return at most so many pairs evenly over all starts, each with its nearest later frame."""
        wanted = min(pairs, len(self.starts))
        which = torch.arange(wanted) * len(self.starts) // wanted
        return self._places(which, torch.zeros_like(which))

    def _places(self, which: Tensor, further: Tensor) -> tuple[Tensor, Tensor]:
        return self.starts[which], self.nearest[which] + further


def seen_pairs(
    footage: Footage, first: Tensor, second: Tensor, pipeline: Preprocess, image_px: int, device: str
) -> FramePair:
    """Return pairs of frames, given which of the M they are, as a model sees them."""
    places = [footage.place[which] for which in (first, second)]
    shown: list[Any] = [None, None]
    if footage.images is not None:
        images: list[Any] = [footage.images[place][:, None] for place in places]
        on = torch.device(device)
        shown = [prepare_frames(x, image_px, pipeline, device=on, dtype=torch.float32) for x in images]
    seen: list[Any] = shown
    if footage.features is not None:
        seen = [footage.features[place].to(device, torch.float32) for place in places]
    known: list[Any] = [None, None, None]
    if footage.states is not None and footage.chunks is not None:
        rows = (footage.states[first], footage.states[second], footage.chunks[first])
        known = [row.to(device) for row in rows]
    return FramePair(*seen, *shown, *known)
