"""Encoders of a user's own package; the worked example is the code of the README, word for word."""

import sys

import pytest
import torch
from own_encoder import NAME, page_block, write_own_package
from safetensors.torch import save_file

from lary_policy.encoders import base, weights_status
from lary_policy.encoders.base import check_installed, encoder_spec, load_encoder
from lary_policy.errors import ConfigError, FrameFormatError, UnknownNameError, WeightsMissingError


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The working directory with the example's package; registry and modules are put back afterwards."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.chdir(tmp_path)
    write_own_package(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("my_pkg", "other"):
            del sys.modules[name]


def test_the_example_is_found_in_the_working_directory(folder, noise_frames):
    path = list(sys.path)
    encoder = load_encoder(NAME, weights="random", image_px=64)
    assert sys.path == path
    latents = encoder.encode(noise_frames)
    assert latents.shape == (2, 4, 16, 192)
    assert encoder.latent.grid == (1, 4, 4)
    assert encoder.spec.name == "my-vit"
    assert torch.equal(latents, load_encoder(NAME, weights="random", image_px=64).encode(noise_frames))
    with pytest.raises(FrameFormatError, match="float32"):
        encoder.encode(noise_frames / 255)


def test_the_page_measures_the_examples_numbers_and_writes_its_weights(folder, capsys):
    assert not weights_status(NAME).available
    exec(compile(page_block("FlopCounterMode"), "own-encoder.md", "exec"), {})
    spec = encoder_spec(NAME)
    assert capsys.readouterr().out.split() == [
        f"params_m={spec.params_m}",
        f"gflops_per_frame={spec.gflops_per_frame}",
    ]
    assert weights_status(NAME).available
    assert load_encoder(NAME, image_px=64).latent.tokens == 16


def test_its_weights_are_read_from_its_folder(folder, noise_frames):
    assert not weights_status(NAME).available
    with pytest.raises(WeightsMissingError, match="checkpoints/my_vit"):
        load_encoder(NAME)
    drawn = load_encoder(NAME, weights="random", seed=3, image_px=64)
    (folder / "checkpoints" / "my_vit").mkdir(parents=True)
    save_file(drawn.model.state_dict(), folder / "checkpoints" / "my_vit" / "model.safetensors")
    encoder = load_encoder(NAME, image_px=64)
    assert torch.equal(encoder.encode(noise_frames), drawn.encode(noise_frames))
    assert weights_status(NAME).sha256 == encoder.weights.sha256


def test_edited_code_gets_another_fingerprint(folder):
    before = load_encoder(NAME, weights="random").fingerprint
    assert load_encoder(NAME, weights="random").fingerprint == before
    file = folder / "my_pkg" / "my_vit.py"
    file.write_text(file.read_text().replace("num_layers=4", "num_layers=2"))
    assert load_encoder(NAME, weights="random").fingerprint != before


def test_a_registered_spec_can_be_named_too(folder):
    spec = encoder_spec("my_pkg.my_vit:SPEC")
    assert spec == encoder_spec(NAME)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("my_pkg.my_vit:MyVit", ConfigError, r"registers nothing.*@register_encoder\(SPEC\)"),
        ("my_pkg.my_vit:MyEncodr", UnknownNameError, "Did you mean 'MyEncoder'"),
        ("my_pkg.my_vit:", ConfigError, "one colon"),
        ("my_pkg.absent:MyEncoder", ConfigError, "No module named 'my_pkg.absent'"),
        ("autos:resnet18", ConfigError, "No module named 'autos'"),
        ("lapa-dinov9:cs8", UnknownNameError, "Did you mean 'lapa-dinov3'"),
        ("broken:MyEncoder", ConfigError, "No module named 'no_such_package'"),
    ],
)
def test_wrong_names_say_what_to_do(folder, name, kind, says):
    (folder / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(kind, match=says) as caught:
        encoder_spec(name)
    assert caught.value.fix


def test_two_encoders_of_one_builder_are_named_by_their_specs(folder):
    (folder / "other.py").write_text(
        "from dataclasses import replace\n"
        "from lary_policy.encoders import FrameEncoder, register_encoder\n"
        "from lary_policy.encoders.families.pixels import PIXELS, PatchPixels, NO_WEIGHTS\n"
        "ONE, TWO = replace(PIXELS, name='one'), replace(PIXELS, name='two')\n"
        "@register_encoder(ONE, TWO)\n"
        "def build(spec, options):\n"
        "    return FrameEncoder(spec, options, PatchPixels(14), NO_WEIGHTS)\n"
    )
    with pytest.raises(ConfigError, match="registers one, two"):
        encoder_spec("other:build")
    assert load_encoder("other:TWO", image_px=28).spec.name == "two"


def test_a_name_out_of_a_file_imports_nothing_from_the_working_directory(folder, monkeypatch):
    (folder / "evil.py").write_text("raise AssertionError('imported')\n# register_encoder\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in ("evil:E", NAME):
        with pytest.raises(ConfigError, match=f"not installed.*--policy.encoder.name={name}"):
            check_installed(name)
    assert not {"evil", "my_pkg"} & set(sys.modules)


def test_a_name_out_of_a_file_imports_an_installed_encoder_and_no_other_module(folder, monkeypatch):
    with pytest.raises(ConfigError, match="registers none"):
        check_installed("turtledemo.clock:main")
    assert "turtledemo" not in sys.modules
    with pytest.raises(ConfigError, match="not installed"):
        check_installed("no_such_package.module:E")
    site = folder / "lib" / "site-packages"
    write_own_package(site)
    (site / "my_pkg" / "__init__.py").write_text("")
    (folder / "my_pkg" / "my_vit.py").unlink()
    (folder / "my_pkg").rmdir()
    monkeypatch.syspath_prepend(str(site))
    check_installed(NAME)
    assert "my_pkg" not in sys.modules
    assert encoder_spec(NAME).name == "my-vit"
