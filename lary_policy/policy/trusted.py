"""What the files of a checkpoint may name: nothing in them decides which code is imported or run.

LeRobot imports the classes that `policy_preprocessor.json` names, and some of its policies run code that a
model's folder brings. So a checkpoint is read here first, as JSON, and refused before anything is imported.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from lary_policy.errors import ConfigError, LaryPolicyError, UnsafePathError, WeightsMismatchError
from lary_policy.paths import foreign_file, open_regular, parse_json, parse_yaml, read_regular

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import PreTrainedPolicy

    from lary_policy.policy.normalise import Pipelines

CONFIG, ADAPTER, TRAIN = "config.json", "adapter_config.json", "train_config.json"
PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
TOO_LONG = 16 * 2**20  # bytes; a configuration of LeRobot has some kilobytes
TOO_DEEP = 50
TOO_MANY = 100_000  # entries; a YAML file of a few lines may name the same ones again and again
# How LeRobot reads the settings that `--config_path` names, by suffix, others as JSON; only plain values.
_SYNTAX: dict[str, Callable[[str], Any]]
_SYNTAX = {".yaml": parse_yaml, ".yml": parse_yaml, ".toml": tomllib.loads}
# Keys by which libraries are told what to import: Hydra, transformers, draccus, LeRobot and peft.
IMPORTING = {
    "_target_", "auto_map", "base_class", "callable", "class", "code", "custom_code",
    "discover_packages_path", "entry_point", "factory", "function", "import", "load_plugin",
    "megatron_config", "megatron_core", "module", "package_name", "parent_library", "plugin", "plugin_path",
    "plugins", "python", "reward_model", "trust_remote_code",
}  # fmt: skip
# What a folder of a model is described by, and keys under which settings name one.
DESCRIPTIONS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_NAMES_MODEL = re.compile(r".*_(name|path|name_or_path)")
OWN_PACKAGES = ("lerobot", "lary_policy")
_RUNS_REMOTE_CODE = re.compile(r"""trust_remote_code["']?\s*[:=]\s*True""")
_SHOWN = 80


def require_trusted(folder: Path) -> None:
    """Refuse a checkpoint whose files name code; its weights are safetensors, which hold none.

    Raises:
        ConfigError: A file is no JSON object of a sensible size, or names code; the message says where.
        UnsafePathError: A file of tensors outside the folder is named.
    """
    folder = Path(folder)
    for name in (CONFIG, TRAIN, ADAPTER):
        if (raw := _read(folder / name)) is not None:
            _require_plain(raw, folder / name)
            _require_policy(raw if name == CONFIG else raw.get("policy"), folder / name)
    for name in PROCESSORS:
        if (raw := _read(folder / name)) is not None:
            _require_steps(raw, folder / name)
    for path in sorted(folder.glob("*.safetensors")):
        if not path.is_file():  # a pipe would be waited for
            raise _refused(path, "no regular file", "Use a checkpoint that LeRobot wrote.")
    if (folder / "adapter_model.bin").exists():
        raise _refused(folder / "adapter_model.bin", "a pickle", "Save the adapters as safetensors.")


def require_trusted_file(path: Path) -> None:
    """Refuse a file of settings for training as `require_trusted` does, and the checkpoint that it names."""
    if (raw := _read(path, _SYNTAX.get(path.suffix.lower(), parse_json))) is not None:
        _require_plain(raw, path)
        policy = raw.get("policy")
        _require_policy(policy, path)
        for key, value in policy.items() if isinstance(policy, dict) else ():
            if key in ("path", "pretrained_path") and isinstance(value, str):
                require_trusted_source(value)


def require_trusted_source(name: str | Path, revision: str | None = None) -> None:
    """Refuse what `require_trusted` does, of a checkpoint or file here or of a model on the hub.

    Of the model, `name` at `revision`, the small files are downloaded to be looked at.
    """
    path = Path(name)
    if path.is_dir():
        require_trusted(path)
    elif path.is_file():
        require_trusted_file(path)
        require_trusted(path.parent)
    else:
        from huggingface_hub import hf_hub_download

        found = None
        for file in (CONFIG, TRAIN, ADAPTER, *PROCESSORS):
            with contextlib.suppress(Exception):  # absent, or no hub: LeRobot says so when it needs the file
                found = Path(hf_hub_download(str(name), file, revision=revision)).parent
        if found is not None:
            require_trusted(found)


def require_checkpoint(folder: Path) -> None:
    """Raise ConfigError where a folder is no checkpoint of LeRobot, or is not there; nothing is imported."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            expected=f"a LeRobot checkpoint in {folder}",
            got=f"no {CONFIG}" if folder.is_dir() else "no such folder",
            fix="Pass policy=<output_dir>/checkpoints/last/pretrained_model, or what `lary policy` wrote.",
        )


def read_policy(folder: Path, device: str) -> PreTrainedConfig:
    """Read the configuration of a checkpoint on this machine; ids on the hub are not looked for.

    Raises:
        ConfigError: The folder is no checkpoint or not one of a known policy; or see `require_trusted`.
    """
    from lerobot.configs import PreTrainedConfig

    import lary_policy.policy.register  # noqa: F401  # the policy types, where the plugin is not installed

    require_checkpoint(folder)
    require_trusted(folder)
    what = f"settings of a policy that LeRobot or this package knows in {folder / CONFIG}"
    with _foreign(what, "Use a checkpoint of this version of LeRobot; other plugins must be installed."):
        config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path, config.device = folder, device
    return config


def load_processors(config: PreTrainedConfig, folder: Path) -> Pipelines:
    """Load the processors of a checkpoint that `read_policy` read, onto the policy's device.

    Raises:
        ConfigError: They are missing or damaged; or see `require_trusted`.
    """
    from lerobot.policies.factory import make_pre_post_processors

    require_trusted(folder)
    what = f"processors that LeRobot can build in {folder}"
    with _foreign(what, "Use a whole checkpoint of this version of LeRobot."):
        both = make_pre_post_processors(
            config, str(folder), preprocessor_overrides={"device_processor": {"device": config.device}}
        )
        _ = [(one.get_config(), one.state_dict()) for line in both for one in line.steps]  # or they raise
        return both


@contextlib.contextmanager
def _foreign(what: str, fix: str) -> Iterator[None]:
    """Turn whatever LeRobot and draccus raise at settings and tensors of others into a ConfigError."""
    try:
        yield
    except LaryPolicyError:
        raise
    except Exception as error:
        got = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(expected=what, got=got, fix=fix) from error


def load_policy(config: PreTrainedConfig, folder: Path, env: Any) -> PreTrainedPolicy:
    """Build the policy of a checkpoint that `read_policy` read, for an environment, with its weights.

    Args:
        config: What `read_policy` returned.
        folder: The checkpoint.
        env: LeRobot's configuration of the environment.

    Raises:
        WeightsMismatchError: The weights are missing, damaged, or not those of the policy.
    """
    from lerobot.policies.factory import make_policy

    weights, fix = folder / "model.safetensors", "Use a whole checkpoint of this version of LeRobot."
    with foreign_file("the weights of a policy", weights, fix, error=WeightsMismatchError):
        if weights.exists():
            with open_regular(weights):  # a pipe would be waited for
                pass
        policy = make_policy(config, env_cfg=env)
        if weights.exists():
            _require_real(weights, policy.state_dict())
        return policy


def _require_real(path: Path, own: Mapping[str, Any]) -> None:
    """Refuse whole numbers where a policy has real ones: cast, quantised weights would lose their scale."""
    with safe_open(path, "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in {*file.keys()} & {*own}}
    for name, kind in kinds.items():
        if own[name].is_floating_point() and not kind.startswith(("F", "BF")):
            raise ValueError(f"{name} of {kind}")


def require_consent(name: str) -> str:
    """Return an encoder's name; ConfigError for an own encoder that the user did not agree to import.

    That is one that neither stands on the command line nor is installed, see `check_installed`.
    """
    module, colon, _ = str(name).partition(":")
    own = bool(colon) and module != "auto" and all(part.isidentifier() for part in module.split("."))
    whole = re.compile(rf"(?<![\w.:]){re.escape(str(name))}(?![\w.:])")
    if own and not any(whole.search(argument) for argument in sys.argv[1:]):  # alone or within a value
        from lary_policy.encoders import check_installed

        check_installed(name)
    return name


def _read(path: Path, parse: Callable[[str], Any] = parse_json) -> dict[str, Any] | None:
    """Read settings, usually a JSON object; None where there is no such file."""
    if not path.exists():
        return None
    try:
        raw = parse(read_regular(path, TOO_LONG).decode("utf-8"))
        if not isinstance(raw, dict):
            raise ValueError(f"a {type(raw).__name__}")
    except Exception as error:  # a file of anyone, or a pipe
        got = f"{type(error).__name__}: {error}"
        raise _refused(path, got, "Use a checkpoint that LeRobot wrote.") from error
    return raw


def _require_plain(raw: Any, path: Path) -> None:
    """Refuse keys that tell a library what to import, whatever their case, and types that are modules."""
    for number, (place, key, value) in enumerate(_entries(raw, "")):
        if number > TOO_MANY:
            raise _refused(path, f"more than {TOO_MANY:,} entries", "Use settings that LeRobot wrote.")
        said = key.lower().replace("-", "_")
        if said in IMPORTING and value not in (None, False, "", [], {}):
            # What peft writes: its default, unused alone, and the library of the policy it wrapped.
            default = said == "megatron_core" and value == "megatron.core"
            wrapped = said == "parent_library" and str(value).partition(".")[0] in OWN_PACKAGES
            if not (default or wrapped):
                raise _refused(path, f"{place}={_short(value)}", f"Remove {key}, or use another checkpoint.")
        named = _NAMES_MODEL.fullmatch(said) and isinstance(value, str)
        if named and os.path.isdir(value):  # noqa: PTH112  # of names of any length
            for described in DESCRIPTIONS:  # transformers would ask to run the code that it brings
                if "auto_map" in (_read(Path(value) / described) or {}):
                    got = f"{place}={value}, whose {described} names code"
                    raise _refused(path, got, "Use another model.")
        if said == "type" and isinstance(value, str) and not value.replace("-", "_").isidentifier():
            raise _refused(path, f"{place}={_short(value)}", "A type is a registered name, not a module.")


def _entries(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Yield place, key and value of everything in nested objects and lists."""
    if depth > TOO_DEEP:
        raise ConfigError(
            expected=f"settings nested at most {TOO_DEEP} deep",
            got=f"more at {place[:_SHOWN]}",
            fix="Use a checkpoint that LeRobot wrote.",
        )
    items: Any = ()
    if isinstance(value, dict):
        items = ((f"{place}.{key}" if place else str(key), str(key), inner) for key, inner in value.items())
    elif isinstance(value, list):
        items = ((f"{place}[{i}]", "", inner) for i, inner in enumerate(value))
    for where, key, inner in items:
        yield where, key, inner
        yield from _entries(inner, where, depth + 1)


def _require_policy(raw: Any, path: Path) -> None:
    """Refuse policies that run code of a model's folder, and own encoders that nobody agreed to import."""
    if not isinstance(raw, dict):
        return
    kind = raw.get("type")
    if isinstance(kind, str) and runs_remote_code(kind):
        raise _refused(
            path,
            f"type={kind}, a policy that runs code which the folder of a model brings",
            "Run it with LeRobot's own commands if you trust whoever published it.",
        )
    encoder = raw.get("encoder")
    if isinstance(encoder, dict) and isinstance(encoder.get("name"), str):
        require_consent(encoder["name"])


@functools.cache
def runs_remote_code(kind: str) -> bool:
    """Tell whether the source of LeRobot's policy trusts remote code; nothing is imported."""
    folders = [p for p in (_package("lerobot") / "policies").iterdir() if p.name == kind and p.is_dir()]
    return any(_trusts_remote_code(file) for folder in folders for file in sorted(folder.glob("*.py")))


@functools.cache
def _trusts_remote_code(file: Path) -> bool:
    return bool(_RUNS_REMOTE_CODE.search(file.read_text(encoding="utf-8")))


def _require_steps(raw: Mapping[str, Any], path: Path) -> None:
    """Refuse steps that are not processor steps of LeRobot, this package or an installed plugin."""
    steps = raw.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise _refused(path, f"steps {_short(steps)}", "Use processors that LeRobot wrote.")
    for number, step in enumerate(steps):
        kind = _step_class(step, path, f"steps[{number}]")
        config = step.get("config") or {}
        if not isinstance(config, dict):
            raise _refused(path, f"steps[{number}].config={_short(config)}", "It is an object.")
        _require_plain(config, path)
        _require_harmless(kind, config, path)
        if (name := step.get("state_file")) is not None:
            plain = (
                isinstance(name, str) and PurePosixPath(name).name == name and not {"\\", "\0"} & set(name)
            )
            if not plain or not name.endswith(".safetensors"):
                raise UnsafePathError(
                    expected=f"the name of a .safetensors file beside {path}",
                    got=f"state_file={_short(name)}",
                    fix="Use processors that LeRobot wrote.",
                )


def _step_class(step: Mapping[str, Any], path: Path, place: str) -> type:
    """Return the class of a step; only a class that its own package defines as one is imported."""
    from lerobot.processor import ProcessorStep, ProcessorStepRegistry

    import lary_policy.policy.relative_actions  # noqa: F401  # registers its steps

    known = ProcessorStepRegistry.list()
    if "registry_name" in step:
        name = step["registry_name"]
        if not isinstance(name, str) or name not in known:
            got = f"{place}.registry_name={_short(name)}"
            raise _refused(path, got, f"Known: {', '.join(sorted(known))}.")
        return ProcessorStepRegistry.get(name)
    name = step.get("class")
    if not isinstance(name, str) or not _defines(name):
        raise _refused(
            path,
            f"{place}.class={_short(name)}",
            f"Only registered steps and steps defined in {' or '.join(OWN_PACKAGES)} are built.",
        )
    module, _, attribute = name.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # modules of LeRobot that need packages which are not installed
        got = f"{place}.class={name} ({type(error).__name__}: {error})"
        raise _refused(path, got, "Install what that step of LeRobot needs.") from error
    if not (isinstance(found, type) and issubclass(found, ProcessorStep)):
        raise _refused(path, f"{place}.class={name}, which is no processor step", "Use another checkpoint.")
    return found


def _defines(name: str) -> bool:
    """Tell whether `package.module.Class` is a class statement in a module of LeRobot or ours."""
    parts = name.split(".")
    plain = all(part.isidentifier() and not part.startswith("__") for part in parts)
    if len(parts) < 3 or parts[0] not in OWN_PACKAGES or not plain or "scripts" in parts:
        return False
    stem = _package(parts[0]).joinpath(*parts[1:-1])
    source = next((f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()), None)
    if source is None:
        return False
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef) and node.name == parts[-1] for node in tree.body)


def _require_harmless(kind: type, config: Mapping[str, Any], path: Path) -> None:
    """Refuse steps that load models or code by a name in their settings."""
    accepted = inspect.signature(kind).parameters
    loads = "pretrained_path" in accepted and config.get("pretrained_path") is not None
    trusts = "trust_remote_code" in accepted and config.get("trust_remote_code") is not False
    file = inspect.getsourcefile(kind)
    if loads or trusts or (file is not None and _trusts_remote_code(Path(file))):
        raise _refused(
            path,
            f"the step {kind.__name__}, which loads a model or code by name",
            "Run it with LeRobot's own commands if you trust whoever published it.",
        )


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing its modules."""
    spec = importlib.util.find_spec(name)
    assert spec is not None  # both are installed: this module is in one, and needs the other
    assert spec.origin is not None
    return Path(spec.origin).parent


def _refused(path: Path, got: str, fix: str) -> ConfigError:
    return ConfigError(expected=f"settings that name no code in {path}", got=got, fix=fix)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
