"""The recipes of README and docs/: read from there, run as they stand, in miniature and (slow) in full."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/how-to/lerobot.md")
MARK = "<!-- test: recipe -->\n"
# Sizes in the README and in miniature; frames and encoder stay. Each must occur, or the miniature is none.
SMALLER = {
    "suite=policy": "suite=policy demos={train:3,val:1,test:1}",
    " 'demos={train:400,val:1,test:1,noise_std_m:0.01}'": "",
    "--steps=12000": "--steps=2",
    "--save_freq=12000": "--save_freq=2",
    "--steps=1500": "--steps=3",
    "--save_freq=1500": "--save_freq=3",
    "--batch_size=64": "--batch_size=4",
    " 'demos={train:300,val:1,test:1,noise_std_m:0.01}'": "",
    "--steps=6000": "--steps=2",
    "--save_freq=6000": "--save_freq=2",
    "--batch_size=16 ": "--batch_size=4 ",
    "--eval.n_episodes=50": "--eval.n_episodes=2",
    "--eval.batch_size=50": "--eval.batch_size=2 --env.max_episode_steps=6",
}


def recipes() -> list[str]:
    """Return the shell blocks that are marked as recipes, in the order of the pages."""
    text = "\n".join(page.read_text() for page in PAGES)
    return re.findall(MARK + r"```bash\n(.*?)```", text, flags=re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Return the words of each command of a block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def run_in_process(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as its script would, without the seconds that importing LeRobot anew takes."""
    from lerobot.scripts import lerobot_eval, lerobot_train

    from lary_policy import cli

    mains = {"lary": cli.main, "lerobot-train": lerobot_train.main, "lerobot-eval": lerobot_eval.main}
    monkeypatch.setattr(sys, "argv", words)
    assert not mains[words[0]]()


def success(folder: Path) -> float:
    return json.loads((folder / "eval_info.json").read_text())["overall"]["pc_success"] / 100


def test_the_recipes_run_in_miniature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "".join(recipes())
    for size, smaller in SMALLER.items():
        assert size in text
        text = text.replace(size, smaller)
    words = commands(text)
    assert [w[0] for w in words].count("lerobot-eval") == 2
    for command in words:
        run_in_process(command, monkeypatch)
    for name in ("eval", "eval_act"):
        assert 0 <= success(tmp_path / "outputs" / name) <= 1
        assert list((tmp_path / "outputs" / name / "videos").rglob("*.mp4"))
    weights = tmp_path / "outputs/lary/checkpoints/last/pretrained_model/model.safetensors"
    assert weights.stat().st_size < 60e6


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_policy_of_the_recipe_reaches(tmp_path):
    """At least 80 % of 50 unseen seeds through `lerobot-eval`; `lary rollout` of it agrees."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    started = time.perf_counter()
    for block in recipes():
        subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, env=environment, check=True)
        print(f"{time.perf_counter() - started:.0f} s, ")  # noqa: T201  # shown with -s
    assert success(tmp_path / "outputs/eval") >= 0.8
    assert success(tmp_path / "outputs/eval_act") >= 0.8
    checkpoint = tmp_path / "outputs/lary/checkpoints/last/pretrained_model"
    again = ["lary", "rollout", f"policy={checkpoint}", "env=reach", "run=again"]
    subprocess.run(again, cwd=tmp_path, env=environment, check=True)
    scores = json.loads((tmp_path / "outputs/again/rollout.json").read_text())["scores"]
    ours = next(score for score in scores if score["metric"] == "success")
    assert ours["ci95"][0] <= success(tmp_path / "outputs/eval") <= ours["ci95"][1]
