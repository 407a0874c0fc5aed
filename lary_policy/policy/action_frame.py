"""Actions relative to a state: number by number as LeRobot does it, or with rotations composed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lerobot.processor import RelativeActionsProcessorStep, to_absolute_actions, to_relative_actions
from torch import Tensor

from lary_policy.embodiment import Embodiment, load_embodiment
from lary_policy.errors import ConfigError, EmbodimentError


@dataclass(frozen=True)
class RelativeFrame:
    """Turns absolute actions into relative ones and back.

    Attributes:
        mask: Which of the a numbers become relative; the others stay absolute.
        embodiment: Layout whose rotations are composed (and whose grippers stay absolute); None subtracts.
    """

    mask: tuple[bool, ...]
    embodiment: Embodiment | None = None

    @classmethod
    def of(
        cls,
        action_dim: int,
        *,
        embodiment: str | None = None,
        exclude: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> RelativeFrame:
        """Build the frame of a policy.

        Args:
            action_dim: Numbers a of an action.
            embodiment: Name of the layout, or None.
            exclude: Names of actions that stay absolute, matched as LeRobot's processors do.
            names: Name of each action; None takes the layout's labels.

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
        step = RelativeActionsProcessorStep(
            enabled=True, exclude_joints=list(exclude), action_names=None if labels is None else list(labels)
        )
        mask = tuple(step._build_mask(action_dim))
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
        if self.embodiment is None:
            return to_relative_actions(actions, state, self.mask)
        return self._composed(self.embodiment, actions, state, inverse=False)

    def to_absolute(self, relative: Tensor, state: Tensor) -> Tensor:
        """Invert `to_relative`."""
        if self.embodiment is None:
            return to_absolute_actions(relative, state, self.mask)
        return self._composed(self.embodiment, relative, state, inverse=True)

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

    def _composed(self, layout: Embodiment, actions: Tensor, state: Tensor, *, inverse: bool) -> Tensor:
        # Autocast and TF32, which LeRobot switches on, would round products of float32; MPS has no float64.
        wide = actions.dtype if actions.device.type == "mps" else torch.float64
        chunks = (actions if actions.ndim == 3 else actions.unsqueeze(1)).to(wide)
        anchor = state[..., : layout.action_dim].to(chunks)
        if inverse:
            moved = layout.to_absolute(chunks, anchor, check=False)
        else:
            moved = layout.to_relative(chunks, anchor)
        kept = torch.where(torch.tensor(self.mask, device=moved.device), moved, chunks)
        return kept.view_as(actions).to(actions.dtype)
