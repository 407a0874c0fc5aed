"""A policy and the environment that would execute its actions are compared before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from lerobot.configs import PolicyFeature

from lary_policy.contract import ActionContract
from lary_policy.embodiment import list_embodiments, load_embodiment
from lary_policy.errors import ConfigError, EmbodimentError


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

    Args:
        config: A policy's configuration whose output feature `action` is the environment's. Where it has an
            attribute `contract` (the dict of an `ActionContract`), it is compared with what the policy knows;
            where it has `cameras` (names of image features), the policy's must be among them.

    Raises:
        EmbodimentError: The actions differ; the message prints both sides.
        ConfigError: The environment lacks a camera; the message names all of both.
    """
    feature = config.action_feature
    if feature is None:
        return
    require_action_dim(config, feature)
    theirs: Mapping[str, Any] | None = getattr(feature, "contract", None)
    if theirs is not None:
        _compare(own_contract(config), theirs)
    cameras = getattr(feature, "cameras", None)
    if cameras is not None:
        require_cameras(config, tuple(cameras))


def require_action_dim(config: ContractedConfig, feature: PolicyFeature) -> None:
    """Refuse actions of another length than the policy was built for.

    Raises:
        EmbodimentError: The lengths differ.
    """
    if config.action_dim is not None and feature.shape[0] != config.action_dim:
        names = f" ({', '.join(config.action_feature_names)})" if config.action_feature_names else ""
        raise EmbodimentError(
            expected=f"actions of {config.action_dim} numbers{names}, which the policy was trained for",
            got=f"{feature.shape[0]} numbers",
            fix="Use the environment or dataset of the policy's robot, or train a new policy.",
        )


def require_cameras(config: ContractedConfig, given: tuple[str, ...]) -> None:
    """Refuse a source of images that lacks one of the policy's cameras.

    Raises:
        ConfigError: A camera is missing; the message names all of both.
    """
    wanted = tuple(config.image_features)
    if set(wanted) - set(given):
        raise ConfigError(
            expected=f"cameras {', '.join(wanted)}, which the policy sees",
            got=", ".join(given) or "none",
            fix='Render these cameras, or rename others with --rename_map=\'{"<theirs>": "<ours>"}\'.',
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
