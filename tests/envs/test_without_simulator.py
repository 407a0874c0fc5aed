"""Without the extra `sim` everything that does not simulate works, and what does says what to install."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from lary_policy.errors import ConfigError
from lary_policy.machine import require_extra

# Modules of the simulators cannot be imported, as where they are not installed.
HIDING = """
import importlib.util, sys
HIDDEN = ("mujoco", "mujoco_warp", "warp", "metaworld")
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hide())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.partition(".")[0] in HIDDEN else found(name, *a)
"""
USE = """
import lary_envs, lary_policy, lary_policy.runs, lerobot_policy_lary
from lary_envs import list_tasks, open_world, task_spec
from lary_envs.gym import LarySimEnv, gym_ids
from lary_policy.cli import main
from lary_policy.errors import ConfigError
assert len(gym_ids()) == 59 and task_spec("reach").embodiment == "arm7"
for call in (lambda: open_world("reach", 1), lambda: open_world("metaworld/reach-v3", 1), LarySimEnv):
    try:
        call()
    except ConfigError as error:
        assert 'pip install "mujoco>=4,<5" "mujoco-warp>=4,<5"' in str(error), error
    else:
        raise AssertionError("nothing was raised")
sys.exit(main(["data", "env=reach", "output_dir=nowhere"]))
"""


def test_verbs_that_simulate_say_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HIDING + USE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "AssertionError" not in done.stderr, done.stderr
    assert done.returncode not in (0, -11), done.stderr
    assert 'pip install "mujoco>=4,<5"' in done.stderr + done.stdout, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_what_is_missing_is_named(monkeypatch):
    require_extra("sim")
    monkeypatch.setattr(importlib.metadata, "version", {"mujoco": "3.8.1", "mujoco-warp": "4.0.0"}.get)
    with pytest.raises(ConfigError, match=r"mujoco 3\.8\.1, mujoco-warp 4\.0\.0\..*mujoco>=4"):
        require_extra("sim")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mujoco missing, mujoco-warp missing\..*mujoco-warp>=4"):
        require_extra("sim")
