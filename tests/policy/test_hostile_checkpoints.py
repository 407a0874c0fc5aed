"""Checkpoints are untrusted: whatever their files name, no code of theirs is imported or run."""

from __future__ import annotations

import json
import pickle
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_lary import batch, config

from lary_policy import cli
from lary_policy.errors import ConfigError, LaryPolicyError
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.policy.processor_lary import make_lary_pre_post_processors
from lary_policy.policy.trusted import (
    load_processors,
    read_policy,
    require_consent,
    require_trusted,
    require_trusted_file,
    runs_remote_code,
)

STATS = {key: {"mean": torch.zeros(7), "std": torch.ones(7)} for key in ("observation.state", "action")}
PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"

# What a module of the attacker does when it is imported, and its classes when they are built.
EVIL = """
import pathlib
pathlib.Path({sentinel!r}).write_text("ran")
class E:
    def __init__(self, *args, **kwargs):
        pathlib.Path({sentinel!r}).write_text("ran")
def run(*args, **kwargs): E()
"""


class Payload:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return (Path.write_text, (Path(self.sentinel), "ran"))


def step(entry):
    return lambda raw: raw["steps"].append(entry)


def call(name, *args, **kwargs):
    """A step that calls `name` with settings."""
    return {"class": name, "config": kwargs | ({"args": list(args)} if args else {})}


def named(name, **config):
    """A registered step with settings."""
    return step({"registry_name": name, "config": config})


def put(path, value):
    """Set a value deep in a JSON object."""

    def change(raw):
        keys = path.split("/")
        for key in keys[:-1]:
            raw = raw.setdefault(key, {}) if isinstance(raw, dict) else raw[int(key)]
        raw[keys[-1]] = value

    return change


CLASSES = (
    "subprocess.Popen", "subprocess.run", "os.system", "os.popen", "builtins.exec", "builtins.eval",
    "builtins.__import__", "importlib.import_module", "runpy.run_path", "runpy.run_module", "code.interact",
    "pickle.loads", "torch.load", "torch.hub.load", "pty.spawn", "shutil.rmtree", "ctypes.CDLL",
    "multiprocessing.Process", "evil.E", "evil.run", "evil", ".evil.E", "..evil.E", "evil:E", "",
    "lerobot.processor.pipeline.importlib", "lerobot.processor.pipeline.json.load", "lerobot.utils.utils.sys",
    "lerobot.scripts.lerobot_train.train", "lerobot.processor.pipeline.Path", "lerobot..evil.E",
    "lerobot.evil.E", "lary_policy.evil.E", "lary_policy.cli.main", "lary_policy.policy.trusted.Path",
    "lary_policy.paths.shutil",
    "lerobot.configs.policies.PreTrainedConfig", "lerobot_evil.E", "transformers.AutoModel.from_pretrained",
)  # fmt: skip
STEPS = {
    **{f"class {name}": step(call(name, "touch", "{sentinel}", shell=True)) for name in CLASSES},
    "class of a list": step({"class": ["subprocess", "Popen"], "config": {}}),
    "class of null": step({"class": None, "config": {}}),
    "no class": step({"config": {"args": "x"}}),
    "unknown name": step({"registry_name": "evil", "config": {}}),
    "module as name": step({"registry_name": "evil.E", "class": "evil.E"}),
    "name of a list": step({"registry_name": ["evil"], "class": "evil.E"}),
    "remote tokenizer": named("action_tokenizer_processor", action_tokenizer_name="hub"),
    "trusting tokenizer": named(
        "action_tokenizer_processor", action_tokenizer_name="hub", trust_remote_code=True
    ),
    "classifier": named("reward_classifier_processor", pretrained_path="hub"),
    "tokenizer of a folder with code": named("tokenizer_processor", tokenizer_name="hub"),
    "class without its package": step({"class": "lerobot.robots.reachy2.robot_reachy2.Reachy2Robot"}),
    "target": named("device_processor", _target_="evil.E"),
    "nested target": named("device_processor", a=[{"_target_": "evil.run"}]),
    "plugin": named("device_processor", plugin="evil"),
    "state above": step({"registry_name": "device_processor", "state_file": "../evil.safetensors"}),
    "state absolute": step({"registry_name": "device_processor", "state_file": "/etc/passwd"}),
    "state pickle": step({"registry_name": "device_processor", "state_file": "evil.pt"}),
    "state below": step({"registry_name": "device_processor", "state_file": "a/../../evil.safetensors"}),
    "state number": step({"registry_name": "device_processor", "state_file": 3}),
    "no steps": lambda raw: raw.pop("steps"),
    "steps of text": lambda raw: raw.update(steps="evil.E"),
}
CONFIGS = {
    "encoder": put("encoder/name", "evil:E"),
    "encoder below": put("encoder/name", "pkg.evil:E"),
    "encoder of python": put("encoder/name", "os:system"),
    "encoder installed": put("encoder/name", "antigravity:fly"),
    "target": put("_target_", "evil.E"),
    "target in encoder": put("encoder/_target_", "evil.E"),
    "auto map": put("auto_map", {"AutoModel": "evil.E"}),
    "remote code": put("trust_remote_code", True),
    "remote code below": put("encoder/trust_remote_code", "yes"),
    "plugin": put("plugin", "evil"),
    "plugins": put("plugins", ["evil"]),
    "packages": put("discover_packages_path", "evil"),
    "dashes": put("encoder/discover-packages-path", "evil"),
    "capitals": put("Trust_Remote_Code", True),
    "type module": put("type", "evil.LaryConfig"),
    "type of python": put("type", "subprocess:Popen"),
    "type unknown": put("type", "evil"),
    "type with remote code": put("type", "pi0_fast"),
    "type SAC": lambda raw: (raw.clear(), raw.update(type="gaussian_actor", vision_encoder_name="hub")),
    "probe": put("head_from", "probe"),
    "features": put("input_features/observation.state/type", "evil.E"),
    "mode": put("normalization_mapping/STATE", "evil.E"),
    "number": put("chunk_size", "__import__('evil')"),
    "yaml tag": put("tags", ["!!python/object/apply:os.system ['touch {sentinel}']"]),
    "interpolation": put("repo_id", "${oc.env:HOME}${eval:__import__('evil')}"),
}
TEXT = ("yaml tag", "interpolation")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint as training writes it."""
    folder = tmp_path_factory.mktemp("good") / "checkpoint"
    settings = config()
    policy = LaryPolicy(settings)
    policy.save_pretrained(folder)
    for processor in make_lary_pre_post_processors(settings, STATS):
        processor.save_pretrained(folder)
    return folder


@pytest.fixture
def attacked(good, tmp_path, monkeypatch):
    """Copy the checkpoint into a folder where the attacker's modules lie, and start there."""
    sentinel = tmp_path / "sentinel"
    source = EVIL.format(sentinel=str(sentinel))
    hub = tmp_path / "hub"
    for place in (tmp_path, hub, tmp_path / "pkg"):
        place.mkdir(exist_ok=True)
        (place / "evil.py").write_text(source)
    brought = {"auto_map": {"AutoModel": "evil.E", "AutoProcessor": "evil.E"}}
    (hub / "config.json").write_text(json.dumps(brought))
    (hub / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "evil.E"}}))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "evil.py").write_text(source)
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "head.json").write_text(json.dumps({"encoder": "evil:E", "_target_": "evil.E"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # the worst case: everything of theirs can be imported
    monkeypatch.setattr(sys, "argv", ["lary", "rollout", f"policy={folder}"])
    yield folder, sentinel
    assert not sentinel.exists(), "code of the checkpoint ran"
    assert not {"evil", "pkg.evil"} & set(sys.modules)


def spoil(folder, sentinel, name, change):
    raw = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    change(raw)
    (folder / name).write_text(json.dumps(raw).replace("{sentinel}", str(sentinel)))


def use(folder):
    """Do what `lary rollout policy=<folder>` does with a checkpoint."""
    settings = read_policy(folder, "cpu")
    processors = load_processors(settings, folder)
    return LaryPolicy.from_pretrained(folder, config=settings), processors


def test_an_honest_checkpoint_passes_and_acts(good):
    policy, (before, after) = use(good)
    assert after(policy.select_action(before(batch(policy.config)))).shape == (2, 7)


def test_a_step_by_the_class_of_lerobot_is_built(attacked):
    folder, sentinel = attacked
    name = "lerobot.processor.rename_processor.RenameObservationsProcessorStep"
    spoil(folder, sentinel, PRE, step({"class": name, "config": {"rename_map": {}}}))
    _, (before, _) = use(folder)
    assert type(before.steps[-1]).__name__ == "RenameObservationsProcessorStep"


@pytest.mark.parametrize("file", [PRE, POST])
@pytest.mark.parametrize("name", STEPS)
def test_no_step_runs_code(attacked, name, file):
    folder, sentinel = attacked
    spoil(folder, sentinel, file, STEPS[name])
    with pytest.raises(LaryPolicyError):
        require_trusted(folder)
    with pytest.raises(LaryPolicyError):
        use(folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_setting_runs_code(attacked, name):
    folder, sentinel = attacked
    spoil(folder, sentinel, "config.json", CONFIGS[name])
    if name in TEXT:  # kept as the text that it is; the fixture looks for what ran
        use(folder)
        return
    with pytest.raises(LaryPolicyError):
        use(folder)


ADAPTERS = {
    "megatron": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
    "core": {"megatron_core": "evil"},
    "library": {"auto_mapping": {"base_model_class": "E", "parent_library": "evil"}},
    "map": {"auto_map": {"x": "evil.E"}},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_no_adapter_runs_code(attacked, name):
    folder, _ = attacked
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **ADAPTERS[name]}))
    with pytest.raises(ConfigError, match="name no code"):
        use(folder)
    plain = {"peft_type": "LORA", "megatron_config": None, "megatron_core": "megatron.core"}
    library = "lary_policy.policy.modeling_lary"
    plain["auto_mapping"] = {"base_model_class": "LaryPolicy", "parent_library": library}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    require_trusted(folder)


def test_policies_that_trust_a_models_folder_are_known_by_their_source():
    from lerobot.configs import PreTrainedConfig

    refused = {kind for kind in PreTrainedConfig.get_known_choices() if runs_remote_code(kind)}
    assert refused == {"gaussian_actor", "groot", "pi0_fast", "wall_x"}


def test_pickles_are_not_opened(attacked):
    folder, sentinel = attacked
    for name in ("model.safetensors", "policy_preprocessor_step_3_normalizer_processor.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(Payload(sentinel)))
        with pytest.raises(Exception, match=r"(?i)header|safetensors|deserializ"):
            use(folder)
        (folder / name).write_bytes(kept)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(sentinel)))
    with pytest.raises(ConfigError, match="pickle"):
        use(folder)


TWICE = '{"type": "act", "type": "lary"}'
DEEP = '{"a":' * 5000 + "1" + "}" * 5000


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"', "[" * 100_000, DEEP, TWICE])
def test_damaged_settings_are_named(attacked, text):
    folder, _ = attacked
    for name in (PRE, "config.json", "train_config.json"):
        kept = (folder / name).read_text() if (folder / name).exists() else None
        (folder / name).write_text(text)
        with pytest.raises(ConfigError):
            use(folder)
        (folder / name).unlink() if kept is None else (folder / name).write_text(kept)


TRAINING = [put("policy/encoder/name", "evil:E"), put("policy/type", "groot"), put("env/type", "evil.E"),
               put("env/_target_", "evil.E"), put("policy/auto_map", {"a": "evil.E"}), put("plugin", "evil"),
               put("reward_model", {"type": "reward_classifier", "model_name": "hub"}),
               put("policy/vlm_model_name", "hub"), put("optimizer/type", "evil.Adam"),
               put("env/discover_packages_path", "evil")]  # fmt: skip


@pytest.mark.parametrize("change", TRAINING)
def test_no_settings_of_training_run_code(attacked, change):
    folder, sentinel = attacked
    spoil(folder, sentinel, "train_config.json", change)
    with pytest.raises(ConfigError):
        require_trusted_file(folder / "train_config.json")
    with pytest.raises(ConfigError):
        require_trusted(folder)


BOMB = "a: &a [1, 2]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmn")
)
WRITTEN = {
    "own encoder.yaml": "policy: {type: lary, encoder: {name: 'evil:E'}}",
    "remote code.yml": "policy: {type: groot}",
    "target.yaml": "env: {_target_: evil.E}",
    "include.yaml": "policy: !include evil.yaml",
    "python.yaml": "tags: [!!python/object/apply:evil.run []]",
    "name.yaml": "seed: !!python/name:evil.E",
    "bomb.yaml": BOMB,
    "type twice.yaml": "policy: {type: act, type: lary}",
    "plugin.toml": "plugin = 'evil'",
    "remote code.toml": "[policy]\ntype = 'wall_x'",
    "json of another name": json.dumps({"policy": {"type": "lary", "encoder": {"name": "evil:E"}}}),
    "json.cfg": json.dumps({"env": {"_target_": "evil.E"}}),
    "checkpoint.yaml": "policy: {path: checkpoint}",
    "checkpoint.json": json.dumps({"policy": {"path": "checkpoint"}}),
    "pretrained.yaml": "policy: {type: lary, pretrained_path: checkpoint}",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_settings_written_by_hand_are_settings_of_others(attacked, name, capsys):
    folder, _ = attacked
    spoil(folder, "", PRE, step(call("evil.run")))
    (folder.parent / name).write_text(WRITTEN[name])
    assert cli.main(["train", f"--config_path={folder.parent / name}"]) == 2
    said = capsys.readouterr().err
    assert "ConfigError" in said
    assert "name no code" in said or "own encoder" in said


def test_there_are_enough_of_them():
    attacks = 2 * len(STEPS) + len(CONFIGS) - len(TEXT) + len(ADAPTERS) + len(TRAINING) + len(WRITTEN)
    print(f"{attacks} hostile checkpoints and settings")  # noqa: T201
    assert attacks >= 170


def test_an_own_encoder_needs_the_users_word(attacked, monkeypatch):
    _, sentinel = attacked
    with pytest.raises(ConfigError, match=r"type the name yourself: --policy.encoder.name=evil:E"):
        EncoderConfig(name="evil:E")
    for typed in ("--policy.encoder.name=evil:E", "encoder=evil:E", "encoders=[pixels,evil:E]"):
        monkeypatch.setattr(sys, "argv", ["lary", typed])
        assert require_consent("evil:E") == "evil:E"
    for other in ("policy=evil:Ex", "policy=an.evil:E", "policy=evil"):
        monkeypatch.setattr(sys, "argv", ["lary", other])
        with pytest.raises(ConfigError, match="stands in a file"):
            require_consent("evil:E")
    assert require_consent("tiny_lary:anything")  # imported by this program
    assert require_consent("auto:some/model")
    assert not sentinel.exists()


def test_the_commands_refuse_before_they_run_anything(attacked, capsys):
    folder, sentinel = attacked
    spoil(folder, sentinel, PRE, step(call("subprocess.Popen", "touch", str(sentinel))))
    for arguments in (
        ["rollout", f"policy={folder}"],
        ["train", f"--policy.path={folder}", "--dataset.repo_id=tests/none"],
        ["train", f"--config_path={folder / 'config.json'}"],
    ):
        assert cli.main(arguments) == 2
        assert "subprocess.Popen" in capsys.readouterr().err
