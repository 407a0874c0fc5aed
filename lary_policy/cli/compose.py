"""From the words of a command line to plain settings: defaults, files of configs/, then what was typed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.paths import choices, configs_dir

Settings = dict[str, Any]
# Whatever stands behind these is taken as it is typed: names of files have spaces, brackets and umlauts.
PATHS = frozenset(
    {
        "data_dir", "csv_dir", "csv", "media_dir", "latents_dir", "ssv2_root", "egodex_root", "root", "out",
        "output_dir", "statistics", "policy", "videos", "head_from", "encoder.weights", "options.root",
        "options.csv_dir", "run", "store",
    }
)  # fmt: skip
NAMES_OF_ENCODERS = "package.module:Attribute|auto:<hub id, folder or timm name>"
# One of several: `encoder=pixels` is short for `encoders=[pixels]`.
SHORT = {"encoder": "encoders", "env": "tasks", "head": "heads"}
_HELP = ("-h", "--help")


def wants_help(arguments: Sequence[str]) -> bool:
    """Tell whether the arguments ask for help."""
    return any(argument in _HELP for argument in arguments)


def typed(arguments: Sequence[str], known: Sequence[str]) -> Settings:
    """Return what was typed as a nested dictionary: `demos.train=6` is {demos: {train: 6}}.

    Args:
        arguments: Words of the form key=value, values in Hydra's grammar; paths stand as they are.
        known: The keys that exist, without what follows a dot.

    Raises:
        UnknownNameError: A key does not exist; the closest ones are named.
        ConfigError: A word has no `=`, or a value cannot be parsed.
    """
    found: Settings = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        key = key.lstrip("+~")
        if not separator:
            fix = f"Write {key}=<value>." if key in known else "Example: env=reach; see --help."
            raise ConfigError(expected="an override of the form key=value", got=f"'{argument}'", fix=fix)
        first = key.partition(".")[0]
        if first not in known or _misspelt(key):
            raise unknown_setting(key, known)
        _put(found, key.split("."), _value(key, text))
    return found


def unknown_setting(key: str, known: Sequence[str]) -> UnknownNameError:
    """Return the error about a key that does not exist, with the one that was meant.

    It may stand one level deeper (`weights` for `encoder.weights`), be misspelt on any level, or belong to a
    source that was not chosen.
    """
    inner = [name for name in _nested() if name.partition(".")[0] in known]
    leaf = key.rpartition(".")[2]
    deeper = [name for name in (*known, *inner) if name.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(key, [*known, *inner], n=1)
    close += difflib.get_close_matches(leaf, [name.rpartition(".")[2] for name in inner], n=1)
    near = [name for leaf in close for name in (*known, *inner) if leaf in (name, name.rpartition(".")[2])]
    owners = [source for source in choices("source") if leaf in source_options(source)]
    if owners and not deeper:
        return UnknownNameError("setting", key, known, meant=f"source={owners[0]} {leaf}=...")
    meant = next(iter([*deeper, *near]), "")
    if meant.startswith("head."):  # which there are of a chosen head alone
        meant = f"head=mlp-small {meant}"
    return UnknownNameError("setting", key, known, meant=meant)


@cache
def _nested() -> tuple[str, ...]:
    """Return the settings inside others: of encoder views, demonstrations and the training of heads."""
    from lary_policy.encoders import EncoderView
    from lary_policy.heads import HeadConfig
    from lary_policy.runs import RunConfig

    demos, train = get_type_hints(RunConfig)["demos"], get_type_hints(HeadConfig)["train"]
    parts = {"encoder": EncoderView, "demos": demos, "head.train": train}
    return tuple(f"{name}.{one.name}" for name, part in parts.items() for one in dataclasses.fields(part))


def _misspelt(key: str) -> bool:
    """Tell whether a key with a dot names something that the settings of its kind do not have."""
    parent = key.rpartition(".")[0]
    siblings = [name for name in _nested() if name.rpartition(".")[0] == parent]
    return bool(siblings) and key not in siblings


def _value(key: str, text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if key in PATHS and text != "null" and not quoted:
        return text
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            expected=f"a value for {key}: a word, number, [list] or {{key: value}}",
            got=f"{text} ({first})",
            fix=f"Close every bracket of {key}, and quote the whole of it once."
            if text.startswith(("[", "{"))
            else f"""Quote it twice: '{key}="{text}"'.""",
        ) from error
    if override.is_sweep_override():
        raise ConfigError(
            expected=f"one value for {key}",
            got=text,
            fix=f"Write {key}=[{text}] for a list, or add --multirun to run each one.",
        )
    return override.value()


def _put(settings: Settings, path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        inner = settings.get(name)
        if isinstance(inner, str):  # `encoder=pixels encoder.image_px=28`
            inner = {"name": inner}
        settings[name] = inner if isinstance(inner, dict) else {}
        settings = settings[name]
    if isinstance(settings.get(path[-1]), dict) and isinstance(value, str):
        value = {**settings[path[-1]], "name": value}
    settings[path[-1]] = value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """Return `base` with the values of `over` in it, dictionaries inside dictionaries alike."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def read_group(group: str, name: str) -> Settings:
    """Read one file of a config group.

    Raises:
        UnknownNameError: The group has no such file.
    """
    if name.endswith(".yaml"):
        raise ConfigError(
            expected="a choice's name without .yaml", got=f"'{name}'", fix=f"Write {Path(name).stem}."
        )
    if name not in choices(group):
        raise UnknownNameError(group, name, choices(group))
    text = (configs_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def compose(verb: str, arguments: Sequence[str], extra: Sequence[str] = ()) -> Settings:
    """Return the settings of a verb that runs stages, as `run_config` reads them.

    Tasks take the defaults of a file of configs/suite; a source of files those of configs/source.

    Args:
        verb: `suite`, `data`, `extract`, `probe`, `rollout`, `report` or `policy`.
        arguments: As typed.
        extra: Further keys that this verb has; they stay in the result.

    Raises:
        UnknownNameError: A setting, suite, source or head does not exist.
        ConfigError: A value cannot be parsed, or settings exclude each other.
    """
    from lary_policy.runs import SIMULATED, RunConfig

    fields = [one.name for one in dataclasses.fields(RunConfig)]
    first = dict(a.partition("=")[::2] for a in arguments if "=" in a)
    source = first.get("source", SIMULATED)
    of_files = source != SIMULATED or "data_dir" in first
    options = source_options(source) if of_files else {}
    own = [_in_options(argument, options) for argument in arguments]
    known = ("suite", *SHORT, *fields, *options, *extra)
    given = typed(own, known)
    if of_files:
        base: Settings = {"encoders": ["dinov2-small"], "options": options, **_defaults_of(source)}
        if "suite" in given or "env" in given or "tasks" in given:
            raise ConfigError(
                expected="settings of a source of files", got="suite, env or tasks", fix="Leave them out."
            )
    else:
        asked = {"env", "tasks", "encoder", "encoders"} & given.keys()
        # Whoever types a suite means its tasks and encoders; `lary predict` adds one for its probes alone.
        named = "suite" in given and verb != "predict"
        name = {"name": "of these settings"} if asked and "suite" not in given else {}
        base = read_group("suite", str(given.pop("suite", "quick"))) | name
        if verb not in ("suite", "report") and not named:
            base |= {} if {"env", "tasks"} & given.keys() else {"tasks": ["reach"]}
            single = {"encoder", "encoders"} & given.keys() or verb == "data"
            base |= {} if single else {"encoders": ["dinov2-small"]}
    return _narrowed(merged(base, given))


def _narrowed(settings: Settings) -> Settings:
    """Put what `env`, `encoder` and `head` name into their lists."""
    env = settings.pop("env", None)
    if env is not None:
        settings["tasks"] = [env]
    encoder = settings.pop("encoder", None)
    if isinstance(encoder, str) or (isinstance(encoder, dict) and "name" in encoder):
        settings["encoders"] = [encoder]
    elif encoder is not None:  # settings for every encoder of the list
        views = [{"name": v} if isinstance(v, str) else v for v in settings.get("encoders", ())]
        settings["encoders"] = [{**encoder, **view} for view in views]
    head = settings.pop("head", None)
    if isinstance(head, str):
        settings["heads"] = [head]
    elif head is not None:
        if "name" not in head:
            raise ConfigError(
                expected="head=<name> for head.* settings",
                got=f"head.{next(iter(head))} alone",
                fix=f"Pass head=mlp-small too, or any of {', '.join(choices('head'))}.",
            )
        settings["heads"] = [merged(read_group("head", head.pop("name")), head)]
    return settings


def _in_options(argument: str, options: Mapping[str, Any]) -> str:
    """Put a setting of the source where the source's settings are."""
    return f"options.{argument}" if argument.partition("=")[0].partition(".")[0] in options else argument


def source_options(key: str) -> Settings:
    """Return the settings of a source with their defaults, as its file of configs/source or its code states.

    Raises:
        UnknownNameError: There is no such source.
    """
    return {name: value for name, value in _source(key).items() if name not in _SHARED}


def _source(key: str) -> Settings:
    from lary_policy.data import list_sources, source_settings

    own = key not in choices("source") and key in list_sources()
    return source_settings(key) if own else read_group("source", key)


_SHARED = ("source", "sources")


def _defaults_of(key: str) -> Settings:
    """Return what a file of configs/source says about the run itself."""
    return {"source": key, **{n: v for n, v in _source(key).items() if n in _SHARED}}
