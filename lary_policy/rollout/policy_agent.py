"""Any LeRobot policy in the batched closed loop, with its own processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

from lary_policy.errors import ConfigError
from lary_policy.machine import intra_op_threads
from lary_policy.rollout.agents import Observation, hold_unobserved

_PLANS = 1_000  # more than an episode has: keeps the random numbers of plans and of seeds apart


class PolicyAgent:
    """A LeRobot policy that sees what `lerobot-eval` would show it; one agent an episode batch.

    A policy that plans from the present frames alone is asked for a chunk at a time, so frames between two
    plans are not rendered. One with a history, or one that blends overlapping chunks, sees every step.

    Args:
        policy: The policy; its queues are emptied.
        preprocessor: From observations to the policy's batch.
        postprocessor: From the policy's actions to absolute targets.
        cameras: What the policy calls the c cameras, in the order of the frames.
        instruction: Text of the task.
        threads: Intra-op CPU threads of the policy.
        seeds: Of the worlds: plan for one after the other, with random numbers of the world's own seed, so
            that an episode is the same to the last bit whatever worlds it shares a wave with. None plans for
            all at once, which is faster.

    Raises:
        ConfigError: `seeds` are given for a policy that keeps a history of all worlds in one queue.
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
        seeds: Sequence[int] | None = None,
    ) -> None:
        self._steps, self._seeds = _chunk_steps(policy.config), seeds
        if seeds is not None and self._steps is None:
            raise ConfigError(
                expected="a policy that plans chunks from the present frames for batch_invariant=true",
                got=f"'{policy.config.type}', which keeps one history of all worlds",
                fix="Leave out batch_invariant, or pass num_worlds=1.",
            )
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
        frames, _ = observation.seen()
        with intra_op_threads(self._threads):
            if self._steps is None:
                batch = self._batch(self._latest(frames, observation.worlds), observation.proprio)
                return self._after(self._policy.select_action(batch))[:, None]
            if self._seeds is None:
                chunk = self._chunk(observation, self._steps)
            else:
                drawn = zip(self._seeds_of(observation), observation.one_by_one(), strict=True)
                chunk = torch.cat([self._drawn(seed, part, self._steps) for seed, part in drawn])
        return hold_unobserved(chunk, observation)

    def _chunk(self, observation: Observation, steps: int) -> Tensor:
        """Return the chunks `[m k a]` of the observed worlds."""
        return self._after(self._policy.predict_action_chunk(self._batch(*observation.seen()))[:, :steps])

    def _drawn(self, seed: int, observation: Observation, steps: int) -> Tensor:
        """Return the chunk of one world, with random numbers of its seed and of the plan's number."""
        frames, _ = observation.seen()
        with torch.random.fork_rng([frames.device] if frames.device.type == "cuda" else []):
            torch.manual_seed(seed * _PLANS + observation.chunk_index)
            return self._chunk(observation, steps)

    def _seeds_of(self, observation: Observation) -> list[int]:
        seeds = list(self._seeds or ())
        return seeds if observation.worlds is None else [seeds[w] for w in observation.worlds.tolist()]

    def _batch(self, frames: Tensor, proprio: Tensor) -> dict[str, Any]:
        """Return the preprocessed batch of frames `[w c h w 3]` and states `[w a]`."""
        images = frames.permute(0, 1, 4, 2, 3).float() / 255
        views = {name: images[:, i] for i, name in enumerate(self._cameras)}
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
