"""Hydra at the edge: group choices and overrides of the command line become one plain dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lary_policy.errors import ConfigError, LaryPolicyError, UnknownNameError
from lary_policy.paths import NAMED_ENCODER, choices, configs_dir

# Lists of a suite, and the group that narrows each to one member.
_NARROWED = {"encoders": "encoder", "tasks": "env", "heads": "head"}
NAMES_OF_ENCODERS = "package.module:Attribute|auto:<hub id, folder or timm name>"


def compose(verb: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose `configs/<verb>.yaml` with command-line overrides.

    Raises:
        UnknownNameError: A group has no such choice; the valid ones are listed.
        ConfigError: An override cannot be parsed or names an unknown key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [part for override in overrides for part in _named_encoder(override)]
    for override in overrides:
        _check_choice(override)
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            config = hydra_compose(config_name=verb, overrides=list(overrides))
        values = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(verb, error) from error
    composed = {str(key): value for key, value in dict(values).items()}  # type: ignore[arg-type]
    _check_narrowed(verb, overrides, composed)
    return composed


def group_names() -> tuple[str, ...]:
    """Return the config groups."""
    return tuple(sorted(p.name for p in configs_dir().iterdir() if p.is_dir()))


def settings_text(verb: str) -> str:
    """Return the text of `lary <verb> --help`: groups with their choices, then every key with its value."""
    from omegaconf import OmegaConf

    values = compose(verb, [])
    used = [g for g in group_names() if g in ("suite", *values)]
    groups = [f"  {group}={'|'.join(choices(group))}" for group in used]
    groups += [f"  encoder={NAMES_OF_ENCODERS}"] if "encoder" in used else []
    return "\n".join(
        [
            f"usage: lary {_spoken(verb)} [group=choice] [key=value] ...",
            "",
            "groups:",
            *groups,
            "",
            "settings:",
        ]
    ) + ("\n" + "\n".join("  " + line for line in OmegaConf.to_yaml(values).rstrip().splitlines()))


def _check_narrowed(verb: str, overrides: Sequence[str], composed: Mapping[str, Any]) -> None:
    """Refuse a list that a group nobody chose would replace by its default."""
    keys = {override.partition("=")[0] for override in overrides}
    for override in overrides:
        name = override.partition("=")[0]
        member = composed.get(_NARROWED.get(name, ""))
        given = composed.get(name)
        if member is None or not isinstance(given, list) or _NARROWED[name] in keys:
            continue
        if len(given) != 1 or not _describes(given[0], member):
            raise ConfigError(
                expected=f"{_NARROWED[name]}=<one name>: `lary {_spoken(verb)}` works on one",
                got=override,
                fix=f"Choose with {_NARROWED[name]}=, or use `lary suite` for several.",
            )


def _describes(item: Any, member: Mapping[str, Any]) -> bool:
    if isinstance(item, Mapping):
        return all(member.get(key) == value for key, value in item.items())
    return item == member.get("name")


def _named_encoder(override: str) -> list[str]:
    """Turn `encoder=<a name with a colon>`, which no file has, into its template with that name."""
    key, _, value = override.partition("=")
    if key.lstrip("+~") != "encoder" or ":" not in value:
        return [override]
    name = value.strip("'\"")
    return [f"{key}={NAMED_ENCODER}", f"encoder.name='{name}'"]


def _check_choice(override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(
            expected="an override of the form key=value",
            got=f"'{override}'",
            fix="Example: lary probe env=reach.",
        )
    group = key.lstrip("+~")
    if group in group_names() and value not in (*choices(group), NAMED_ENCODER):
        raise UnknownNameError(group, value, choices(group))
    if Path(value).suffix == ".yaml":
        raise ConfigError(
            expected="a choice's name without .yaml",
            got=f"'{override}'",
            fix=f"Write {key}={Path(value).stem}.",
        )


def _explain(verb: str, error: Exception) -> LaryPolicyError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ConfigError(
        expected=f"settings that `lary {_spoken(verb)} --help` lists",
        got=first.rstrip("."),
        fix=f"Run `lary {_spoken(verb)} --help`.",
    )


def _spoken(verb: str) -> str:
    """Return a verb as it is typed: the settings of `lary data verify` are in `data_verify.yaml`."""
    return verb.replace("_", " ", 1).replace("_", "-")
