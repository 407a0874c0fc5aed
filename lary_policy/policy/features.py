"""What a policy needs of the features of a dataset or an environment; errors name what there is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from lerobot.configs import PolicyFeature, PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_policy.actions import ActionContract, list_embodiments, load_embodiment
from lary_policy.errors import ConfigError, EmbodimentError


def require_cameras_and_action(config: PreTrainedConfig) -> None:
    """Raise ConfigError unless there are RGB cameras among the inputs and an action among the outputs."""
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
    """Raise ConfigError where there is no state, naming the setting that needs one (`why`)."""
    if config.robot_state_feature is None:
        raise ConfigError(
            expected=f"an input feature '{OBS_STATE}' for {why}",
            got=f"inputs {_listed(config)}",
            fix="Pass --policy.use_proprio=false --policy.action_mode=absolute for a vision-only policy.",
        )


def require_history(encoder: str, n_obs_steps: int) -> None:
    """Raise ConfigError for a single frame where the encoder compares frames."""
    from lary_policy.encoders import encoder_spec

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


def dataset_rate(known: float | None, meta: Any) -> float:
    """Return the control rate of a dataset in Hz; EmbodimentError if another one is known already."""
    rate = float(meta.fps)
    if known not in (None, rate):
        raise EmbodimentError(
            expected=f"a dataset of control_hz {known} (actions a second), the policy's rate",
            got=f"control_hz {rate}",
            fix=f"Pass --policy.control_hz={rate} to train for that rate, or resample the dataset.",
        )
    return rate


def dataset_action_names(
    known: list[str] | None, features: Mapping[str, Mapping[str, Any]]
) -> list[str] | None:
    """Return the name of each number of a dataset's actions, or those that are known where it names none.

    LeRobot takes `names` as a list of names, which it is not in every dataset: `{"motors": [...]}`.
    """
    from lary_policy.data.lerobot import feature_names

    action = features.get(ACTION, {})
    if action.get("names") is None:
        return known
    names = feature_names(action)
    return None if names is None else list(names)


def require_state_names(features: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError for actions relative to a state of other names, e.g. poses relative to joints."""
    from lary_policy.data.lerobot import feature_names

    names, state = (feature_names(features.get(key)) for key in (ACTION, OBS_STATE))
    if names is not None and state is not None and state[: len(names)] != names:
        raise ConfigError(
            expected=f"a state whose numbers are the actions' {list(names)}, to be relative to",
            got=f"{OBS_STATE} of {list(state)}",
            fix="Pass --policy.action_mode=absolute.",
        )


def _listed(config: PreTrainedConfig) -> str:
    inputs = config.input_features or {}
    return ", ".join(f"{name} {list(feature.shape)}" for name, feature in inputs.items()) or "(none)"


class ContractedConfig(Protocol):
    """What a policy's configuration must hold to be compared; all may be unknown (None)."""

    embodiment: str | None
    control_hz: float | None
    action_feature_names: list[str] | None
    action_dim: int | None

    @property
    def action_feature(self) -> PolicyFeature | None:
        """The feature `action` of a dataset or environment."""
        ...

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """The cameras that the policy sees."""
        ...


def own_contract(config: ContractedConfig) -> dict[str, Any]:
    """Return what a policy knows of its own actions, in the fields of `ActionContract`.

    Whatever the head predicts, what leaves the postprocessor is absolute.
    """
    known: dict[str, Any] = {"target": "absolute"}
    if config.embodiment in list_embodiments():
        known |= asdict(ActionContract.of(load_embodiment(str(config.embodiment)), "absolute"))
    names = config.action_feature_names
    if names and len(names) == (config.action_dim or len(names)):
        known["labels"] = tuple(names)
    if config.embodiment:
        known["embodiment"] = config.embodiment
    if config.control_hz is not None:
        known["control_hz"] = config.control_hz
    return known


def require_env(config: ContractedConfig) -> None:
    """Refuse an environment whose actions mean something else than the policy's.

    The output feature `action` of `config` is the environment's. Where it has an attribute `contract` (the
    dict of an `ActionContract`), it is compared with what the policy knows; where it has `cameras` (names of
    image features), the policy's must be among them.

    Raises:
        EmbodimentError: The actions differ; the message prints both sides.
        ConfigError: The environment lacks a camera; the message names all of both.
    """
    feature = config.action_feature
    if feature is None:
        return
    require_action_dim(config, feature)
    if (theirs := getattr(feature, "contract", None)) is not None:
        _compare(own_contract(config), theirs)
    if (cameras := getattr(feature, "cameras", None)) is not None:
        require_cameras(config.image_features, cameras)


def require_action_dim(config: ContractedConfig, feature: PolicyFeature) -> None:
    """Raise EmbodimentError for actions of another length than the policy was built for."""
    if config.action_dim is not None and feature.shape[0] != config.action_dim:
        names = f" ({', '.join(config.action_feature_names)})" if config.action_feature_names else ""
        raise EmbodimentError(
            expected=f"actions of {config.action_dim} numbers{names}, which the policy was trained for",
            got=f"{feature.shape[0]} numbers",
            fix="Use the environment or dataset of the policy's robot, or train a new policy.",
        )


def require_cameras(wanted: Iterable[str], given: Iterable[str]) -> None:
    """Raise ConfigError where one of the policy's cameras is missing; the message names all of both."""
    names, there = list(wanted), list(given)
    ours = [name.rpartition(".")[2] for name in names]
    if not set(names) <= set(there):
        raise ConfigError(
            expected=f"cameras {', '.join(names)}, which the policy sees",
            got=", ".join(there) or "no images",
            fix=f"Render these (lerobot-eval: --env.cameras='{json.dumps(ours)}'), or rename others with "
            '--rename_map=\'{"<theirs>": "<ours>"}\'.',
        )


def _compare(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple | list) else value

    different = [name for name in own if name in theirs and plain(own[name]) != plain(theirs[name])]
    if different:
        raise EmbodimentError(
            expected="; ".join(f"{name} {plain(own[name])}" for name in different) + " (of the policy)",
            got="; ".join(f"{name} {plain(theirs[name])}" for name in different) + " (of the environment)",
            fix="Use the environment of the policy's robot at the control rate it was trained at.",
        )
