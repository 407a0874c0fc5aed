"""From the normalised output of a head to absolute targets, on the device where both live."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lary_policy.actions import ActionStats, Embodiment
from lary_policy.errors import ShapeError


@dataclass(frozen=True)
class _Scale:
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, stats: ActionStats, device: torch.device) -> _Scale:
        return cls(torch.tensor(stats.mean, device=device), torch.tensor(stats.std, device=device))


class ActionDecoder:
    """Undoes the normalisation of targets and applies it to states, without waiting for a GPU.

    Args:
        embodiment: Layout of the actions.
        stats: Statistics of the targets.
        target: `absolute` or `relative` (to the measured state at the start of the chunk).
        proprio_stats: Statistics of the proprioceptive input, or None when the head takes none.
    """

    def __init__(
        self, embodiment: Embodiment, stats: ActionStats, target: str, proprio_stats: ActionStats | None
    ) -> None:
        self._embodiment, self._relative = embodiment, target == "relative"
        self._stats, self._proprio_stats = stats, proprio_stats
        self._scales: dict[tuple[str, torch.device], _Scale] = {}

    def state(self, proprio: Tensor) -> Tensor | None:
        """Return the normalised state `[w p]`, or None when the head takes none."""
        if self._proprio_stats is None:
            return None
        scale = self._scale("proprio", self._proprio_stats, proprio.device)
        return (proprio - scale.mean) / scale.std

    def targets(self, normalised: Tensor, proprio: Tensor) -> Tensor:
        """Return absolute targets `[w k a]` of a head's output `[w k a]` and measured states `[w a]`.

        Raises:
            ShapeError: The output is not `[w k a]` of this embodiment.
        """
        if normalised.ndim != 3 or normalised.shape[-1] != self._embodiment.action_dim:
            raise ShapeError(
                expected=f"chunks [w k {self._embodiment.action_dim}] from the head",
                got=f"{tuple(normalised.shape)}",
                fix="Use a head that was trained for this embodiment.",
            )
        scale = self._scale("targets", self._stats, proprio.device)
        chunk = normalised.float().to(proprio.device) * scale.std + scale.mean
        return self._embodiment.to_absolute(chunk, proprio, check=False) if self._relative else chunk

    def _scale(self, name: str, stats: ActionStats, device: torch.device) -> _Scale:
        if (name, device) not in self._scales:
            self._scales[name, device] = _Scale.of(stats, device)
        return self._scales[name, device]
