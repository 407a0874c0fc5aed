"""Any LeRobot dataset (format v3) as a source: pairs with actions or tasks, or clips with their tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lary_policy.data.clips import ClipTable
from lary_policy.data.integrity import IntegrityReport
from lary_policy.data.lerobot.files import (
    DISTURBED,
    EXECUTED,
    INFO,
    LeRobotEpisode,
    LeRobotFiles,
    LeRobotSteps,
    short_name,
)
from lary_policy.data.lerobot.frames import LeRobotMotion, lerobot_clips, stored_frame
from lary_policy.data.lerobot.hub import locate
from lary_policy.data.lerobot.metadata import ActionMapping, map_actions
from lary_policy.data.lerobot.verify import verify_lerobot
from lary_policy.data.pairs import PairRow, PairTable
from lary_policy.data.registry import register_source
from lary_policy.data.spec import SourceSpec, require_protocol
from lary_policy.data.splits import empty_split, split_of_episode
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError
from lary_policy.settings import some_and_different
from lary_policy.types import Quarantined

SPLITS = ("train", "val", "test")
CLASSES = ("none", "tasks")
KINDS = ("pairs", "clips")
GRIPPER_OPEN = ("high", "low")
CHUNK_S = 0.25  # length of a chunk where no stride is given: that of the simulated tasks and of VLABench
_log = logging.getLogger(__name__)


@register_source("lerobot")
class LeRobotSource:
    """A LeRobot dataset, on this machine or from the hub.

    Frames stay where they are: in videos, of which only what a probe needs is decoded, or in tables. Splits
    are by episode: the dataset's own where `meta/info.json` names train, val and test, else 70 / 10 / 20 %.
    Grippers become fractions of the range that the dataset's actions cover, unless it states its embodiment:
    then numbers are in that embodiment's units already. Derived atomic primitives are the option `atomic` of
    `open_source`.

    Args:
        key: `lerobot`.
        data_dir: Folder of the dataset, the same as `root`.
        repo_id: Name on the hub; looked for where LeRobot keeps datasets, then downloaded, of videos only
            those of `cameras`.
        root: Folder of the dataset.
        revision: Branch, tag or commit on the hub.
        cameras: Cameras in this order, with or without `observation.images.`; None for all.
        stride: Frames between the two of a pair, and actions of a chunk; None for `CHUNK_S`.
        action_keys: Features that together are the action.
        state_key: Feature with the measured pose, of the same names as the actions; None goes without. Where
            it lacks one of the names, a chunk is relative to its first action.
        embodiment: Name of the action layout; None takes the one that the dataset states in the `info` of its
            action, else infers one from the names of the numbers.
        action_names: The dataset's names of the numbers in the order of the embodiment.
        gripper_open: Whether an open gripper is a `high` or a `low` number.
        classes: `tasks` makes task descriptions the classes of the pairs; `none` leaves actions.
        kind: `pairs`, or `clips` of one camera, whose classes are always the tasks.
        clip_s: Length of a clip in seconds; None makes each episode one clip.
        protocol: `native` or `lary`; splits are by episode in both.

    Raises:
        DatasetError: The dataset is nowhere, or damaged, or of an older format.
        UnknownNameError: A camera, feature, embodiment or choice does not exist.
        EmbodimentError: The actions do not fit the embodiment.
        ConfigError: Not exactly one place is given, or the stride is below 1.
    """

    def __init__(
        self,
        key: str = "lerobot",
        *,
        data_dir: Path | None = None,
        repo_id: str | None = None,
        root: Path | None = None,
        revision: str | None = None,
        cameras: Sequence[str] | None = None,
        stride: int | None = None,
        action_keys: Sequence[str] = ("action",),
        state_key: str | None = "observation.state",
        embodiment: str | None = None,
        action_names: Sequence[str] | None = None,
        gripper_open: str = "high",
        classes: str = "none",
        kind: str = "pairs",
        clip_s: float | None = None,
        protocol: str = "native",
    ) -> None:
        choices = (("classes", classes, CLASSES), ("gripper_open", gripper_open, GRIPPER_OPEN))
        for what, value, known in (*choices, ("kind", kind, KINDS)):
            if value not in known:
                raise UnknownNameError(what, value, known)
        self.root = locate(data_dir or root, repo_id, revision, cameras)
        self.files = files = LeRobotFiles.read(self.root)
        self.stride = max(1, round(files.fps * CHUNK_S)) if stride is None else stride
        if self.stride < 1:
            raise ConfigError(expected="stride >= 1", got=str(stride), fix="Pass stride=5, for example.")
        self.cameras = tuple(map(files.camera, cameras or files.cameras()))
        if not self.cameras:
            raise DatasetError(
                expected=f"images or videos in {self.root}", got="none", fix="Choose a dataset with cameras."
            )
        some_and_different("cameras", [short_name(camera) for camera in self.cameras])
        self.kind, self._clip_s = kind, clip_s
        self._check_clips()
        self.classes, self._action_keys = "tasks" if kind == "clips" else classes, tuple(action_keys)
        names = tuple(name for action in self._action_keys for name in files.names(action))
        if len(set(names)) < len(names):  # numbers of two features may have the same names
            names = tuple(f"{a}.{name}" for a in self._action_keys for name in files.names(a))
        title = (repo_id or self.root.name).replace("/", "-")
        stated = files.embodiment(self._action_keys[0]) if len(self._action_keys) == 1 else None
        embodiment = embodiment or stated
        self.mapping = map_actions(
            names, files.fps, embodiment=embodiment, action_names=action_names, title=title
        )
        self._own_units = stated == self.mapping.embodiment.name
        self._state_key, self._state_columns = _state(files, state_key, self.mapping)
        self._closed_is_high = gripper_open == "low"
        self.spec = self._spec(key, protocol)
        self._require_apart()
        _log.log(logging.WARNING if embodiment is None else logging.INFO, "%s", self.describe())

    def pairs(self, split: str) -> PairTable:
        """Read the pairs of a split; no frame is decoded.

        Raises:
            UnknownNameError: There is no such split.
            DatasetError: It is a source of clips, or no pair is usable.
        """
        self.spec.check_split(split)
        if self.kind != "pairs":
            raise self.spec.wrong_kind("pairs")
        rows: list[PairRow] = []
        chunks: list[Tensor] = []
        executed: list[Tensor] = []
        anchors: list[Tensor] = []
        quarantined: list[Quarantined] = []
        for episode, motion in self.motions(self.episodes(split)):
            if isinstance(motion, str):
                quarantined.append(Quarantined(f"episode {episode.number}", motion, "load_pairs"))
                continue
            if episode.length <= self.stride:
                reason = f"{episode.length} frames, fewer than the {self.stride + 1} of a pair"
                quarantined.append(Quarantined(f"episode {episode.number}", reason, "load_pairs"))
            for start in range(0, episode.length - self.stride, self.stride):
                chunk = slice(start, start + self.stride)
                row = self._row(episode, motion, start)
                if motion.is_finite(chunk):
                    rows.append(row)
                    chunks.append(motion.actions[chunk])
                    executed.append(motion.executed[chunk])
                    anchors.append(motion.poses[start])
                else:
                    reason = (
                        f"episode {episode.number}, frames {start} to {start + self.stride - 1}: "
                        "an action or state is not finite"
                    )
                    quarantined.append(Quarantined(f"{row.csv}:{row.line}", reason, "load_pairs"))
        if not rows:
            raise self._nothing_usable(split, quarantined)
        return PairTable(
            rows=tuple(rows),
            cameras=tuple(map(short_name, self.cameras)),
            quarantined=tuple(quarantined),
            source=self.root / INFO,
            has_states=self.has_states,
            has_labels=self.classes == "tasks",
            action_values=torch.stack(chunks),
            executed_values=torch.stack(executed),
            anchor_values=torch.stack(anchors),
        )

    def clips(self, split: str) -> ClipTable:
        """Read the clips of a split; no frame is decoded.

        Raises:
            UnknownNameError: There is no such split.
            DatasetError: It is a source of pairs, or no clip is usable.
        """
        if self.kind != "clips":
            raise self.spec.wrong_kind("clips")
        return lerobot_clips(self.files, self.cameras[0], self.episodes(split), clip_s=self._clip_s)

    def verify(self, **options: Any) -> IntegrityReport:
        """Check tables, frames, videos and checksums, see `verify_lerobot`."""
        return verify_lerobot(self, **options)

    def motions(
        self, episodes: Sequence[LeRobotEpisode]
    ) -> Iterator[tuple[LeRobotEpisode, LeRobotMotion | str]]:
        """Yield what was commanded and measured in episodes, or why they cannot be used."""
        low, span = self._gripper_range()
        for episode, steps in self._steps(episodes):
            if isinstance(steps, str):
                yield episode, steps
                continue
            actions, poses = self._poses(steps, low, span)
            executed = self.mapping.pick(steps.values[EXECUTED]) if self._has_noise else actions
            disturbed = steps.values[DISTURBED] if self._has_noise else torch.zeros(len(actions), 1)
            yield episode, LeRobotMotion(steps, actions, executed, poses, disturbed[:, 0].bool())

    def episodes(self, split: str) -> tuple[LeRobotEpisode, ...]:
        """Return the episodes of a split."""
        self.spec.check_split(split)
        if self._own_splits:
            first, last = self.files.splits[split]
            return tuple(e for e in self.files.episodes if first <= e.number < last)
        return tuple(e for e in self.files.episodes if split_of_episode(e.number) == split)

    @property
    def has_states(self) -> bool:
        """Whether there are measured poses of all numbers of the action."""
        return self._state_columns is not None

    @property
    def _own_splits(self) -> bool:
        return set(SPLITS) <= set(self.files.splits)

    def _require_apart(self) -> None:
        """Raise DatasetError where an episode is in two of the dataset's own splits."""
        inside = {split: {e.number for e in self.episodes(split)} for split in SPLITS if self._own_splits}
        for one, two in combinations(inside, 2):
            if shared := inside[one] & inside[two]:
                raise DatasetError(
                    expected=f"splits of {self.root / INFO} without common episodes",
                    got=f"episode {min(shared)} and {len(shared) - 1} more in both {one} and {two}",
                    fix="Correct the bounds there; without `val` and `test` episodes are divided here.",
                )

    @property
    def _has_noise(self) -> bool:
        """Whether poses were disturbed while it was recorded, and the dataset says where."""
        return self._own_units and {EXECUTED, DISTURBED} <= set(self.files.features)

    def describe(self) -> str:
        """Return what the source makes of the dataset, for people to check before they believe a number."""
        counts = ", ".join(f"{len(self.episodes(split))} {split}" for split in SPLITS)
        origin = "the dataset's own splits" if self._own_splits else "our splits"
        state = (
            f"relative to {self._state_key}" if self._state_columns else "relative to a chunk's first action"
        )
        return "\n".join(
            (
                f"{self.root}: episodes {counts} ({origin}), stride {self.stride} at {self.files.fps:g} Hz",
                f"cameras {', '.join(map(short_name, self.cameras))}; chunks {state}",
                self.mapping.describe(),
                "grippers in the units of the stated embodiment"
                if self._own_units
                else f"grippers as fractions of their range, open = "
                f"{'low' if self._closed_is_high else 'high'}",
            )
        )

    def _spec(self, key: str, protocol: str) -> SourceSpec:
        return SourceSpec(
            key=key,
            kind="clips" if self.kind == "clips" else "pairs",
            embodiment=None if self.classes == "tasks" else self.mapping.embodiment.name,
            stride=self.stride,
            splits=SPLITS,
            cameras=tuple(map(short_name, self.cameras)),
            num_classes=None,
            where="lerobot",
            protocol=require_protocol(protocol),
        )

    def _check_clips(self) -> None:
        if self._clip_s is not None and not (self.kind == "clips" and 0 < self._clip_s < float("inf")):
            raise ConfigError(
                expected="clip_s > 0 with kind=clips",
                got=f"clip_s={self._clip_s} kind={self.kind}",
                fix="Pass kind=clips clip_s=2, for example.",
            )
        if self.kind == "clips" and len(self.cameras) > 1:
            raise ConfigError(
                expected="one camera for clips",
                got=", ".join(map(short_name, self.cameras)),
                fix=f"Pass cameras=[{short_name(self.cameras[0])}], for example.",
            )

    def _steps(self, episodes: Sequence[LeRobotEpisode]) -> list[tuple[LeRobotEpisode, LeRobotSteps | str]]:
        keys = [*self._action_keys] + ([self._state_key] if self._state_key else [])
        keys += [EXECUTED, DISTURBED] if self._has_noise else []
        return list(self.files.steps(episodes, list(dict.fromkeys(keys))))

    def _actions(self, steps: LeRobotSteps) -> Tensor:
        return self.mapping.pick(torch.cat([steps.values[key] for key in self._action_keys], -1))

    def _poses(self, steps: LeRobotSteps, low: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions and measured poses `[T a]`; poses are the actions where there are no states."""
        actions = (self._actions(steps) - low) / span
        if self._state_columns is None or self._state_key is None:
            return actions, actions
        return actions, (steps.values[self._state_key][:, list(self._state_columns)] - low) / span

    def _gripper_range(self) -> tuple[Tensor, Tensor]:
        """Return offset and scale `[a]` that make grippers fractions of their opening and leave the rest."""
        low, span = (
            torch.zeros(self.mapping.embodiment.action_dim),
            torch.ones(self.mapping.embodiment.action_dim),
        )
        places = [i for g in self.mapping.embodiment.groups if g.kind == "gripper" for i in g.indices]
        found = [self._actions(s) for _, s in self._steps(self.files.episodes) if not isinstance(s, str)]
        if self._own_units or not places or not found:
            return low, span
        values = torch.cat(found)[:, places]
        values = values[torch.isfinite(values).all(-1)]
        if not len(values):
            return low, span  # no row is finite: each is set aside where it is read
        closed, opened = values.amin(0), values.amax(0)
        if self._closed_is_high:
            closed, opened = opened, closed
        low[places] = closed
        span[places] = torch.where(opened == closed, torch.ones_like(closed), opened - closed)
        return low, span

    def _row(self, episode: LeRobotEpisode, motion: LeRobotMotion, start: int) -> PairRow:
        end, steps = start + self.stride, motion.steps
        return PairRow(
            line=steps.first_row + start,
            episode=str(episode.number),
            src_step=start,
            tgt_step=end,
            src_frames=tuple(stored_frame(episode, steps, camera, start) for camera in self.cameras),
            tgt_frames=tuple(stored_frame(episode, steps, camera, end) for camera in self.cameras),
            action=episode.table,
            label=self.files.tasks[steps.tasks[start]] if self.classes == "tasks" else "",
            noise_steps=int(motion.disturbed[start:end].sum()),
            robot_type="",  # a dataset is of one robot: statistics of each robot are those of all rows
            csv=str(episode.table.relative_to(self.root)),
        )

    def _nothing_usable(self, split: str, quarantined: Sequence[Quarantined]) -> DatasetError:
        if not self.episodes(split):
            counts = {name: len(self.episodes(name)) for name in SPLITS}
            fix = "Add episodes: the first is for train, the second for val, the third for test."
            if self._own_splits:
                fix = "Correct the splits in the dataset's meta/info.json."
            return empty_split(str(self.root), split, counts, fix)
        longest = max(e.length for e in self.episodes(split))
        reason = f"; for example {quarantined[0].reason}" if quarantined else ""
        return DatasetError(
            expected=f"a pair of frames {self.stride} steps apart in split {split} of {self.root}",
            got=f"{len(self.episodes(split))} episodes, the longest of {longest} frames{reason}",
            fix="Choose a smaller stride, or a dataset of more than two episodes.",
        )


def _state(
    files: LeRobotFiles, key: str | None, mapping: ActionMapping
) -> tuple[str | None, tuple[int, ...] | None]:
    """Return the feature of measured poses and where each number of the action stands in it, if all do."""
    if key is None or key not in files.features:
        return None, None
    names = files.names(key)
    if not set(mapping.names) <= set(names):
        return None, None
    return key, tuple(names.index(name) for name in mapping.names)
