"""What a policy needs of the features of a dataset or an environment; errors name what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_policy.errors import ConfigError, EmbodimentError


def require_cameras_and_action(config: PreTrainedConfig) -> None:
    """Refuse inputs without RGB cameras and outputs without actions.

    Raises:
        ConfigError: There is no camera, one is not RGB, or the action is missing.
    """
    cameras = config.image_features
    wrong = [name for name, feature in cameras.items() if feature.shape[0] != 3]
    if not cameras or wrong:
        raise ConfigError(
            expected="one or more cameras observation.images.<name> of shape [3, h, w]",
            got=f"inputs {_listed(config)}",
            fix=f"Leave out {', '.join(wrong)}." if wrong else "Use a dataset or environment with cameras.",
        )
    if config.action_feature is None:
        raise ConfigError(
            expected=f"an output feature '{ACTION}'",
            got=f"outputs {', '.join(config.output_features or {}) or '(none)'}",
            fix="Use a dataset or environment whose actions have that name.",
        )


def require_state(config: PreTrainedConfig, why: str) -> None:
    """Refuse inputs without a state.

    Args:
        config: The policy's configuration.
        why: The setting that needs one.

    Raises:
        ConfigError: There is none.
    """
    if config.robot_state_feature is None:
        raise ConfigError(
            expected=f"an input feature '{OBS_STATE}' for {why}",
            got=f"inputs {_listed(config)}",
            fix="Pass --policy.use_proprio=false --policy.action_mode=absolute for a vision-only policy.",
        )


def require_history(encoder: str, n_obs_steps: int) -> None:
    """Refuse a single frame for an encoder that compares frames.

    Raises:
        ConfigError: The history is too short.
        UnknownNameError: The encoder does not exist.
    """
    from lary_policy.encoders import encoder_spec  # imports torch models; configurations are imported early

    kind = encoder_spec(encoder).latent.kind
    if kind != "frame" and n_obs_steps < 2:
        raise ConfigError(
            expected=f"n_obs_steps >= 2 for '{encoder}', an encoder of {kind}s",
            got=str(n_obs_steps),
            fix="Pass --policy.n_obs_steps=2 --policy.observation_stride=<control steps between frames>.",
        )


def dataset_embodiment(known: str | None, features: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the embodiment that a dataset names beside its actions, or the one that is known already.

    Args:
        known: The policy's embodiment, or None.
        features: Description of every feature, as in `meta/info.json`.

    Raises:
        EmbodimentError: The two differ, or the dataset's actions are not those of the embodiment it names.
    """
    from lary_policy.embodiment import list_embodiments, load_embodiment  # imports torch

    action = features.get(ACTION, {})
    name = action.get("embodiment") or (action.get("info") or {}).get("embodiment")
    if name is None:
        return known
    if known not in (None, name):
        raise EmbodimentError(
            expected=f"a dataset of embodiment '{known}', which the policy is of",
            got=f"embodiment '{name}'",
            fix="Train a new policy for this dataset, or choose another one.",
        )
    layout = load_embodiment(name) if name in list_embodiments() else None
    if layout is not None and layout.action_dim != action["shape"][0]:
        raise EmbodimentError(
            expected=f"{layout.action_dim} numbers of embodiment '{name}' ({', '.join(layout.labels)})",
            got=f"a dataset that names it, with actions of {action['shape'][0]}",
            fix="Correct the embodiment in the dataset's meta/info.json.",
        )
    return str(name)


def require_state_names(features: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse actions relative to a state whose numbers have other names, e.g. poses relative to joints.

    Raises:
        ConfigError: Both are named and the names differ.
    """
    names, state = (features.get(key, {}).get("names") for key in (ACTION, OBS_STATE))
    if not isinstance(names, list | tuple) or not isinstance(state, list | tuple):
        return
    if list(state)[: len(names)] != list(names):
        raise ConfigError(
            expected=f"a state whose numbers are the actions' {list(names)}, to be relative to",
            got=f"{OBS_STATE} of {list(state)}",
            fix="Pass --policy.action_mode=absolute.",
        )


def _listed(config: PreTrainedConfig) -> str:
    inputs = config.input_features or {}
    return ", ".join(f"{name} {list(feature.shape)}" for name, feature in inputs.items()) or "(none)"
