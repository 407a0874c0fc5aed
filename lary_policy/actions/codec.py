"""The one way between what a head predicts and absolute targets: statistics, and what relative means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lary_policy.actions.embodiment import Embodiment, load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import ConfigError, EmbodimentError, ShapeError


@dataclass(frozen=True)
class RelativeFrame:
    """Turns absolute actions into relative ones and back."""

    mask: tuple[bool, ...]  # which of the a numbers become relative; the others stay absolute
    # Layout whose rotations are composed (and whose grippers stay absolute); None subtracts
    embodiment: Embodiment | None = None
    # Compose rotations in float64: LeRobot runs policies and processors under autocast and TF32, which would
    # round products of float32
    wide: bool = True

    @classmethod
    def of(
        cls,
        action_dim: int,
        *,
        embodiment: str | None = None,
        exclude: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> RelativeFrame:
        """Build the frame of a policy whose actions have `action_dim` numbers, named by the layout's labels.

        Actions whose names match `exclude`, as LeRobot's processors match them, stay absolute.

        Raises:
            EmbodimentError: The layout has another number of actions.
            ConfigError: Only part of a rotation would stay absolute.
        """
        layout = None if embodiment is None else load_embodiment(embodiment)
        if layout is not None and layout.action_dim != action_dim:
            raise EmbodimentError(
                expected=f"actions of {layout.action_dim} numbers ({', '.join(layout.labels)})",
                got=str(action_dim),
                fix=f"Correct the embodiment '{layout.name}' of the dataset or policy.",
            )
        labels = names if layout is None or names is not None else layout.labels
        mask = relative_mask(action_dim, exclude, labels)
        for group in layout.groups if layout else ():
            if group.kind == "rotation" and len({mask[i] for i in group.indices}) > 1:
                raise ConfigError(
                    expected=f"all of {', '.join(group.labels)} relative, or none",
                    got=f"relative_exclude_joints {list(exclude)}",
                    fix="Correct relative_exclude_joints.",
                )
        return cls(mask, layout)

    def to_relative(self, actions: Tensor, state: Tensor) -> Tensor:
        """Express absolute actions `[b k a]` or `[b a]` relative to states `[b s]`, s >= a."""
        return self._moved(actions, state, inverse=False)

    def to_absolute(self, relative: Tensor, state: Tensor) -> Tensor:
        """Invert `to_relative`."""
        return self._moved(relative, state, inverse=True)

    def differences(self, relative: Tensor) -> Tensor:
        """Express each relative action of a chunk `[b k a]` relative to the one before it."""
        later, before = relative[:, 1:], relative[:, :-1]
        steps = self.to_relative(later.flatten(0, 1), before.flatten(0, 1))
        return torch.cat([relative[:, :1], steps.view_as(later)], 1)

    def accumulate(self, differences: Tensor) -> Tensor:
        """Invert `differences`."""
        path = [differences[:, 0]]
        for step in differences[:, 1:].unbind(1):
            path.append(self.to_absolute(step, path[-1]))
        return torch.stack(path, 1)

    def _moved(self, actions: Tensor, state: Tensor, *, inverse: bool) -> Tensor:
        if self.embodiment is None:
            return self._shifted(actions, state, inverse=inverse)
        return self._composed(self.embodiment, actions, state, inverse=inverse)

    def _shifted(self, actions: Tensor, state: Tensor, *, inverse: bool) -> Tensor:
        mask = torch.tensor(self.mask, dtype=actions.dtype, device=actions.device)
        offset = state[..., : len(self.mask)].to(actions) * mask
        offset = offset.unsqueeze(-2) if actions.ndim > offset.ndim else offset
        return actions + offset if inverse else actions - offset

    def _composed(self, layout: Embodiment, actions: Tensor, state: Tensor, *, inverse: bool) -> Tensor:
        chunks = actions if actions.ndim > state.ndim else actions.unsqueeze(1)
        if self.wide and actions.device.type != "mps":  # which has no float64
            chunks = chunks.to(torch.float64)
        anchor = state[..., : layout.action_dim].to(chunks)
        if inverse:
            moved = layout.to_absolute(chunks, anchor, check=False)
        else:
            moved = layout.to_relative(chunks, anchor)
        if not all(self.mask):
            moved = torch.where(torch.tensor(self.mask, device=moved.device), moved, chunks)
        return moved.view_as(actions).to(actions.dtype)


def relative_mask(action_dim: int, exclude: Sequence[str], names: Sequence[str] | None) -> tuple[bool, ...]:
    """Return which numbers become relative: all whose name contains none of `exclude`, case aside.

    As LeRobot's `RelativeActionsProcessorStep` matches them; numbers without a name become relative.
    """
    tokens = [token.lower() for token in exclude if token]
    known = [str(name).lower() for name in names or ()][:action_dim]
    mask = [not any(token in name for token in tokens) for name in known]
    return (*mask, *[True] * (action_dim - len(mask)))


class ActionCodec(nn.Module):
    """Actions in physical units to the normalised targets of a head, and back; the same for its state.

    A dataset's own statistics are those of absolute actions, and LeRobot puts them into the processors
    whenever a checkpoint is fine-tuned. So a policy's processors leave relative actions, and the states they
    are relative to, in physical units; the buffers of this module, saved with the weights, normalise them.

    Args:
        frame: What relative means; None for absolute actions.
        delta: Whether targets are relative to the action before, not to the state.
        action_dim: Numbers a of an action.
        state_dim: Numbers s of a state that the head sees, 0 for none.
    """

    mean: Tensor
    std: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self, frame: RelativeFrame | None, *, delta: bool = False, action_dim: int, state_dim: int
    ) -> None:
        super().__init__()
        self.frame, self.delta = frame, delta
        sizes = {"mean": action_dim, "std": action_dim, "state_mean": state_dim, "state_std": state_dim}
        for name, size in sizes.items():
            self.register_buffer(name, torch.full((size,), torch.nan))  # until they are known
        self._known = False

    @classmethod
    def of(
        cls, embodiment: Embodiment, stats: ActionStats, target: str, state: ActionStats | None
    ) -> ActionCodec:
        """Return the codec of a probe's head, in the arithmetic that its rollouts always had.

        `target` is `absolute` or `relative` (to the measured state at the start of the chunk), and `stats`
        are of such targets; `state` are those of the proprioceptive input, None when the head takes none.
        """
        size = embodiment.action_dim
        frame = RelativeFrame((True,) * size, embodiment, wide=False) if target == "relative" else None
        codec = cls(frame, action_dim=size, state_dim=0 if state is None else len(state.mean))
        codec.fit(stats, state)
        return codec

    def fit(self, targets: ActionStats, state: ActionStats | None) -> None:
        """Take over statistics of targets and, if the head sees it, of the state."""
        pairs = [(self.mean, targets.mean), (self.std, targets.std)]
        if state is not None:
            pairs += [(self.state_mean, state.mean), (self.state_std, state.std)]
        for buffer, values in pairs:
            buffer.copy_(torch.tensor(values))
        complete = state is not None or not len(self.state_mean)
        finite = all(math.isfinite(value) for _, values in pairs for value in values)
        self._known = complete and finite and all(min(values, default=1) > 0 for _, values in pairs[1::2])

    def relative(self, actions: Tensor, state: Tensor) -> Tensor:
        """Return absolute actions `[b k a]` relative to states `[b s]`, as `encode` takes them."""
        return actions if self.frame is None else self.frame.to_relative(actions, state)

    def targets(self, actions: Tensor, state: Tensor) -> Tensor:
        """Return what a head learns of absolute actions `[b k a]` at states `[b s]`, in physical units."""
        relative = self.relative(actions, state)
        return self.frame.differences(relative) if self.frame and self.delta else relative

    def encode(self, actions: Tensor) -> Tensor:
        """Map actions `[b k a]`, relative where there is a frame, in physical units to normalised targets."""
        self._require()
        targets = self.frame.differences(actions) if self.frame and self.delta else actions
        return (targets - self.mean) / self.std

    def decode(self, normalised: Tensor) -> Tensor:
        """Map normalised targets `[b k a]` back to the actions that `encode` takes."""
        self._require()
        targets = normalised * self.std + self.mean
        return self.frame.accumulate(targets) if self.frame and self.delta else targets

    def absolute(self, normalised: Tensor, state: Tensor) -> Tensor:
        """Return absolute targets `[b k a]` of a head's output `[b k a]` and measured states `[b s]`.

        Raises:
            ShapeError: The output is not `[b k a]` of this layout.
        """
        size = len(self.mean)
        if normalised.ndim != 3 or normalised.shape[-1] != size:
            raise ShapeError(
                expected=f"chunks [w k {size}] from the head",
                got=f"{tuple(normalised.shape)}",
                fix="Use a head that was trained for this embodiment.",
            )
        actions = self.decode(normalised.float().to(self.mean.device))
        return actions if self.frame is None else self.frame.to_absolute(actions, state)

    def state(self, state: Tensor) -> Tensor | None:
        """Normalise states `[b s]`; None where the head sees none."""
        self._require()
        return (state - self.state_mean) / self.state_std if len(self.state_mean) else None

    def _require(self) -> None:
        """Refuse to work without statistics; looks once, as looking waits for a GPU."""
        if self._known:
            return
        spread = torch.cat([self.std, self.state_std])
        finite = torch.isfinite(torch.cat([self.mean, self.state_mean, spread]))
        if not bool(finite.all() & (spread > 0).all()):
            values = f"{self.mean.tolist()}, {self.state_mean.tolist()}; deviations {spread.tolist()}"
            none = "none: the policy was built without a dataset and not loaded from a checkpoint"
            raise EmbodimentError(
                expected="statistics of relative actions and of the state: finite, deviations above 0",
                got=values if bool(finite.any()) else none,
                fix="Load an undamaged checkpoint, build it with LeRobot's make_policy(config, "
                "ds_meta=dataset.meta), or pass --policy.head_from=<folder of a probe>.",
            )
        self._known = True
