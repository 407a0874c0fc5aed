"""Any LeRobot policy in the batched closed loop, with its own processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import Tensor

from lary_policy.errors import ShapeError
from lary_policy.machine import intra_op_threads
from lary_policy.rollout.agents import Observation, hold_unobserved


class PolicyAgent:
    """A LeRobot policy that sees what `lerobot-eval` would show it; one agent an episode batch.

    A policy that plans from the present frames alone is asked for a chunk at a time, so frames between two
    plans are not rendered. One with a history, or one that blends overlapping chunks, sees every step.

    Args:
        policy: The policy; its queues are emptied.
        preprocessor: From observations to the policy's batch.
        postprocessor: From the policy's actions to absolute targets.
        cameras: Names of the c cameras, in the order of the frames.
        instruction: Text of the task.
        threads: Intra-op CPU threads of the policy.
    """

    needs_frames = True

    def __init__(
        self,
        policy: PreTrainedPolicy,
        preprocessor: PolicyProcessorPipeline[Any, Any],
        postprocessor: PolicyProcessorPipeline[Any, Any],
        cameras: Sequence[str],
        instruction: str,
        *,
        threads: int = 1,
    ) -> None:
        self._policy, self._before, self._after = policy.eval(), preprocessor, postprocessor
        self._cameras, self._instruction, self._threads = tuple(cameras), instruction, threads
        self._frames: Tensor | None = None
        for part in (policy, preprocessor, postprocessor):
            part.reset()

    @torch.inference_mode()
    def plan(self, observation: Observation) -> Tensor:
        """Return absolute targets `[w k a]`; worlds that were not observed keep their last one.

        Raises:
            ShapeError: There are no frames.
        """
        if observation.frames is None:
            raise ShapeError(expected="frames", got="None", fix="Run the episodes with frames switched on.")
        worlds, steps = observation.worlds, _chunk_steps(self._policy.config)
        with intra_op_threads(self._threads):
            if steps is None:
                frames = self._latest(observation.frames, worlds)
                return self._after(self._policy.select_action(self._batch(frames, observation.proprio)))[
                    :, None
                ]
            proprio = observation.proprio if worlds is None else observation.proprio[worlds]
            batch = self._batch(observation.frames, proprio)
            chunk = self._after(self._policy.predict_action_chunk(batch)[:, :steps])
        return hold_unobserved(chunk, observation)

    def _batch(self, frames: Tensor, proprio: Tensor) -> dict[str, Any]:
        """Return the preprocessed batch of frames `[w c h w 3]` and states `[w a]`."""
        images = frames.permute(0, 1, 4, 2, 3).float() / 255
        views = {f"{OBS_IMAGES}.{name}": images[:, i] for i, name in enumerate(self._cameras)}
        state = {OBS_STATE: proprio.float()}
        return self._before({**views, **state, "task": [self._instruction] * len(frames)})

    def _latest(self, frames: Tensor, worlds: Tensor | None) -> Tensor:
        """Return frames of all worlds: those of stopped ones stay as they were."""
        if worlds is None or self._frames is None:
            self._frames = frames.clone()
        else:
            self._frames[worlds] = frames
        return self._frames


def _chunk_steps(config: Any) -> int | None:
    """Return how many actions of a chunk are executed, or None where the policy must see every step."""
    alone = getattr(config, "n_obs_steps", 1) == 1
    blends = getattr(config, "temporal_ensemble_coeff", None) is not None
    return int(config.n_action_steps) if alone and not blends and hasattr(config, "n_action_steps") else None
