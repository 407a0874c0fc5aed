"""`lary lam`: from frames to an encoder that suites, policies and the reference can load."""

import json
import shutil

import pytest
import torch
from larybench_files import make_calvin
from video_files import moving_square, write_video

from lary_policy.cli import main
from lary_policy.encoders import EncoderShelf, EncoderView, load_encoder
from lary_policy.errors import LaryPolicyError
from lary_policy.paths import read_json, write_json
from lary_policy.runs.lam.frames import _videos

SMALL = (
    "spatial_depth=1", "temporal_depth=1", "attention_heads=2", "head_width=8", "steps=4", "eval_every=2",
    "batch_size=4", "codebook=4", "dim=8", "code_seq_len=16", "device=cpu", "image_px=56",
)  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_video(folder / f"sub{number % 2}" / f"{number}.mp4", moving_square(24, seed=number))
    write_video(folder / "short.mp4", moving_square(3))
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not read")
    return folder


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    """A model on an untrained backbone's features, from videos without actions."""
    out = tmp_path_factory.mktemp("out")
    words = [
        f"videos={videos}",
        "backbone={name: dinov2-small, weights: random}",
        f"output_dir={out}",
        "run=lam1",
    ]
    assert main(["lam", *words, *SMALL]) == 0
    return out / "lam1"


def test_videos_become_an_encoder(trained):
    encoder = load_encoder("lapa-dinov2-small", weights=str(trained))
    frames = torch.randint(0, 256, (2, 2, 48, 64, 3), dtype=torch.uint8)
    latents = encoder.encode(frames)
    assert latents.shape == (2, 1, 1, 384)
    assert latents.isfinite().all()
    assert encoder.encode_indices(frames).max() < 4
    shelf, view = EncoderShelf("cpu", frame_px=112), EncoderView("lapa-dinov2-small", weights=str(trained))
    assert shelf.image_px(view) == 56
    assert (
        shelf.load(view).fingerprint
        == load_encoder("lapa-dinov2-small", weights=str(trained), dtype=shelf.dtype(view)).fingerprint
    )


def test_the_encoder_sees_what_the_model_was_trained_on(trained):
    encoder = load_encoder("lapa-dinov2-small", weights=str(trained))
    backbone = load_encoder("dinov2-small", weights="random", image_px=56)
    frames = torch.randint(0, 256, (1, 2, 48, 64, 3), dtype=torch.uint8)
    tokens = backbone.encode(frames)
    quantiser = encoder.model.quantiser
    expected = quantiser.vq.decode(quantiser(tokens[:, 0], tokens[:, 1]))
    torch.testing.assert_close(encoder.encode(frames)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_file_is_a_plain_state_dict_with_the_names_of_the_reference(trained):
    state = torch.load(trained / "laq.pt", weights_only=True)
    assert {
        "vq.codebooks",
        "enc_spatial_transformer.layers.0.1.to_q.weight",
        "spatial_rel_pos_bias.net.2.bias",
    } <= set(state)
    assert not any(name.startswith(("dino_tokenizer", "module.", "network.")) for name in state)


def test_what_cannot_be_used_is_counted_and_named(trained):
    result = json.loads((trained / "run.json").read_text())["result"]
    found = {one["item"]: one["reason"] for one in result["quarantined"]}
    assert set(found) == {"broken.mp4", "short.mp4"}
    assert "more than 10 frames; got 3" in found["short.mp4"]
    assert (
        result["pairs"]["held out"] == 3
    )  # one of four videos: of frames 0, 5, .. 20 three have a later one


def test_a_finished_model_is_not_trained_again(trained, videos, capfd):
    words = [
        f"videos={videos}",
        "backbone={name: dinov2-small, weights: random}",
        f"output_dir={trained.parent}",
        "run=lam2",
    ]
    before = (trained / "laq.pt").read_bytes()
    assert main(["lam", *words, *SMALL]) == 0
    assert "first frames to learn from" not in capfd.readouterr().err
    assert (trained.parent / "lam2" / "laq.pt").read_bytes() == before


def test_own_patches_predict_pixels(videos, tmp_path):
    words = [f"videos={videos}", "backbone=pixels", "width=32", f"output_dir={tmp_path}", "run=own"]
    assert main(["lam", *words, *SMALL]) == 0
    encoder = load_encoder("lapa-pixels", weights=str(tmp_path / "own"))
    assert encoder.encode(torch.zeros(1, 2, 56, 56, 3, dtype=torch.uint8)).shape == (1, 1, 1, 32)
    assert (tmp_path / "own" / "samples.png").stat().st_size > 1000


def test_a_folder_that_was_changed_or_mixed_up_is_refused(trained, tmp_path):
    def copy(**changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "laq.pt").write_bytes((trained / "laq.pt").read_bytes())
        about = read_json(trained / "config.json", sealed=True)
        write_json(folder / "config.json", {**about, **changes}, seal=True)
        return str(folder)

    for changes, words in (
        ({"backbone": "dinov2-base"}, "Name it lapa-dinov2-base"),
        ({"backbone_sha256": "0" * 64}, "on whose features"),
        ({"kind": "univla"}, "not format 1 of a model of kind laq"),
        ({"sizes": {"dim": 384}}, "spatial_depth 4.*as config.json says"),
        ({"sizes": {"dim": 1 << 21}}, "no size from 1"),
        ({"sizes": {"dim": 40000}}, "dim 40000"),
        ({"sizes": {"dim": 384, "code_seq_len": 3}}, "code_seq_len 3"),
        ({"sizes": {"dim": 384, "heads": None}}, "heads None"),
        ({"sizes": {"dim": 384, "heads": -1}}, "heads -1"),
        ({"preprocess": "lary"}, "another pipeline"),
        ({"image_px": "56"}, "no size from 1"),
        ({"auto_map": {}}, "config.json"),
    ):
        with pytest.raises(LaryPolicyError, match=words):
            load_encoder("lapa-dinov2-small", weights=copy(**changes))
    edited = copy()
    text = (tmp_path / edited / "config.json").read_text()
    (tmp_path / edited / "config.json").write_text(text.replace('"image_px": 56', '"image_px": 112'))
    with pytest.raises(LaryPolicyError, match="was written"):
        load_encoder("lapa-dinov2-small", weights=edited)
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "laq.pt").write_bytes((trained / "laq.pt").read_bytes())
    with pytest.raises(LaryPolicyError, match=r"with config\.json beside it"):
        load_encoder("lapa-dinov2-small", weights=str(lone))


@pytest.mark.parametrize(("words", "said"), [
    (["videos=/nowhere"], "at least two videos"),
    (["backbone=vjepa2-large"], "square grid"),
    (["backbone=dinov9"], "got 'dinov9'"),
    (["head=mlp-small"], "got head. Leave"),
    (["seeds=[0,1]"], "Leave them out"),
    (["encoder=pixels"], "Name the frozen encoder with backbone="),
    (["width=100"], "Leave width out"),
    (["code_seq_len=3"], "code_seq_len of 1, 2, 4, 16"),
    (["model=x"], "laq"),
    (["target=features", "backbone=pixels"], "Leave target=features out"),
    (["backbone={name: pixels, noise: 1.0}"], "noise 1.0"),
    (["backbone={name: dinov2-small, preprocess: lary}"], "preprocess lary"),
    (["tasks=[reach]"], "got videos and tasks"),
    (["demos.train=3", "data_dir=/nowhere"], "got videos and demos, data_dir"),
    (["seed=99999999999999999999"], "seeds from 0 to 2^63 - 1"),
    (["seed=-1"], "seeds from 0 to 2^63 - 1"),
    (["dim=1000000000000"], "free memory"),
    (["backbone=pixels", "patch_px=57"], "Pass a larger image_px"),
    (["backbone=pixels", "width=32", "lr=1e38", "steps=1"], "of frames that differ; got error nan"),
])  # fmt: skip
def test_wrong_settings_are_named(words, said, videos, tmp_path, capfd):
    given = [] if any(word.startswith("videos=") for word in words) else [f"videos={videos}"]
    assert (
        main(
            [
                "lam",
                f"output_dir={tmp_path}",
                *SMALL,
                "backbone={name: dinov2-small, weights: random}",
                *given,
                *words,
            ]
        )
        == 2
    )
    assert said in capfd.readouterr().err


def test_a_source_is_seen_at_the_backbones_size(tmp_path, capfd):
    words = ["source=calvin", f"data_dir={tmp_path}", "backbone=pixels", f"output_dir={tmp_path}"]
    assert main(["lam", *words, *SMALL]) == 2
    assert "Pass 'backbone={name: pixels, image_px: 56}'" in capfd.readouterr().err


def test_files_are_seen_under_the_protocol_asked_for(tmp_path, capsys):
    """Features of the reference's protocol are stored in another dtype, so elsewhere."""
    make_calvin(tmp_path / "data", train=4, val=2, chunks=2)
    words = ["source=calvin", f"data_dir={tmp_path / 'data'}", "protocol=lary", f"output_dir={tmp_path}"]
    backbone = "backbone={name: dinov2-small, weights: random, image_px: 56}"
    small = [word for word in SMALL if not word.startswith("image_px")]
    assert main(["lam", *words, backbone, "run=files", *small]) == 0
    (store,) = (tmp_path / "cache" / "latents").glob("dinov2-small-*")
    assert read_json(store / "store.json", sealed=True)["dtype"] == "float32"
    assert (tmp_path / "files" / "laq.pt").is_file()
    assert main(["lam", *words, "protocol=both", backbone, "run=both", *small]) == 2
    assert "protocol=native or lary" in capsys.readouterr().err


def test_a_flipped_byte_in_the_folder_is_found(trained, tmp_path, capsys):
    folder = tmp_path / "outputs" / "lam1"
    shutil.copytree(trained, folder)
    assert main(["data", "verify", f"output_dir={tmp_path / 'outputs'}"]) == 0
    raw = bytearray((folder / "laq.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "laq.pt").write_bytes(raw)
    assert main(["data", "verify", f"output_dir={tmp_path / 'outputs'}"]) == 1
    assert "laq.pt" in capsys.readouterr().err


def test_contents_decide_which_videos_are_held_out(videos, tmp_path):
    """Names of files do not count, and of equal files one is used."""
    for number, path in enumerate(sorted(videos.rglob("*.mp4"), reverse=True)):
        shutil.copy(path, tmp_path / f"{number}.mp4")
    shutil.copy(videos / "sub0" / "0.mp4", tmp_path / "again.mp4")
    found, aside = _videos(tmp_path, 10)
    assert found.keys() == _videos(videos, 10)[0].keys()
    assert len(found) == 4
    assert sum("videos that differ" in one.reason for one in aside) == 1
