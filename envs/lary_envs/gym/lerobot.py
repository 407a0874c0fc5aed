"""Every task as a LeRobot environment: `lerobot-eval --env.type=lary_sim --env.task=reach`.

Importing this module registers the type and imports no simulator.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import draccus
from lerobot.configs import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.processor import ObservationProcessorStep, PolicyProcessorPipeline, ProcessorStepRegistry
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lary_envs.gym.registration import gym_ids
from lary_policy.actions import ActionContract, load_embodiment
from lary_policy.errors import ConfigError, UnknownNameError, require_one

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from lary_envs.tasks import TaskSpec

STATE_KEY = "agent_pos"  # LeRobot's name for the measured state of a gymnasium environment


@dataclass
class ContractFeature(PolicyFeature):
    """An action feature that says what its numbers mean.

    LeRobot's `make_policy` hands the features of an environment to the policy as they are, so a policy finds
    the environment's contract in `config.output_features["action"]`. Saved configs hold type and shape only.
    """

    # `dataclasses.asdict` of the environment's `ActionContract`
    contract: dict[str, Any] = field(default_factory=dict)


@draccus.encode.register(ContractFeature)
def _encode(feature: ContractFeature, declared_type: Any = None) -> dict[str, Any]:
    plain: dict[str, Any] = draccus.encode(_plain(feature))
    return plain


@EnvConfig.register_subclass("lary_sim")
@dataclass
class LarySimEnv(EnvConfig):
    """A simulated task of `lary_envs`.

    Seeds, initial states, control and frames are those of `lary rollout`, which starts at seed 300000. A
    finished world rests until the whole batch has ended. A target that must not be executed, or a diverged
    simulation, ends that world's episode without success; `info["failure"]` names it.

    Raises:
        UnknownNameError: Unknown task, camera, level, looks, action mode or device.
        ConfigError: Another control rate or other features than the task has, or options that exclude each
            other.
        SimulationError: A count below 1.
    """

    task: str | None = "reach"  # name of a task, see `lary_envs.list_tasks`
    fps: int = 20  # control steps a second: the task's own
    cameras: list[str] = field(default_factory=lambda: ["front"])  # cameras to render, in this order
    image_px: int = 112  # height and width of a frame
    max_episode_steps: int | None = None  # control steps of an episode; the task's own by default
    action_mode: str = "absolute"  # `absolute` targets, or `relative` to the last commanded pose
    device: str = "auto"  # of physics, control and rendering: `auto`, `cpu`, `cuda` or `cuda:1`
    randomisation: str = "none"  # level of randomisation, see `lary_envs.SimEnv`
    looks: str = "primitives"  # of the robot, see `lary_envs.SimEnv`
    # Simulate and render all worlds together in this process; otherwise each is an environment of its own, in
    # this process or, with `eval.use_async_envs`, in several
    batched: bool = True
    # Leave observations on the device; None does so on CUDA. The policy sees the same either way, but
    # `eval.recording` needs False.
    torch_observations: bool | None = None
    features: dict[str, PolicyFeature] = field(default_factory=dict)  # derived from the above
    features_map: dict[str, str] = field(default_factory=dict)  # derived from the above

    def __post_init__(self) -> None:
        spec = self._spec()
        own = self._features(spec)
        given, plain = ({k: _plain(v) for k, v in some.items()} for some in (self.features, own))
        if given and given != plain:
            raise ConfigError(
                expected=f"features {plain}", got=f"{given}", fix="Leave out `features`: they are derived."
            )
        self.features = own
        self.features_map = {name: OBS_STATE if name == STATE_KEY else name for name in own}

    @property
    def package_name(self) -> str:
        """Package that registers the gymnasium environments."""
        return "lary_envs"

    @property
    def gym_id(self) -> str:
        """Name of the task's gymnasium environment, e.g. `lary/PandaReach-v0`."""
        return gym_ids()[str(self.task)]

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of `LaryEnv` and `LaryVectorEnv`."""
        names = ("image_px", "max_episode_steps", "action_mode", "randomisation", "looks")
        return {
            **{name: getattr(self, name) for name in names}, "cameras": tuple(self.cameras),
            "device": self._device(), "on_failure": "end", "render_mode": "rgb_array",
        }  # fmt: skip

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """Return the environments as `{"lary_sim": {0: environments}}`.

        Args:
            n_envs: Worlds.
            use_async_envs: Run each in a process of its own, unless they are `batched`.

        Raises:
            UnknownNameError: Unknown action mode, level of randomisation, looks or device.
            SimulationError: A count below 1, meshes missing, or CUDA asked for and not there.
        """
        if self.batched:
            from lary_envs.gym.vector import LATCHED, LaryVectorEnv

            env = LaryVectorEnv(
                str(self.task), n_envs, autoreset_mode=LATCHED, torch_observations=self._on_device(),
                **self.gym_kwargs,
            )  # fmt: skip
            return {self.type: {0: env}}
        return {self.type: {0: self._separate(n_envs, use_async_envs)}}

    def get_env_processors(self) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
        """Return what happens to observations before and to actions after the policy's own processors."""
        steps = [ChannelsFirst()] if self._on_device() else []
        return PolicyProcessorPipeline(steps=steps), PolicyProcessorPipeline(steps=[])

    def _separate(self, n_envs: int, use_async_envs: bool) -> VectorEnv:
        """Return environments that LeRobot steps one by one; each rests after its episode."""
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
        from lerobot.envs.utils import freeze_after_episode_end

        from lary_envs.gym.single import LaryEnv

        # Made from the class: workers of another process have imported no registrations of gymnasium.
        makers = [freeze_after_episode_end(partial(LaryEnv, str(self.task), **self.gym_kwargs))] * n_envs
        # In the next step, because a new observation in the same one would count for the old episode.
        if use_async_envs and n_envs > 1:
            return AsyncVectorEnv(makers, context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP)
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)

    def _spec(self) -> TaskSpec:
        from lary_envs.tasks import task_spec

        spec = task_spec(str(self.task))
        for camera in self.cameras:
            if camera not in spec.cameras:
                raise UnknownNameError(f"camera of task {self.task}", camera, spec.cameras)
        if not self.cameras or len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(
                expected="one or more different cameras", got=f"{self.cameras}", fix="Pass cameras=[front]."
            )
        require_one(image_px=self.image_px)
        if self.fps != spec.control_hz:
            raise ConfigError(
                expected=f"fps={spec.control_hz:g}, the control rate of {self.task}", got=f"{self.fps}",
                fix="Leave out `fps`.",
            )  # fmt: skip
        if self.torch_observations and not self.batched:
            raise ConfigError(
                expected="batched=true with torch_observations=true", got="batched=false",
                fix="Leave out one of the two: gymnasium's own vector environments return numpy arrays.",
            )  # fmt: skip
        return spec

    def _features(self, spec: TaskSpec) -> dict[str, PolicyFeature]:
        embodiment = load_embodiment(spec.embodiment)
        # A relative action counts from the last commanded pose, which no target of a head does.
        target = "absolute" if self.action_mode == "absolute" else "relative_to_command"
        contract = replace(ActionContract.of(embodiment, target), control_hz=spec.control_hz)
        size, frame = (embodiment.action_dim,), (self.image_px, self.image_px, 3)
        return {
            ACTION: ContractFeature(FeatureType.ACTION, size, asdict(contract)),
            STATE_KEY: PolicyFeature(FeatureType.STATE, size),
            **{f"{OBS_IMAGES}.{name}": PolicyFeature(FeatureType.VISUAL, frame) for name in self.cameras},
        }

    def _device(self) -> str:
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def _on_device(self) -> bool:
        """Return whether observations stay tensors on the simulation's device."""
        if self.torch_observations is None:
            return self.batched and self._device().startswith("cuda")
        return self.torch_observations


@EnvConfig.register_subclass("lary_metaworld")
@dataclass
class LaryMetaWorldEnv(LarySimEnv):
    """One of MetaWorld's tasks, by its whole name or without `metaworld/`; needs the extra `metaworld`."""

    task: str | None = "metaworld/reach-v3"
    fps: int = 80

    def __post_init__(self) -> None:
        if "/" not in str(self.task):
            self.task = f"metaworld/{self.task}"
        super().__post_init__()


@dataclass
@ProcessorStepRegistry.register("lary_sim_channels_first")
class ChannelsFirst(ObservationProcessorStep):
    """Turns frames `[w, h, w, 3]` from 0 to 255 into `[w, 3, h, w]` from 0 to 1, on their device.

    LeRobot does the same to numpy frames, and passes tensors on as floats.
    """

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the observation with converted frames."""
        images = {k: v for k, v in observation.items() if k.startswith(f"{OBS_IMAGES}.")}
        return {**observation, **{k: v.permute(0, 3, 1, 2).contiguous() / 255 for k, v in images.items()}}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """Return the features as they are: those of a policy have channels first."""
        return features


def _plain(feature: PolicyFeature) -> PolicyFeature:
    return PolicyFeature(feature.type, tuple(feature.shape))
