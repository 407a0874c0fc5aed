"""LeRobot finds the package by itself, and pays nothing for what a command does not use."""

import importlib
import json
import os
import subprocess
import sys

POLICIES = {"lary", "lary_act", "lary_diffusion", "lary_gaussian_actor", "lary_multi_task_dit", "lary_vqbet"}
HEAVY = ["diffusers", "mujoco", "mujoco_warp", "peft", "timm", "transformers", "warp"]

# What LeRobot's tools do: import what they parse, look for plugins, parse.
AS_A_TOOL = """
import json, sys
import {imports}
tops = set(sys.modules)
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
new = set(sys.modules) - tops
from lerobot.configs import PreTrainedConfig
envs = sys.modules.get("lerobot.envs.configs")
print(json.dumps({{
    "ours": sorted(m for m in new if m.split(".")[0] in ("lary_policy", "lary_envs", "lerobot_policy_lary")),
    "heavy": sorted(m for m in new if m in {heavy}),
    "policies": sorted(PreTrainedConfig.get_known_choices()),
    "envs": sorted(envs.EnvConfig.get_known_choices()) if envs else [],
}}))
"""


def discover(imports: str) -> dict:
    code = AS_A_TOOL.format(imports=imports, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": ""}  # found through its metadata, not through the folder
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/", check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_tools_with_policies_find_every_type():
    found = discover("lerobot.scripts.lerobot_eval")  # lerobot-train imports the same and datasets
    assert set(found["policies"]) >= POLICIES | {"act"}
    assert "lary_sim" in found["envs"]
    assert found["heavy"] == []
    assert "lary_policy.policy.register" in found["ours"]
    assert not {m for m in found["ours"] if ".modeling_" in m or ".encoders" in m}


def test_tools_without_policies_do_not_wait_for_them():
    found = discover("lerobot.scripts.lerobot_calibrate")
    assert "lary_act" not in found["policies"]
    assert found["heavy"] == []
    assert "lerobot_policy_lary" in found["ours"]


def test_an_unusable_decoder_takes_one_line(caplog):
    """LeRobot tries torchcodec whenever it parses a command line, and prints what ffmpeg's libraries lack."""
    import logging

    importlib.import_module("lerobot_policy_lary")
    theirs = logging.getLogger("lerobot.utils.import_utils")
    for _ in range(2):
        theirs.warning(
            "Could not load\n" * 100 + "'torchcodec' is installed but cannot be loaded (see above)."
        )
    theirs.warning("something else")
    said = [record.getMessage() for record in caplog.records]
    assert [len(text.splitlines()) for text in said] in ([1, 1], [1])  # once a process
    assert said[-1] == "something else"


def test_as_a_library_every_type_is_there_in_one_import():
    from lerobot.configs import PreTrainedConfig
    from lerobot.envs.configs import EnvConfig

    importlib.import_module("lerobot_policy_lary")
    assert set(PreTrainedConfig.get_known_choices()) >= POLICIES
    assert "lary_sim" in EnvConfig.get_known_choices()
