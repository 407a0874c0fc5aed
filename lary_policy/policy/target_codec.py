"""What a head predicts in the modes `relative` and `delta`, in which numbers, and the statistics of it.

A dataset's own statistics are those of absolute actions, and LeRobot puts them into the processors whenever a
checkpoint is fine-tuned. So the processors leave relative actions (and the states they are relative to) in
physical units, and the policy normalises them with buffers that are saved with its weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lary_policy.actions import ActionStats
from lary_policy.errors import EmbodimentError
from lary_policy.policy.relative_actions import RelativeFrame


class TargetCodec(nn.Module):
    """Relative actions in physical units to normalised targets and back; the same for the state.

    Args:
        frame: What relative means.
        delta: Whether targets are relative to the action before, not to the state.
        action_dim: Numbers a of an action.
        state_dim: Numbers s of a state that the head sees, 0 for none.
    """

    mean: Tensor
    std: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, frame: RelativeFrame, *, delta: bool, action_dim: int, state_dim: int) -> None:
        super().__init__()
        self.frame, self.delta = frame, delta
        sizes = {"mean": action_dim, "std": action_dim, "state_mean": state_dim, "state_std": state_dim}
        for name, size in sizes.items():
            self.register_buffer(name, torch.full((size,), torch.nan))  # until they are known
        self._known = False

    def fit(self, targets: ActionStats, state: ActionStats | None) -> None:
        """Take over statistics of targets and, if the head sees it, of the state."""
        pairs = [(self.mean, targets.mean), (self.std, targets.std)]
        if state is not None:
            pairs += [(self.state_mean, state.mean), (self.state_std, state.std)]
        for buffer, values in pairs:
            buffer.copy_(torch.tensor(values))

    def encode(self, relative: Tensor) -> Tensor:
        """Map relative actions `[b k a]` in physical units to normalised targets."""
        self._require()
        targets = self.frame.differences(relative) if self.delta else relative
        return (targets - self.mean) / self.std

    def decode(self, normalised: Tensor) -> Tensor:
        """Map normalised targets `[b k a]` to actions relative to the state, in physical units."""
        self._require()
        targets = normalised * self.std + self.mean
        return self.frame.accumulate(targets) if self.delta else targets

    def state(self, state: Tensor) -> Tensor:
        """Normalise states `[b s]`."""
        self._require()
        return (state - self.state_mean) / self.state_std

    def _require(self) -> None:
        """Refuse to work without statistics; looks once, as looking waits for a GPU."""
        if self._known:
            return
        values = torch.cat([self.mean, self.std, self.state_mean, self.state_std])
        if not bool(torch.isfinite(values).all()):
            raise EmbodimentError(
                expected="statistics of relative actions and of the state",
                got="none: the policy was built without a dataset and not loaded from a checkpoint",
                fix="Build it with LeRobot's make_policy(config, ds_meta=dataset.meta), load a checkpoint, "
                "or pass --policy.head_from=<folder of a probe>.",
            )
        self._known = True
