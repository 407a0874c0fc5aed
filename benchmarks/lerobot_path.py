"""The same encoder and head on LeRobot's own evaluation path: its loop, its policy class, its vector envs."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end
from lerobot.policies import PreTrainedPolicy
from lerobot.processor import (
    DeviceProcessorStep,
    PolicyProcessorPipeline,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import (
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.constants import ACTION, OBS_IMAGES
from torch import Tensor, nn

from gl_world import GlWorld
from lary_policy.actions import ActionStats
from lary_policy.encoders import LatentEncoder


@PreTrainedConfig.register_subclass("lary_benchmark")
@dataclass
class HeadPolicyConfig(PreTrainedConfig):
    """A chunk of actions from one frame, executed to its end before the next is planned.

    Attributes:
        n_action_steps: Actions of a chunk.
    """

    n_action_steps: int = 5
    observation_delta_indices = None
    action_delta_indices = None
    reward_delta_indices = None

    def get_optimizer_preset(self) -> Any:
        """Nothing is trained."""
        raise TypeError("not trained")

    def get_scheduler_preset(self) -> None:
        """Nothing is trained."""

    def validate_features(self) -> None:
        """Any camera will do."""


class HeadPolicy(PreTrainedPolicy):
    """An encoder and a head behind LeRobot's interface.

    Args:
        config: Device and length of the chunks.
        encoder: Frozen encoder of frames.
        head: Maps latents `[b 1 1 n d]` to normalised chunks `[b k a]`.
    """

    config_class, name = HeadPolicyConfig, "lary_benchmark"

    def __init__(self, config: HeadPolicyConfig, encoder: LatentEncoder, head: nn.Module) -> None:
        super().__init__(config)
        self._encoder, self._head, self._queue = encoder, head.eval(), deque[Tensor]()

    def get_optim_params(self) -> dict:
        """Nothing is trained."""
        return {}

    def reset(self) -> None:
        """Forget the chunk under way."""
        self._queue.clear()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Nothing is trained."""
        raise TypeError("not trained")

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return normalised chunks `[b k a]`; images `[b 3 h w]` from 0 to 1 are made whole levels again."""
        (image,) = (batch[name] for name in batch if name.startswith(OBS_IMAGES))
        frames = (image * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)
        return self._head(self._encoder.encode(frames.unsqueeze(1)).unsqueeze(2).float())

    def select_action(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Return the next action `[b a]`; plan when none is left."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()


class LeRobotPath:
    """`lerobot-eval`'s rollout over w worlds, each with an OpenGL renderer of its own.

    Args:
        kind: `sync` (gymnasium's SyncVectorEnv) or `async` (AsyncVectorEnv, one process a world), both as
            LeRobot sets them up for its simulated benchmarks.
        task: Name of the task.
        worlds: Worlds w.
        image_px: Height and width of a frame.
        camera: Name of the camera.
        steps: Control steps of an episode.
    """

    def __init__(self, kind: str, task: str, worlds: int, image_px: int, camera: str, steps: int) -> None:
        make = partial(GlWorld, task, image_px, camera, steps)
        self._env: Any
        if kind == "async":
            self._env = _LazyAsyncVectorEnv([make] * worlds)
        else:
            mode = gymnasium.vector.AutoresetMode.NEXT_STEP
            self._env = gymnasium.vector.SyncVectorEnv(
                [freeze_after_episode_end(make)] * worlds, autoreset_mode=mode
            )

    def first_frames(self, seeds: Sequence[int]) -> Tensor:
        """Return what the policy sees first, uint8 `[w h w 3]`."""
        observation, _ = self._env.reset(seed=list(seeds))
        (frames,) = observation["pixels"].values()
        return torch.from_numpy(frames.copy())

    def run(self, policy: HeadPolicy, stats: ActionStats, seeds: Sequence[int]) -> None:
        """Run one episode a world."""
        device = DeviceProcessorStep(device=str(policy.config.device))
        nothing: Any = PolicyProcessorPipeline(steps=[])
        after: Any = PolicyProcessorPipeline(
            steps=[_unnormaliser(stats, policy.config.device), DeviceProcessorStep(device="cpu")],
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        )
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar would draw over the figures
            rollout(
                self._env, policy, nothing, nothing, PolicyProcessorPipeline(steps=[device]), after,
                seeds=list(seeds),
            )  # fmt: skip

    def close(self) -> None:
        """End the processes and free the renderers."""
        self._env.close()


def _unnormaliser(stats: ActionStats, device: str | None) -> UnnormalizerProcessorStep:
    return UnnormalizerProcessorStep(
        features={ACTION: PolicyFeature(FeatureType.ACTION, (len(stats.mean),))},
        norm_map={FeatureType.ACTION: NormalizationMode.MEAN_STD},
        stats={ACTION: {"mean": torch.tensor(stats.mean), "std": torch.tensor(stats.std)}},
        device=device,
    )
