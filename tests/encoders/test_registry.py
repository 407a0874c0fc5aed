"""Properties that every registered encoder must have; a new encoder gets them without a line here."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lary_policy.encoders import (
    FrameEncoder,
    LatentEncoder,
    base,
    encoder_spec,
    list_encoders,
    load_encoder,
    register_encoder,
    weights_status,
)
from lary_policy.encoders.pixels import PIXELS, PatchPixels
from lary_policy.encoders.weights import NO_WEIGHTS
from lary_policy.errors import ConfigError, FrameFormatError, LaryPolicyError, ShapeError, UnknownNameError

# Larger ones are checked without running them, on the meta device.
RUNNABLE = [name for name in list_encoders() if encoder_spec(name).params_m < 50]

every_encoder = pytest.mark.parametrize("name", list_encoders())
every_runnable_encoder = pytest.mark.parametrize("name", RUNNABLE)


@pytest.fixture
def encoder(name, random_encoder):
    return random_encoder(name)


def test_the_first_encoders_are_there():
    assert {"pixels", "efficientnet-lite0", "dinov2-small", "dinov2-base", "dinov2-large"} <= set(
        list_encoders()
    )


@every_encoder
def test_spec_agrees_with_the_model_at_its_published_size(name):
    spec = encoder_spec(name)
    with torch.device("meta"):
        encoder = load_encoder(name, weights="random", device="meta")
        frames = torch.zeros(1, 2, 32, 48, 3, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        latents = encoder.encode(frames)
    assert latents.shape == (1, 2, spec.latent.tokens, spec.latent.width)
    assert encoder.latent == spec.latent == spec.latent_at(spec.image_px)
    assert counter.get_total_flops() / 2e9 == pytest.approx(spec.gflops_per_frame, rel=2e-3)
    params = sum(p.numel() for p in encoder.model.parameters())
    assert params / 1e6 == pytest.approx(spec.params_m, abs=0.005)


@every_encoder
def test_status_says_where_weights_are_or_how_to_get_them(name):
    status = weights_status(name)
    assert status.source
    assert status.available == (status.fix == "")
    assert status.sha256 is None or len(status.sha256) == 64


@every_runnable_encoder
def test_output_matches_the_latent_spec_for_any_frame_size(name, encoder, noise_frames):
    assert isinstance(encoder, LatentEncoder)
    for frames in (noise_frames, noise_frames[:, :, :7, ::9]):
        latents = encoder.encode(frames)
        assert latents.shape == (2, 3, encoder.latent.tokens, encoder.latent.width)
        assert latents.dtype == torch.float32
        assert not latents.requires_grad
        assert not latents.is_inference()


@every_runnable_encoder
def test_deterministic_within_and_across_builds(name, encoder, noise_frames):
    state = torch.get_rng_state()
    again = load_encoder(name, weights="random", image_px=4 * encoder.spec.size_multiple)
    assert torch.equal(torch.get_rng_state(), state)
    first = encoder.encode(noise_frames)
    assert torch.equal(first, encoder.encode(noise_frames))
    assert torch.equal(first, again.encode(noise_frames))
    assert again.fingerprint == encoder.fingerprint


@every_runnable_encoder
def test_a_batch_equals_its_frames_one_by_one(name, encoder, noise_frames):
    frames = noise_frames.flatten(0, 1)[:, None]
    singles = torch.cat([encoder.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(encoder.encode(frames), singles, rtol=1e-4, atol=1e-4)


@every_runnable_encoder
def test_frame_order_and_layout_do_not_mix(name, encoder, noise_frames):
    if encoder.latent.kind != "frame":
        pytest.skip("only frame encoders treat frames alone")
    latents = encoder.encode(noise_frames)
    torch.testing.assert_close(
        encoder.encode(noise_frames[:, [2, 0, 1]]), latents[:, [2, 0, 1]], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        encoder.encode(noise_frames.transpose(0, 1)), latents.transpose(0, 1), rtol=1e-4, atol=1e-4
    )


@every_runnable_encoder
def test_black_white_and_noise_are_finite_and_told_apart(name, encoder, noise_frames):
    black, white = torch.zeros_like(noise_frames), torch.full_like(noise_frames, 255)
    latents = [encoder.encode(frames) for frames in (black, white, noise_frames)]
    assert all(torch.isfinite(latent).all() for latent in latents)
    assert not torch.allclose(latents[0], latents[1], atol=1e-2)
    assert not torch.allclose(latents[0], latents[2], atol=1e-2)


@every_runnable_encoder
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda f: f.float() / 255, "float32"),
        (lambda f: f.movedim(-1, 2), r"\[2, 3, 3, 40, 50\]"),
        (lambda f: f[..., :1], r"\[2, 3, 40, 50, 1\]"),
        (lambda f: torch.cat([f, f[..., :1]], dim=-1), "drop alpha"),
        (lambda f: f[0], r"\[3, 40, 50, 3\]"),
        (lambda f: f[:, :, :0], "Leave empty"),
        (lambda f: f[:0], "Leave empty"),
        (lambda f: f.numpy(), "ndarray"),
    ],
    ids=["float", "channels-first", "grey", "rgba", "no-time", "empty-image", "empty-batch", "numpy"],
)
def test_wrong_frames_are_a_named_error(name, encoder, noise_frames, bad, says):
    with pytest.raises(FrameFormatError, match=says):
        encoder.encode(bad(noise_frames))


@every_runnable_encoder
def test_lower_precision_is_close(name, encoder, noise_frames):
    low = load_encoder(
        name, weights="random", image_px=4 * encoder.spec.size_multiple, dtype="bfloat16"
    ).encode(noise_frames)
    assert low.dtype == torch.bfloat16
    similarity = torch.cosine_similarity(low.float().flatten(), encoder.encode(noise_frames).flatten(), dim=0)
    assert similarity > 0.99


@pytest.mark.gpu
@every_runnable_encoder
def test_cuda_agrees_with_cpu(name, encoder, noise_frames):
    cuda = load_encoder(name, weights="random", image_px=4 * encoder.spec.size_multiple, device="cuda")
    latents = cuda.encode(noise_frames)
    assert latents.device.type == "cuda"
    torch.testing.assert_close(latents.cpu(), encoder.encode(noise_frames), rtol=1e-2, atol=2e-2)


@every_runnable_encoder
def test_fingerprint_follows_everything_that_changes_latents(name, encoder):
    size = encoder.spec.size_multiple
    variants = [{}, {"image_px": 2 * size}, {"dtype": "bfloat16"}, {"seed": 1}]
    variants += [{"preprocess": other} for other in encoder.spec.preprocess if other != "native"]
    if encoder.spec.params_m == 0:
        variants.remove({"seed": 1})
    options = [{"image_px": 4 * size, "weights": "random", **variant} for variant in variants]
    prints = [load_encoder(name, **option).fingerprint for option in options]
    assert prints[0] == encoder.fingerprint
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'dinov2-small'.*efficientnet-lite0.*pixels"):
        load_encoder("dinov2-smal")
    with pytest.raises(UnknownNameError, match="bfloat16, float16, float32"):
        load_encoder("pixels", dtype="float64")
    with pytest.raises(UnknownNameError, match="pixels"):
        weights_status("resnet")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dinov2-small", {"image_px": 100}, "multiple of 14; got 100. Use image_px=98"),
        ("pixels", {"image_px": 0}, "Use image_px=14"),
        ("efficientnet-lite0", {"image_px": -16}, "positive multiple of 16"),
        ("pixels", {"preprocess": "lary"}, "preprocess=native"),
        ("efficientnet-lite0", {"preprocess": "lary"}, "preprocess=native"),
        ("dinov2-small", {"preprocess": "imagenet"}, "native, lary"),
        ("pixels", {"device": "toaster"}, "device=cpu"),
        ("pixels", {"weights": "some/file.pth"}, "weights=auto"),
    ],
)
def test_impossible_options_are_config_errors(name, options, says):
    with pytest.raises(ConfigError, match=says):
        load_encoder(name, **{"weights": "auto" if name == "pixels" else "random", **options})


def test_an_own_encoder_is_one_decorated_builder(monkeypatch, noise_frames):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    spec = replace(PIXELS, name="my-pixels")

    @register_encoder(spec)
    def build(spec, options):
        return FrameEncoder(spec, options, PatchPixels(spec.patch_px), NO_WEIGHTS)

    assert "my-pixels" in list_encoders()
    mine, theirs = (load_encoder(name, image_px=28) for name in ("my-pixels", "pixels"))
    assert torch.equal(mine.encode(noise_frames), theirs.encode(noise_frames))
    assert mine.fingerprint != theirs.fingerprint
    with pytest.raises(ConfigError, match="my-pixels"):
        register_encoder(spec)(build)


def test_a_module_that_contradicts_its_spec_is_caught(noise_frames):
    options = base.EncoderOptions("random", 28, "native", torch.float32, torch.device("cpu"), 0)
    wrong = FrameEncoder(PIXELS, options, PatchPixels(7), NO_WEIGHTS)
    with pytest.raises(ShapeError, match=r"4 588.*\[6, 16, 147\]"):
        wrong.encode(noise_frames)


def test_every_error_says_what_to_do():
    with pytest.raises(LaryPolicyError) as caught:
        load_encoder("dinov2-small", image_px=15)
    assert caught.value.expected
    assert caught.value.got == "15"
    assert caught.value.fix
