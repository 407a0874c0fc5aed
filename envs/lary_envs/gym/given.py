"""What LeRobot is told of gymnasium worlds that are made already, and what a policy needs of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_envs.gym.foreign import GymSettings, GymWorld
from lary_envs.gym.lerobot import ContractFeature
from lary_policy.errors import ConfigError, EmbodimentError


@dataclass
class GivenEnv(EnvConfig):
    """The features of worlds that LeRobot does not make itself, for its `make_policy`."""

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Nothing: LeRobot makes none."""
        return {}


def open_for(
    policy: PreTrainedConfig, name: str, num_worlds: int, cameras: Sequence[str], settings: GymSettings
) -> tuple[GymWorld, GivenEnv]:
    """Return the worlds `gym:<id>` as a policy sees them, and their features.

    Args:
        policy: Its inputs and outputs say which cameras, in which order, and how many numbers there must be.
        name: Of the task.
        num_worlds: Worlds.
        cameras: Places of frames in the observation. The last level is the camera's name, or what stands
            before a colon; a single camera is the policy's single one, whatever their names are.
        settings: How the rest is read.

    Raises:
        ConfigError: A camera, frame size, state or other input that the policy needs is missing.
        EmbodimentError: Its actions are of another length.
        LaryPolicyError: As `GymWorld`.
    """
    inputs = policy.input_features or {}
    other = [name for name in inputs if name not in policy.image_features and name != OBS_STATE]
    if other:
        raise ConfigError(
            expected=f"a policy that sees cameras and {OBS_STATE}",
            got=f"one that also needs {', '.join(other)}",
            fix="Use `lerobot-eval` with an environment type of LeRobot's own.",
        )
    world = GymWorld(name, num_worlds, _places(policy.image_features, cameras), settings)
    try:
        return world, _features(world, policy)
    except BaseException:
        world.close()
        raise


def require_actions(policy: PreTrainedConfig, size: int, name: str) -> None:
    """Refuse a policy whose actions have another length than those of an environment.

    Raises:
        EmbodimentError: They have.
    """
    action = policy.action_feature
    if action is not None and action.shape[0] != size:
        raise EmbodimentError(
            expected=f"actions of {action.shape[0]} numbers, which the policy was trained for",
            got=f"{size} numbers of {name}",
            fix="Use the environment that the policy was trained for.",
        )


def _features(world: GymWorld, policy: PreTrainedConfig) -> GivenEnv:
    """Return the features of worlds; they are compared with the policy's."""
    state, size = (policy.input_features or {}).get(OBS_STATE), len(world.contract.labels)
    require_actions(policy, size, world.task.name)
    if state is not None and tuple(state.shape) != (world.state_dim,):
        raise ConfigError(
            expected=f"a proprioception of {list(state.shape)} numbers, which the policy sees",
            got=f"{world.state_dim} at state_key={world.settings.state_key}",
            fix="Pass state_key=<place in the observation>, with dots between levels.",
        )
    height, width, _ = world.frame_shape
    wrong = {n: list(f.shape) for n, f in policy.image_features.items() if f.shape[1:] != (height, width)}
    if wrong:
        raise ConfigError(
            expected=f"frames {wrong}, which the policy sees",
            got=f"{height} x {width} pixels of {world.task.name}",
            fix="Pass what its documentation calls the size of frames in env_options={...}.",
        )
    # Without an embodiment nothing is known of the numbers but their rate.
    known = asdict(world.contract) if world.settings.embodiment else {"control_hz": world.control_hz}
    features: dict[str, PolicyFeature] = {
        ACTION: ContractFeature(FeatureType.ACTION, (size,), known),
        OBS_STATE: PolicyFeature(FeatureType.STATE, (world.state_dim,)),
    }
    features |= {
        name: PolicyFeature(FeatureType.VISUAL, (height, width, 3)) for name in policy.image_features
    }
    return GivenEnv(
        task=world.task.name, fps=round(world.control_hz), features=features,
        features_map={name: name for name in features},
    )  # fmt: skip


def _places(wanted: Mapping[str, PolicyFeature], cameras: Sequence[str]) -> list[str]:
    """Return the place of each of the policy's cameras.

    Raises:
        ConfigError: One is missing.
    """
    pairs = [_named(camera) for camera in cameras]
    places, names = dict(pairs), [name.rpartition(".")[2] for name in wanted]
    if len(names) == 1 and len(pairs) == 1:
        return [pairs[0][1]]
    if not names or not set(names) <= set(places) or len(places) < len(pairs):
        called = [place if name == place.rpartition(".")[2] else f"{name}:{place}" for name, place in pairs]
        raise ConfigError(
            expected=f"cameras {', '.join(names) or '(at least one)'}, which the policy sees",
            got=_listed(called),
            fix=f"Pass cameras=[{','.join(f'{name}:<its place>' for name in names)}]; a place has dots "
            "between levels of the observation, e.g. pixels.top.",
        )
    return [places[name] for name in names]


def _named(camera: str) -> tuple[str, str]:
    """Return name and place of a camera: `<name>:<place>`, or a place whose last level is the name."""
    name, colon, place = camera.partition(":")
    return (name, place) if colon else (camera.rpartition(".")[2], camera)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
