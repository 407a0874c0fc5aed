"""Blocks of README and docs/ other than the recipes: read from there and run, smaller."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from lerobot_files import write_lerobot
from own_encoder import page_block, write_own_package
from test_docs import FENCE, PAGES, name
from transformers import ViTConfig, ViTImageProcessor, ViTModel
from video_files import moving_square, write_video

from lary_policy import cli
from lary_policy.data.larybench import write_sample

TINY = "demos={train:8,val:3,test:2} episodes=2 image_px=112"  # all classes in every split
DEMOS = re.compile(r"demos\.train=\d+ demos\.val=\d+ demos\.test=\d+ episodes=\d+")
# Weights that no test can have.
WITHOUT_WEIGHTS = ("dinov3-large", "facebook/dinov2-giant", "auto:convnext_atto")


def blocks(*marks: str) -> list[tuple[str, str]]:
    """Return (page, commands) of the marked blocks, in the order of the pages."""
    return [
        (name(page), code)
        for page in PAGES
        for mark, _, code in FENCE.findall(page.read_text())
        if mark.removeprefix("<!-- test: ").removesuffix(" -->\n") in marks
    ]


def lines(code: str) -> list[str]:
    """Return the commands of a block, without comments."""
    found = (line.partition("   #")[0] for line in code.replace("\\\n", " ").splitlines())
    return [line for line in found if line and not line.startswith("#")]


def run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one documented command; where its weights cannot be there, it says so and ends."""
    code = cli.main(shlex.split(command)[1:])
    said = capsys.readouterr()
    lacking = next((weights for weights in WITHOUT_WEIGHTS if weights in command), None)
    assert code == (0 if lacking is None else 2), f"{command}\n{said.out}\n{said.err}"
    assert lacking is None or lacking in said.err


def save_model(folder: Path) -> None:
    """Write what `save_pretrained` of a small vision transformer and its processor write."""
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                       image_size=32, patch_size=8)  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("page", "code"), blocks("tutorial", "own encoder"))
def test_commands_of_simulated_tasks(page, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_own_package(tmp_path)
    if "weights of checkpoints" in code:
        exec(compile(page_block("FlopCounterMode"), "own-encoder.md", "exec"), {})
    for line in lines(code):
        smaller = DEMOS.sub(TINY, line)
        whole = smaller == line and " verify " not in line
        run(f"{line} {TINY}" if whole else smaller, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("page", "code"), blocks("larybench", "published"))
def test_commands_of_files_and_published_models(page, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample")
    write_lerobot(tmp_path / "dataset")
    save_model(tmp_path / "my-model-folder")
    for line in lines(code):
        here = line.replace("/data/LARYBench", "sample").replace("<folder>", "dataset")
        run(here.replace("env=reach", f"env=reach {TINY}"), capsys)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_commands_of_latent_action_models(tmp_path, monkeypatch, capsys):
    """The suite takes what the first command of the page has trained."""
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "sample")
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_square(24, seed=number))
    model = "spatial_depth=1 temporal_depth=1 attention_heads=2 batch_size=16 steps=2 eval_every=1"
    for _, code in blocks("lam"):
        for line in lines(code):
            tasks = not any(word in line for word in ("source=", "videos=", "lary report"))
            lam = line.startswith("lary lam")  # which has no episodes
            given = [line, TINY.replace("episodes=2", "") * lam or TINY] if tasks else [line]
            given += ["tasks=[reach] films=false"] * line.startswith(
                "lary suite suite=lam"
            )  # four, three loops
            run(" ".join([*given, model * lam]), capsys)
