"""Properties that every registered encoder must have; a new encoder gets them without a line here."""

import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lary_policy.cli.compose import compose
from lary_policy.encoders import base, families, weights_status
from lary_policy.encoders.base import (
    LatentEncoder,
    encoder_spec,
    list_encoders,
    load_encoder,
    register_encoder,
)
from lary_policy.encoders.families.pixels import PIXELS, PatchPixels
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import find_blocks
from lary_policy.encoders.view import EncoderView
from lary_policy.encoders.weights.resolve import NO_WEIGHTS
from lary_policy.errors import ConfigError, FrameFormatError, LaryPolicyError, ShapeError, UnknownNameError
from lary_policy.paths import import_modules

every_encoder = pytest.mark.parametrize("name", list_encoders())
EVERY_OUTPUT = [(name, output) for name in list_encoders() for output in encoder_spec(name).outputs]

# What the benchmark's users select, by the name of the same model there.
REFERENCE_KEYS = {
    "dinov2": "lapa-dinov2",
    "dinov2-origin": "dinov2-large",
    "dinov3": "lapa-dinov3",
    "dinov3-origin": "dinov3-large",
    "flux2": "flux2-vae",
    "lapa": "lapa",
    "magvit2": "lapa-magvit2",
    "siglip2": "lapa-siglip2",
    "siglip2-origin": "siglip2-base",
    "univla": "univla",
    "villa-x": "villa-x",
    "vjepa2": "vjepa2-large",
    "wan2-2": "wan2.2-vae",
}

# LAPA normalises the pixels of every patch by itself: even grey of any brightness is the same to it.
BLIND_TO_EVEN_BRIGHTNESS = {"lapa"}


@pytest.fixture
def encoder(name, tiny_encoder):
    return tiny_encoder(name)


def steps(encoder: LatentEncoder, t: int) -> range:
    """Return how many latent steps t frames may give."""
    return {"frame": range(t, t + 1), "pair": range(t - 1, t), "clip": range(1, t + 1)}[encoder.latent.kind]


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest difference relative to the larger norm's root mean square."""
    scale = max(float(x.double().square().mean().sqrt()) for x in (first, second))
    return float((first.double() - second.double()).abs().max()) / max(scale, 1e-12)


def test_everything_the_reference_runs_is_there():
    specs = [encoder_spec(name) for name in list_encoders()]
    names = {spec.reference_key: spec.name for spec in specs if spec.reference_key}
    assert names == REFERENCE_KEYS


@pytest.mark.parametrize("name", REFERENCE_KEYS.values())
def test_the_references_input_pipeline_runs_and_repeats(name, tiny_px, noise_frames):
    one, two = (
        load_encoder(name, preprocess="lary", weights="tiny-random", image_px=tiny_px(name)) for _ in range(2)
    )
    latents = one.encode(noise_frames)
    assert torch.isfinite(latents).all()
    assert torch.equal(latents, two.encode(noise_frames))
    assert latents.shape[2:] == (one.latent.tokens, one.latent.width)


@every_encoder
def test_every_encoder_can_be_chosen_at_the_command_line(name):
    typed = compose("probe", [f"encoder={name}", "encoder.weights=random"])
    assert [EncoderView.of(view) for view in typed["encoders"]] == [EncoderView(name, weights="random")]


@every_encoder
def test_spec_agrees_with_the_model_at_its_published_size(name):
    spec = encoder_spec(name)
    with torch.device("meta"):
        encoder = load_encoder(name, weights="random", device="meta")
        frames = torch.zeros(1, 2, 32, 48, 3, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        latents = encoder.encode(frames)
    assert latents.shape[1] in steps(encoder, 2)
    assert latents.shape[2:] == (spec.latent.tokens, spec.latent.width)
    assert encoder.latent == spec.latent == spec.latent_at(spec.image_px)
    assert counter.get_total_flops() / 2e9 == pytest.approx(spec.gflops_per_frame, rel=2e-3)
    params = sum(p.numel() for p in encoder.model.parameters())
    assert params / 1e6 == pytest.approx(spec.params_m, abs=0.005)
    if spec.depth is not None:
        assert spec.depth == len(getattr(*find_blocks(encoder.model)))


@every_encoder
def test_status_says_where_weights_are_or_how_to_get_them(name):
    status = weights_status(name)
    assert status.source
    assert status.available == (status.fix == "")
    assert status.sha256 is None or len(status.sha256) == 64


@every_encoder
def test_output_matches_the_latent_spec_for_any_frame_size(name, encoder, noise_frames):
    assert isinstance(encoder, LatentEncoder)
    for frames in (noise_frames, noise_frames[:, :, :7, ::9]):
        latents = encoder.encode(frames)
        assert latents.shape[0] == 2
        assert latents.shape[1] in steps(encoder, 4)
        assert latents.shape[2:] == (encoder.latent.tokens, encoder.latent.width)
        assert latents.dtype == torch.float32
        assert not latents.requires_grad
        assert not latents.is_inference()


@pytest.mark.parametrize(("name", "output"), EVERY_OUTPUT)
def test_deterministic_within_and_across_builds(name, output, noise_frames, tiny_px):
    state = torch.get_rng_state()
    one, two = (
        load_encoder(name, weights="tiny-random", image_px=tiny_px(name), output=output) for _ in range(2)
    )
    latents = one.encode(noise_frames)
    assert torch.equal(latents, one.encode(noise_frames))
    assert torch.equal(latents, two.encode(noise_frames))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.fingerprint == two.fingerprint
    assert one.latent == replace(two.latent, quantised=output == "quantised")
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize(("name", "output"), EVERY_OUTPUT)
def test_a_batch_of_seven_equals_seven_singles(name, output, noise_frames, tiny_px):
    encoder = load_encoder(name, weights="tiny-random", image_px=tiny_px(name), output=output)
    frames = noise_frames[:, :2]
    clips = torch.cat([frames, frames.flip(1), 255 - frames, frames[:1] // 2])
    singles = torch.cat([encoder.encode(clip[None]) for clip in clips])
    assert difference(encoder.encode(clips), singles) < 1e-4


@every_encoder
def test_frame_order_and_layout_do_not_mix(name, encoder, noise_frames):
    if encoder.latent.kind != "frame":
        pytest.skip("only frame encoders treat frames alone")
    latents, order = encoder.encode(noise_frames), [2, 0, 3, 1]
    assert difference(encoder.encode(noise_frames[:, order]), latents[:, order]) < 1e-4
    assert difference(encoder.encode(noise_frames.transpose(0, 1)), latents.transpose(0, 1)) < 1e-4


@every_encoder
def test_black_white_and_noise_are_finite_and_told_apart(name, encoder, noise_frames):
    black, white = torch.zeros_like(noise_frames), torch.full_like(noise_frames, 255)
    # Where latents are of changes, stills may look alike: what is compared then is a change between them.
    blink = torch.stack([black[:, 0], white[:, 0]], dim=1).repeat(1, 2, 1, 1, 1)
    latents = [encoder.encode(frames) for frames in (black, white, noise_frames, blink)]
    assert all(torch.isfinite(latent).all() for latent in latents)
    assert difference(latents[0], latents[2]) > 1e-2
    told_apart = max(difference(latents[0], latents[1]), difference(latents[0], latents[3])) > 1e-2
    assert told_apart or name in BLIND_TO_EVEN_BRIGHTNESS


@every_encoder
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda f: f.float() / 255, "float32"),
        (lambda f: f.movedim(-1, 2), r"\[2, 4, 3, 40, 50\]"),
        (lambda f: f[..., :1], r"\[2, 4, 40, 50, 1\]"),
        (lambda f: torch.cat([f, f[..., :1]], dim=-1), "drop alpha"),
        (lambda f: f[0], r"\[4, 40, 50, 3\]"),
        (lambda f: f[:, :, :0], "Leave empty"),
        (lambda f: f[:0], "Leave empty"),
        (lambda f: f.numpy(), "ndarray"),
        (lambda f: f.short() + 200, "int16"),
    ],
    ids=[
        "float",
        "channels-first",
        "grey",
        "rgba",
        "no-time",
        "empty-image",
        "empty-batch",
        "numpy",
        "range",
    ],
)
def test_wrong_frames_are_a_named_error(name, encoder, noise_frames, bad, says):
    with pytest.raises(FrameFormatError, match=says):
        encoder.encode(bad(noise_frames))


@every_encoder
def test_one_frame_is_enough_or_a_named_error(name, encoder, noise_frames):
    frames = noise_frames[:, :1]
    if encoder.latent.kind == "frame":
        assert encoder.encode(frames).shape[1] == 1
    elif encoder.latent.kind == "pair":
        with pytest.raises(FrameFormatError, match="at least two frames"):
            encoder.encode(frames)


@every_encoder
def test_lower_precision_is_close(name, encoder, noise_frames, tiny_px):
    low = load_encoder(name, weights="tiny-random", image_px=tiny_px(name), dtype="bfloat16").encode(
        noise_frames
    )
    assert low.dtype == torch.bfloat16
    similarity = torch.cosine_similarity(low.float().flatten(), encoder.encode(noise_frames).flatten(), dim=0)
    assert similarity > 0.99


@pytest.mark.gpu
@every_encoder
def test_cuda_agrees_with_cpu(name, encoder, noise_frames, tiny_px):
    cuda = load_encoder(name, weights="tiny-random", image_px=tiny_px(name), device="cuda")
    latents = cuda.encode(noise_frames)
    assert latents.device.type == "cuda"
    # TF32 convolutions keep 10 bits of the mantissa.
    torch.testing.assert_close(latents.cpu(), encoder.encode(noise_frames), rtol=1e-2, atol=2e-2)


@every_encoder
def test_fingerprint_follows_everything_that_changes_latents(name, encoder, tiny_px):
    spec, size = encoder.spec, tiny_px(name)
    variants = [{}, {"dtype": "bfloat16"}, {"seed": 1}]
    variants += [{"image_px": 2 * spec.size_multiple}] if spec.patch_px else []
    variants += [{"preprocess": other} for other in spec.preprocess if other != "native"]
    variants += [{"output": output} for output in spec.outputs[1:]]
    variants += [{"output": output, "seed": 1} for output in spec.noisy_outputs]
    if spec.params_m == 0:
        variants.remove({"seed": 1})
    options = [{"image_px": size, "weights": "tiny-random", **variant} for variant in variants]
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
        ("dinov2-small", {"output": "quantised"}, "an output of 'dinov2-small': auto, continuous"),
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


def test_a_new_file_in_families_registers_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    (tmp_path / "dropped_in.py").write_text(
        "from dataclasses import replace\n"
        "from lary_policy.encoders import register_encoder\n"
        "from lary_policy.encoders.families.pixels import PIXELS, build_pixels\n"
        "@register_encoder(replace(PIXELS, name='dropped-in'))\n"
        "def build(spec, options):\n"
        "    return build_pixels(spec, options)\n"
    )
    import_modules(families.__name__)
    monkeypatch.delitem(sys.modules, f"{families.__name__}.dropped_in")
    assert "dropped-in" in list_encoders()
    assert load_encoder("dropped-in", image_px=28).latent == load_encoder("pixels", image_px=28).latent


@every_encoder
def test_tokens_of_an_inner_block_are_those_that_pass_by_it(name, tiny_px, noise_frames):
    spec = encoder_spec(name)
    if spec.depth is None:
        with pytest.raises(ConfigError, match="no blocks to choose from"):
            load_encoder(name, layer=1)
        return
    whole, last, inner = (
        load_encoder(name, weights="tiny-random", image_px=tiny_px(name), layer=layer)
        for layer in (None, 2, 1)
    )
    parent, blocks = find_blocks(whole.model)
    passed = []
    with getattr(parent, blocks)[0].register_forward_hook(lambda *a: passed.append(a[2])):
        latents = whole.encode(noise_frames)
    assert torch.equal(last.encode(noise_frames), latents)
    norm = next(m for n, m in whole.model.named_modules() if n.endswith(("norm", "layernorm")) and "." in n)
    tokens = norm(passed[0][0] if isinstance(passed[0], tuple) else passed[0])
    found = inner.encode(noise_frames)
    expected = tokens.unflatten(0, (2, -1)) if spec.latent.kind == "frame" else tokens.unflatten(1, (2, -1))
    assert difference(found, expected[:, :, -found.shape[2] :]) < 1e-5
    assert len({whole.fingerprint, last.fingerprint, inner.fingerprint}) == 3
    with pytest.raises(ConfigError, match="layer from 1 to 2"):
        load_encoder(name, weights="tiny-random", image_px=tiny_px(name), layer=3)
    for wrong in (0, spec.depth + 1):
        with pytest.raises(ConfigError, match=f"from 1 to {spec.depth}"):
            load_encoder(name, weights="random", layer=wrong)


def test_a_module_that_contradicts_its_spec_is_caught(noise_frames):
    options = base.EncoderOptions("random", 28, "native", torch.float32, torch.device("cpu"), 0)
    wrong = FrameEncoder(PIXELS, options, PatchPixels(7), NO_WEIGHTS)
    with pytest.raises(ShapeError, match=r"4 588.*\[8, 16, 147\]"):
        wrong.encode(noise_frames)


def test_every_error_says_what_to_do():
    with pytest.raises(LaryPolicyError) as caught:
        load_encoder("dinov2-small", image_px=15)
    assert caught.value.expected
    assert caught.value.got == "15"
    assert caught.value.fix
