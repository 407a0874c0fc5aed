"""UniVLA's and villa-X's models through `lary lam`, loaded again, and all models on the page."""

import re

import pytest
import torch

from lary_policy.cli import main
from lary_policy.encoders import load_encoder
from lary_policy.paths import read_json

SMALL = ("attention_heads=2", "steps=2", "eval_every=1", "batch_size=4", "codebook=4", "dim=8", "width=16")
DATA = ("tasks=[reach]", "cameras=[front]", "image_px=56", "demos={train:6,val:2,test:2}", "device=cpu")
PIXELS, SEEN = "backbone=pixels", "backbone={name: dinov2-small, weights: random}"


@pytest.fixture(scope="module")
def trained(shared_copy):
    """Both stages of UniVLA's model and villa-X's, on the frames of the finished suite."""
    out = shared_copy.output_dir
    given = {
        "one": (SEEN, "model=univla"),
        "two": (SEEN, "model=univla", f"stage_one={out / 'one'}"),
        "robot": (PIXELS, "model=villax"),
        "laq4": (PIXELS,),
        "laq8": (PIXELS, "codebook=8"),
    }
    for run, words in given.items():
        settings = [word for word in SMALL if not any(word.startswith(w.split("=")[0]) for w in words)]
        assert main(["lam", *DATA, *settings, *words, f"output_dir={out}", f"run={run}"]) == 0
    return out


def frames(count=3):
    return torch.randint(0, 256, (1, count, 56, 56, 3), dtype=torch.uint8)


@pytest.mark.parametrize(("run", "name", "tokens"), [
    ("one", "univla-dinov2-small", 4), ("two", "univla-dinov2-small", 4), ("robot", "villa-x", 2),
])  # fmt: skip
def test_each_folder_is_an_encoder_at_its_own_size(run, name, tokens, trained):
    encoder = load_encoder(name, weights=str(trained / run))
    assert encoder.encode(frames()).shape == (1, 2, tokens, 8)
    assert encoder.encode_indices(frames()).max() < 4
    quantised = load_encoder(name, weights=str(trained / run), output="quantised")
    assert len(quantised.encode(frames(9)).flatten(0, 2).unique(dim=0)) <= 4


def test_files_have_the_names_that_are_published(trained):
    state = torch.load(trained / "two" / "univla.ckpt", weights_only=True)["state_dict"]
    assert {
        "lam.vq_action.codebook.weight",
        "lam.encoder.transformer_blocks.0.spatial_attn.to_q.weight",
    } <= set(state)
    assert not any("dino_encoder" in name for name in state)
    first = torch.load(trained / "one" / "univla.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(first["lam.vq.codebook.weight"], state["lam.vq.codebook.weight"])
    config = read_json(trained / "robot" / "model_config.json")
    assert (config["architecture"], config["config"]["resolution"]) == ("IgorModel", 56)


@pytest.mark.parametrize(("words", "said"), [
    ((SEEN, "model=villax"), "backbone=pixels"),
    ((PIXELS, "model=univla"), "features for UniVLA"),
    ((SEEN, "stage_one=one"), "one stage of model=laq"),
    ((SEEN.replace("}", ", layer: 6}"), "model=univla", "stage_one=one"), "Train both stages on the same"),
    ((SEEN, "model=univla", "stage_one=robot"), "config.json"),
    ((SEEN, "lam=small"), "known lam"),
])  # fmt: skip
def test_what_does_not_belong_together_is_named(words, said, trained, capfd):
    given = [w.replace("stage_one=", f"stage_one={trained}/") for w in words]
    assert main(["lam", *DATA, *SMALL, *given, f"output_dir={trained}", "run=bad"]) == 2
    assert said in capfd.readouterr().err


def test_videos_have_no_states(trained, tmp_path, capfd):
    from video_files import moving_square, write_video

    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", moving_square(24, seed=number))
    words = (PIXELS, "model=villax", f"videos={tmp_path}", "image_px=56", "device=cpu")
    assert main(["lam", *SMALL, *words, f"output_dir={tmp_path / 'out'}"]) == 2
    said = capfd.readouterr().err
    assert "states of one kind of robot beside the frames; got none" in said


def test_the_page_shows_models_over_their_settings(trained, capsys):
    assert main(["report", f"output_dir={trained}"]) == 0
    page = (trained / "latest" / "report.html").read_text()
    section = page[page.index("Latent action models") :]
    assert re.search(r"Over\s+codes of the codebook", section)
    assert "codes used, %" in section
    assert "cannot be set up again" not in page
