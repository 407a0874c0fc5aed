"""The folder of a trained latent action model: whole, its own, and what its files say."""

import json
import os
import shlex
import shutil

import pytest
import torch
from lerobot_files import write_lerobot
from video_files import moving_square, write_video

from lary_policy.cli import main
from lary_policy.cli.compose import compose
from lary_policy.encoders import encoder_spec, load_encoder
from lary_policy.frames import VideoFrame
from lary_policy.lam import trainer
from lary_policy.lam.registry import save_state
from lary_policy.paths import read_json
from lary_policy.runs import lam_points
from lary_policy.runs.lam.frames import image_bank

SMALL = (
    "backbone=pixels", "width=32", "spatial_depth=1", "temporal_depth=1", "attention_heads=2", "head_width=8",
    "steps=4", "eval_every=2", "batch_size=4", "codebook=4", "dim=8", "code_seq_len=16", "device=cpu",
    "image_px=48", "patch_px=16",
)  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(folder / f"{number}.mp4", moving_square(24, seed=number))
    return folder


@pytest.fixture(scope="module")
def made(videos, tmp_path_factory):
    """An output folder with one model, whose patches are none of the encoder `pixels`."""
    out = tmp_path_factory.mktemp("out")
    assert main(["lam", f"videos={videos}", f"output_dir={out}", "run=lam1", *SMALL]) == 0
    return out


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "outputs", symlinks=True)


def again(out, videos, *words):
    return main(["lam", f"videos={videos}", f"output_dir={out}", *SMALL, *words])


def test_a_lerobot_dataset_is_a_source_of_frames(tmp_path):
    write_lerobot(tmp_path / "data", episodes=8, steps=40)
    small = [word for word in SMALL if not word.startswith("image_px")]
    words = ["source=lerobot", f"root={tmp_path / 'data'}", f"output_dir={tmp_path / 'out'}", "run=robot"]
    assert main(["lam", *words, *small, "backbone={name: pixels, image_px: 48}"]) == 0
    raw = read_json(tmp_path / "out" / "robot" / "run.json", sealed=True)
    assert raw["frames"]["of"] == "lerobot"
    assert raw["result"]["pairs"]["train"] > 20
    latents = load_encoder("lapa-pixels", weights=str(tmp_path / "out" / "robot")).encode(
        torch.zeros(1, 2, 48, 48, 3, dtype=torch.uint8)
    )
    assert latents.shape == (1, 1, 1, 32)


def test_own_patches_have_any_size(made):
    encoder = load_encoder("lapa-pixels", weights=str(made / "lam1"))
    latents = encoder.encode(torch.zeros(1, 2, 50, 60, 3, dtype=torch.uint8))
    assert latents.shape == (1, 1, 1, 32)  # 3 x 3 patches of 16 px


def test_the_run_says_whose_frames_it_saw(made, videos):
    raw = read_json(made / "lam1" / "run.json", sealed=True)
    assert raw["frames"]["of"] == f"videos {videos.name}"
    assert (raw["config"]["tasks"], raw["config"]["source"]) == ([], "videos")
    (point,), notes = lam_points(made)
    assert point.settings["frames"] == f"videos {videos.name}"
    assert point.settings["content"] == raw["frames"]["content"]
    assert not notes


def test_models_of_other_frames_are_other_models(made, copy, videos, tmp_path):
    other = tmp_path / videos.name  # a folder of the same name
    shutil.copytree(videos, other)
    write_video(other / "3.mp4", moving_square(24, seed=9))
    assert again(copy, other, "run=lam2") == 0
    one, two = (read_json(copy / run / "run.json", sealed=True)["frames"] for run in ("lam1", "lam2"))
    assert one["of"] == two["of"]
    assert one["content"] != two["content"]


@pytest.mark.parametrize("damage", [os.remove, lambda path: os.truncate(path, 300)])
def test_a_damaged_model_is_not_handed_out(damage, copy, videos, capfd):
    (cell,) = (copy / "cache" / "lam").iterdir()
    damage(cell / "laq.pt")
    before = (copy / "lam1" / "laq.pt").read_bytes()
    assert again(copy, videos, "run=lam1") == 2
    said = capfd.readouterr().err
    assert "laq.pt" in said
    assert f"Delete {cell}" in said
    assert (copy / "lam1" / "laq.pt").read_bytes() == before
    shutil.rmtree(cell)
    assert again(copy, videos, "run=lam1") == 0
    assert (copy / "lam1" / "laq.pt").read_bytes() == before  # the same weights are the same file


def test_links_are_replaced_or_refused_and_never_followed(copy, videos, tmp_path, capfd):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (copy / "lam1" / "laq.pt").unlink()
    (copy / "lam1" / "laq.pt").symlink_to(victim)
    assert again(copy, videos, "run=lam1") == 0
    assert victim.read_text() == "mine"
    assert not (copy / "lam1" / "laq.pt").is_symlink()
    (copy / "away").symlink_to(tmp_path)
    assert again(copy, videos, "run=away") == 2
    assert "got a link. Pass run=<another name than away>" in capfd.readouterr().err


def test_a_run_of_another_verb_and_a_model_keep_their_folders(copy, videos, capfd):
    (copy / "s1").mkdir()
    (copy / "s1" / "run.json").write_text(json.dumps({"config": {}, "environment": {}}))
    assert again(copy, videos, "run=s1") == 2
    assert "got the run of another verb" in capfd.readouterr().err
    assert main(["report", f"output_dir={copy}", "run=lam1"]) == 2
    assert "got a latent action model" in capfd.readouterr().err


def test_a_second_stage_does_not_overwrite_its_first(copy, videos, capfd):
    words = ["backbone=dinov2-small", "model=univla", f"stage_one={copy / 'lam1'}", "run=lam1"]
    assert again(copy, videos, *words) == 2
    assert "another folder than that of stage_one" in capfd.readouterr().err


def test_cut_off_between_a_checkpoint_and_its_line_nothing_is_missing(made, videos, tmp_path, monkeypatch):
    told = trainer._tell

    def stop(loop, record, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_tell", stop)
    assert again(tmp_path, videos, "run=lam1") == 130
    monkeypatch.setattr(trainer, "_tell", told)
    assert again(tmp_path, videos, "run=lam1") == 0
    for name in ("metrics.jsonl", "samples.png", "laq.pt"):
        assert (tmp_path / "lam1" / name).read_bytes() == (made / "lam1" / name).read_bytes(), name


def test_the_printed_command_is_one_that_can_be_typed(videos, copy, capfd):
    words = ["run=it's, {a}", "backbone={name: pixels, weights: random}"]
    assert again(copy, videos, *words) == 0
    line = next(x for x in capfd.readouterr().out.splitlines() if x.startswith("use it: lary suite "))
    (typed,) = shlex.split(line.removeprefix("use it: lary suite "))
    views = compose("suite", ["tasks=[reach]", typed])["encoders"]
    assert views == [
        {"name": "pixels", "weights": "random"},
        {"name": "lapa-pixels", "weights": str(copy / "it's, {a}")},
    ]


def test_equal_weights_are_equal_files(tmp_path):
    for name in ("a.pt", "another-name.pt"):
        save_state(tmp_path / name, {"w": torch.arange(5.0)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another-name.pt").read_bytes()


def test_frames_that_cannot_be_decoded_are_named(videos):
    path = videos / "0.mp4"
    pipeline = encoder_spec("pixels").preprocess_named("native")
    frames = [VideoFrame(path, 0), VideoFrame(path, 400)]
    images, usable, lost = image_bank(frames, 56, pipeline, 1)
    assert (len(images), usable) == (1, (frames[0],))
    assert lost[0].item == str(frames[1])
    assert "frame 400 is not there" in lost[0].reason
