"""The base of the package beside simulators that cap MuJoCo: environments of their own, made from PyPI.

`LARY_TEST_INSTALL=<folder>` runs it; the folder keeps the environments (6 GB each) for the next run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).parent / "uv"
FOLDER = os.environ.get("LARY_TEST_INSTALL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="installs packages: set LARY_TEST_INSTALL=<folder>"),
]
DATA = """
import sys, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
names = [f"joint_{i}" for i in range(14)]
numbers = {"dtype": "float32", "shape": (14,), "names": names}
image = {"dtype": "image", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
data = LeRobotDataset.create(
    "tests/aloha", 50, {"action": numbers, "observation.state": numbers, "observation.images.top": image},
    root=sys.argv[1], use_videos=False,
)
draw = np.random.default_rng(0)
for _ in range(12):
    frame = {"observation.images.top": draw.integers(0, 255, (480, 640, 3), dtype=np.uint8), "task": "insert"}
    for name in ("action", "observation.state"):
        frame[name] = draw.normal(size=14).astype(np.float32)
    data.add_frame(frame)
data.save_episode()
data.finalize()
"""
REFUSED = """
import mujoco, lary_policy, lary_envs
from lary_policy.errors import ConfigError
assert mujoco.__version__ < "3.9", mujoco.__version__
try:
    lary_envs.open_world("reach", 1)
except ConfigError as error:
    assert 'pip install "mujoco>=4,<5"' in str(error), error
else:
    raise AssertionError("MuJoCo 3 was taken")
"""
IMPORTED = """
import lerobot_policy_lary
from lary_policy.encoders import list_encoders
from lerobot.configs import PreTrainedConfig
assert {"dinov2-small", "efficientnet-lite0", "pixels"} <= set(list_encoders()), list_encoders()
assert {"lary", "lary_act"} <= set(PreTrainedConfig.get_known_choices())
import lerobot.envs.libero
from libero.libero import benchmark
assert "libero_spatial" in benchmark.get_benchmark_dict()
"""


def done(*command, cwd, said_to="", **env):
    said = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, input=said_to,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl", **env},
    )  # fmt: skip
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-3000:]
    return said.stdout + said.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    done(UV, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", out, cwd=ROOT)
    return next(out.glob("*.whl"))


def environment(wheel, extra, cwd):
    """Return the folder of an environment with our wheel and an extra of LeRobot."""
    home = Path(FOLDER).resolve() / extra
    if not (home / "bin/python").exists():
        done(UV, "venv", "--python", sys.executable, home, cwd=cwd)
    wanted = (f"lerobot_policy_lary @ file://{wheel}", f"lerobot[{extra}]")
    done(UV, "pip", "install", "--python", home / "bin/python", *wanted, cwd=cwd)
    return home


@pytest.mark.parametrize("extra", ["aloha", "libero"])
def test_the_base_resolves_beside_it(wheel, extra, tmp_path):
    (tmp_path / "in.txt").write_text(f"lerobot_policy_lary @ file://{wheel}\nlerobot[{extra}]\n")
    pins = done(
        UV, "pip", "compile", "--python-version", "3.12", "--no-annotate", "--no-header", "in.txt",
        cwd=tmp_path,
    )  # fmt: skip
    assert "mujoco==3." in pins
    assert "warp-lang" not in pins


def test_encoders_and_policies_import_beside_libero(wheel, tmp_path):
    """LIBERO asks at its first import where its data are, and takes them from the package after a no."""
    python = environment(wheel, "libero", tmp_path) / "bin/python"
    done(python, "-c", REFUSED, cwd=tmp_path)
    done(python, "-c", IMPORTED, cwd=tmp_path, said_to="N\n", LIBERO_CONFIG_PATH=str(tmp_path / "libero"))


def test_lary_act_trains_and_lerobot_eval_runs_it_on_aloha(wheel, tmp_path):
    tools = environment(wheel, "aloha", tmp_path) / "bin"
    python = tools / "python"
    done(python, "-c", REFUSED, cwd=tmp_path)
    done(python, "-c", DATA, tmp_path / "data", cwd=tmp_path)
    done(
        tools / "lerobot-train", "--policy.type=lary_act", "--dataset.repo_id=tests/aloha",
        f"--dataset.root={tmp_path / 'data'}", "--policy.encoder.name=pixels", "--policy.encoder.image_px=56",
        "--policy.chunk_size=8", "--policy.n_action_steps=8", "--policy.dim_model=32",
        "--policy.dim_feedforward=32", "--policy.use_vae=false", "--policy.push_to_hub=false",
        "--policy.device=cpu", "--steps=1", "--batch_size=2", "--num_workers=0", "--save_freq=1",
        "--env_eval_freq=0", "--output_dir=run", cwd=tmp_path,
    )  # fmt: skip
    said = done(
        tools / "lerobot-eval", "--policy.path=run/checkpoints/last/pretrained_model", "--policy.device=cpu",
        "--env.type=aloha", "--env.episode_length=16", "--eval.n_episodes=2", "--eval.batch_size=2",
        "--eval.use_async_envs=false",  # workers of LeRobot 0.6.1 do not import gym_aloha
        "--output_dir=eval", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "eval/eval_info.json").exists(), said
    assert len(list((tmp_path / "eval").rglob("*.mp4"))) == 2
