"""The autoencoders of Wan 2.2 and FLUX.2, native and as the reference feeds them (its defects D1 and D2).

Goldens, with weights from `golden_weights.fill`:
- wan_vae: `WanVAE_(dim=16, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=
  [False, True, True])` of LARYBench's get_latent_action/models/wan2_2/wan/modules/vae2_2.py, with the scale
  of its `Wan2_2_VAE`, on RandomState(0).uniform(-1, 1, (1, 3, 9, 32, 32)), all nine frames and the first two;
  tokens laid out as lary/extract.py does.
- flux2_vae: `AutoEncoder(AutoEncoderParams(ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1))` of
  get_latent_action/models/flux2/src/flux2/autoencoder.py on RandomState(1).randint(0, 256, (1, 2, 32, 48,
  3)): `latents` of the frames as [-1, 1] channel-first images; `lary_pair` and `lary_clip` through the
  reshapes of lary/extract.py and flux2/sampling.py with the input ranges of its image and video mode.
"""

import functools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, AutoencoderKLWan
from golden_weights import golden, golden_state
from PIL import Image
from safetensors.torch import save_file

from lary_policy.encoders.base import EncoderOptions, encoder_spec, load_encoder
from lary_policy.encoders.families import flux2_vae, wan_vae
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.preprocess import prepare_frames
from lary_policy.errors import WeightsMismatchError

CPU = torch.device("cpu")
WAN_SIZES = {"base_dim": 16, "num_res_blocks": 1}
FLUX2_SIZES = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
FAMILIES = {"wan2.2-vae": (wan_vae, WAN_SIZES), "flux2-vae": (flux2_vae, FLUX2_SIZES)}
both = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def tiny(name: str, preprocess: str = "native"):
    return load_encoder(name, weights="tiny-random", image_px=32, preprocess=preprocess)


def part_of(family, part: str):
    """Return a function of a family by what it does; its name says of which family it is."""
    word = family.__name__.rpartition(".")[2].removesuffix("_vae")
    return getattr(family, {"names": f"to_{word}_names"}.get(part, f"{word}_{part}"))


@functools.cache
def golden_wan() -> wan_vae.WanLatents:
    vae = wan_vae.wan_encoder_half(**WAN_SIZES)
    vae.load_state_dict(wan_vae.to_wan_names(golden_state("wan_vae")))
    return wan_vae.WanLatents(vae).eval().requires_grad_(False)


@functools.cache
def golden_flux2(wrapper: type = flux2_vae.Flux2Latents):
    vae = flux2_vae.flux2_encoder_half(**FLUX2_SIZES)
    vae.load_state_dict(flux2_vae.to_flux2_names(golden_state("flux2_vae")))
    return wrapper(vae).eval().requires_grad_(False)


@both
def test_parameters_are_those_that_the_paper_counts(name):
    family, _ = FAMILIES[name]
    with torch.device("meta"):
        kinds = {"wan2.2-vae": AutoencoderKLWan, "flux2-vae": AutoencoderKLFlux2}
        whole = kinds[name](**getattr(family, "SIZES", {}))
        half = part_of(family, "encoder_half")()
    millions = [round(sum(p.numel() for p in model.parameters()) / 1e6, 2) for model in (whole, half)]
    assert millions == [{"wan2.2-vae": 704.69, "flux2-vae": 84.05}[name], encoder_spec(name).params_m]
    for key, value in half.state_dict().items():
        assert whole.state_dict()[key].shape == value.shape


@pytest.mark.parametrize("preprocess", ["native", "lary"])
@pytest.mark.parametrize(("t", "steps"), [(1, 1), (2, 2), (5, 2), (6, 3), (9, 3)])
def test_token_shapes_of_wan(t, steps, preprocess):
    with torch.device("meta"):
        encoder = load_encoder("wan2.2-vae", weights="tiny-random", preprocess=preprocess, device="meta")
        latents = encoder.encode(torch.zeros(1, t, 32, 40, 3, dtype=torch.uint8))
    assert latents.shape == (1, 1 + (t - 1) // 4 if preprocess == "lary" else steps, 196, 48)


def test_standardised_latents_equal_the_reference():
    tensors = golden("wan_vae")
    for t in (9, 2):
        tokens = golden_wan()(tensors["clips"][:, :t])
        torch.testing.assert_close(tokens[0], tensors[f"tokens_{t}"], rtol=1e-5, atol=1e-5)


def test_constants_standardise_every_channel():
    assert len(wan_vae.LATENT_MEAN) == len(wan_vae.LATENT_STD) == 48
    assert min(wan_vae.LATENT_STD) > 0


@pytest.mark.parametrize("t", [2, 3, 6])
def test_d1_the_last_frame_counts_in_native(t, noise_frames):
    clip = noise_frames.flatten(0, 1)[None, :t]
    other = clip.clone()
    other[:, -1] = 255 - other[:, -1]
    latents, changed = (tiny("wan2.2-vae").encode(frames) for frames in (clip, other))
    assert torch.equal(latents[:, :-1], changed[:, :-1])
    assert (latents[:, -1] - changed[:, -1]).abs().max() > 1e-2


def test_d1_lary_sees_the_first_frame_of_a_pair_alone(noise_frames):
    encoder = tiny("wan2.2-vae", "lary")
    other = noise_frames.clone()
    other[:, 1] = 0
    latents = encoder.encode(noise_frames[:, :2])
    assert latents.shape == (2, 1, 4, 48)
    assert torch.equal(latents, encoder.encode(other[:, :2]))
    assert torch.equal(latents, encoder.encode(noise_frames[:, :1]))


def test_both_pipelines_of_wan_have_fingerprints_of_their_own():
    assert tiny("wan2.2-vae").fingerprint != tiny("wan2.2-vae", "lary").fingerprint


@both
def test_frames_are_resized_as_pillow_does(name, photo):
    image = photo(60, 90)
    resized = np.asarray(Image.fromarray(image.numpy()).resize((32, 32), Image.Resampling.LANCZOS))
    spec = encoder_spec(name)
    native = prepare_frames(image[None, None], 32, spec.preprocess["native"], device=CPU, dtype=torch.float32)
    expected = torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(native[0], expected, rtol=0, atol=2.01 / 255)
    assert (native[0] - expected).abs().mean() < 1e-3


def test_latents_equal_the_reference_on_images_in_the_right_layout():
    tensors = golden("flux2_vae")
    images = tensors["frames"][0].permute(0, 3, 1, 2) / 127.5 - 1
    tokens = golden_flux2()(images)
    torch.testing.assert_close(tokens, tensors["latents"].flatten(2).mT, rtol=1e-5, atol=2e-5)


def lary_flux2() -> FrameEncoder:
    options = EncoderOptions("random", 32, "lary", torch.float32, CPU, 0)
    weights = tiny("flux2-vae").weights
    return FrameEncoder(flux2_vae.FLUX2, options, golden_flux2(flux2_vae.ScrambledFlux2Latents), weights)


def test_d2_lary_scrambles_pairs_as_the_reference_does():
    tensors = golden("flux2_vae")
    scrambled = golden_flux2(flux2_vae.ScrambledFlux2Latents)
    pair = 2.0 * tensors["frames"][0].permute(0, 3, 1, 2) - 1
    assert pair.max() == 509
    torch.testing.assert_close(scrambled(pair), tensors["lary_pair"][0], rtol=1e-5, atol=2e-5)
    clip = tensors["frames"][0].permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(scrambled(clip), tensors["lary_clip"][0], rtol=1e-5, atol=2e-5)


def test_d2_lary_reads_two_frames_as_images_and_more_as_a_video(noise_frames):
    frames = noise_frames[:, :3, :32, :32]
    encoder = lary_flux2()
    scrambled = golden_flux2(flux2_vae.ScrambledFlux2Latents)
    flat = frames.flatten(0, 1).permute(0, 3, 1, 2)
    expected = {2: scrambled(flat * 2.0 - 1).unflatten(0, (2, 3))[:, :2]}
    expected[3] = scrambled(flat / 127.5 - 1).unflatten(0, (2, 3))
    for t, latents in expected.items():
        torch.testing.assert_close(encoder.encode(frames[:, :t]), latents, rtol=1e-4, atol=1e-4)


def test_d2_native_has_neither_fault(noise_frames):
    frames = noise_frames[:, :2, :32, :32]
    native, lary = (tiny("flux2-vae", name).encode(frames) for name in ("native", "lary"))
    assert native.shape == lary.shape == (2, 2, 4, 128)
    assert not torch.allclose(native, lary, atol=0.1)
    images = frames.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1
    expected = tiny("flux2-vae").model.grid(images).flatten(2).mT.unflatten(0, (2, 2))
    torch.testing.assert_close(native, expected, rtol=1e-5, atol=1e-5)


@both
def test_files_of_both_publishers_give_the_same_latents(name, tmp_path, monkeypatch, noise_frames):
    family, sizes = FAMILIES[name]
    half = part_of(family, "encoder_half")
    monkeypatch.setattr(family, half.__name__, functools.partial(half, **sizes))
    upstream = golden_state(family.__name__.rpartition(".")[2])
    torch.save(upstream, tmp_path / "upstream.pth")
    renamed = {key: value.contiguous() for key, value in part_of(family, "names")(upstream).items()}
    save_file({**renamed, "decoder.conv_in.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    first, second = (
        load_encoder(name, weights=str(path), image_px=32).encode(noise_frames[:, :2])
        for path in (tmp_path / "upstream.pth", tmp_path)
    )
    assert torch.equal(first, second)


@both
def test_a_checkpoint_of_another_size_is_named(name, tmp_path, monkeypatch):
    family, sizes = FAMILIES[name]
    state = {
        key: value[..., :1].contiguous()
        for key, value in part_of(family, "encoder_half")(**sizes).state_dict().items()
        if value.ndim
    }
    save_file(state, tmp_path / "model.safetensors")
    half = part_of(family, "encoder_half")
    monkeypatch.setattr(family, half.__name__, functools.partial(half, **sizes))
    with pytest.raises(WeightsMismatchError, match=r"encoder\.conv_in\.weight is .* model"):
        load_encoder(name, weights=str(tmp_path))


def test_the_gated_repository_names_its_page_and_the_login():
    hub = flux2_vae.FLUX2.weights.hub
    assert hub.gated
    assert hub.page() == "https://huggingface.co/black-forest-labs/FLUX.2-dev"
    assert "hf auth login" in hub.command()


def test_sizes_on_paper_leave_nothing_behind_for_real_frames():
    frames = torch.full((1, 1, 44, 44, 3), 128, dtype=torch.uint8)
    with torch.device("meta"):
        on_paper = load_encoder("flux2-vae", weights="tiny-random", image_px=32, device="meta")
        on_paper.encode(frames.to("meta"))
    assert torch.isfinite(tiny("flux2-vae").encode(frames)).all()
