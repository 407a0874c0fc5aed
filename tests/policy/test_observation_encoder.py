"""Encoders as modules of a policy: the same latents, in every shape a policy wants, from LeRobot's images."""

import copy

import numpy as np
import pytest
import torch

from lary_policy.encoders.base import encoder_spec, list_encoders, load_encoder
from lary_policy.errors import ConfigError, FrameFormatError, UnknownNameError
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.encoder.images import to_frames
from lary_policy.policy.encoder.observation import ObservationEncoder

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8)


def tiny(name: str = "dinov2-small", **changes) -> ObservationEncoder:
    """Return a toy encoder: 4 x 4 patches, or 6 x 6 where convolutions shrink the grid further."""
    spec = encoder_spec(name)
    px = (4 if spec.patch_px else 6) * spec.size_multiple
    return ObservationEncoder(
        EncoderConfig(**{"name": name, "weights": "tiny-random", "image_px": px, **changes})
    )


def camera(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return what a camera gives: uint8 [... 3 h w]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def reference(encoder: ObservationEncoder, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the encoder of the same configuration makes of uint8 [b t 3 h w]."""
    config = encoder.config
    loaded = load_encoder(config.name, weights=config.weights, image_px=config.image_px)
    return loaded.encode(pixels.movedim(2, -1))


@pytest.fixture(scope="module")
def dino() -> ObservationEncoder:
    return tiny()


@pytest.fixture(scope="module")
def pairs() -> ObservationEncoder:
    return tiny("univla")


@pytest.mark.parametrize("name", list_encoders())
def test_every_encoder_gives_its_own_latents_bit_for_bit(name):
    encoder = tiny(name)
    pixels = camera(2, 2, 3, 40, 50)
    tokens = encoder(pixels / 255)
    assert torch.equal(tokens, reference(encoder, pixels).float())
    assert tokens.dtype == torch.float32
    assert not tokens.requires_grad
    assert tokens.shape[2:] == (encoder.latent.tokens, encoder.embed_dim)
    assert encoder.pooled(pixels / 255).shape == (2, encoder.out_channels)
    assert (encoder.kind, encoder.spec.name) == (encoder.latent.kind, name)
    if encoder.latent.grid is None:
        with pytest.raises(ConfigError, match="grid"):
            encoder.feature_map(pixels / 255)
    else:
        images = pixels[:, 0] / 255 if encoder.kind == "frame" else pixels / 255
        assert encoder.feature_map(images).shape == (2, encoder.out_channels, *encoder.grid_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_frames_born_uint8_come_back_exactly(dtype):
    levels = EVERY_LEVEL.view(1, 1, 16, 16).expand(1, 3, 16, 16)
    # LeRobot divides in float32; casts of that to 16 bits still tell all levels apart.
    frames = to_frames((levels / 255).to(dtype))
    assert frames.dtype == torch.uint8
    assert torch.equal(frames, levels[:, None].movedim(2, -1))


def test_still_images_are_clips_of_one_frame(dino):
    pixels = camera(3, 3, 30, 40)
    assert torch.equal(dino(pixels / 255), dino(pixels[:, None] / 255))


def test_tokens_of_the_map_lie_where_the_image_has_them(dino):
    images = torch.full((1, 3, 56, 56), 0.5)
    images[..., :14, 42:] = 1.0  # the patch of row 0, column 3
    changed = (dino.feature_map(images) - dino.feature_map(torch.full((1, 3, 56, 56), 0.5))).norm(dim=1)[0]
    assert divmod(int(changed.argmax()), 4) == (0, 3)
    tokens = dino(images)
    assert torch.equal(dino.feature_map(images).flatten(2).mT, tokens[:, 0])
    torch.testing.assert_close(dino.pooled(images), tokens.mean((1, 2)))


def test_a_map_of_a_clip_is_its_last_step():
    encoder = tiny("vjepa2-large")
    images = camera(1, 4, 3, 32, 32) / 255
    tokens = encoder(images)
    assert tokens.shape[1] == 2
    assert torch.equal(encoder.feature_map(images).flatten(2).mT, tokens[:, 1])
    assert torch.equal(encoder.pooled(images), tokens.flatten(1, 2).mean(1))


def test_a_deep_copy_is_a_module_of_its_own(dino):
    twin = copy.deepcopy(dino)
    images = camera(1, 3, 20, 20) / 255
    before = dino(images)
    assert torch.equal(twin(images), before)
    with torch.no_grad():
        for parameter in twin.backbone.parameters():
            parameter.zero_()
    assert not torch.equal(twin(images), before)
    assert torch.equal(dino(images), before)
    assert twin.encoder.model is twin.backbone


def test_it_follows_the_module_to_another_device():
    for name in ("dinov2-small", "univla", "vjepa2-large", "pixels"):
        encoder = tiny(name).to("meta")
        frames = torch.zeros(1, 2, 56, 56, 3, dtype=torch.uint8, device="meta")
        assert encoder.device_mark.is_meta
        if name != "pixels":  # it has no tensors that could move
            assert encoder.encoder.encode(frames).is_meta


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (camera(1, 3, 8, 8), r"uint8 \[1, 3, 8, 8\].*divide"),
        (camera(1, 3, 8, 8).float(), r"values from \d+ to 2\d\d.*divides camera images by 255"),
        (torch.full((1, 3, 8, 8), -0.1), "values from -0.1.*IDENTITY"),
        (torch.full((1, 3, 8, 8), 1.01), "to 1.01"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
        (torch.zeros(1, 8, 8, 3), r"\[1, 8, 8, 3\].*movedim"),
        (torch.zeros(1, 2, 8, 8, 3), "movedim"),
        (torch.zeros(1, 4, 8, 8), "alpha"),
        (torch.zeros(3, 8, 8), "batch"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        (np.zeros((1, 3, 8, 8), np.float32), "ndarray"),
    ],
)
def test_images_of_another_convention_are_refused(dino, images, words):
    with pytest.raises(FrameFormatError, match=words):
        dino(images)


def test_values_are_looked_at_in_every_call_on_the_cpu(dino):
    dino(torch.zeros(1, 3, 8, 8))
    with pytest.raises(FrameFormatError, match="values"):
        dino(torch.full((1, 3, 8, 8), 2.0))


def test_elsewhere_values_are_looked_at_after_every_reset():
    seen = []
    encoder = tiny("pixels")
    frames = torch.zeros(1, 1, 56, 56, 3, dtype=torch.uint8)

    class OnDevice(torch.Tensor):
        """A tensor that says it is on a GPU."""

        is_cpu = False

    def record(images, *, check_values):
        seen.append(check_values)
        return frames

    module = "lary_policy.policy.encoder.observation.to_frames"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, record)
        for _ in range(2):
            encoder(torch.zeros(1, 3, 8, 8).as_subclass(OnDevice))
        encoder.reset()
        encoder(torch.zeros(1, 3, 8, 8).as_subclass(OnDevice))
    assert seen == [True, False, True]


def test_encoders_of_changes_need_two_frames(pairs):
    for images in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 3, 8, 8)):
        with pytest.raises(FrameFormatError, match=r"two frames or more.*'univla'.*n_obs_steps=2"):
            pairs(images)
    with pytest.raises(FrameFormatError, match="even number"):
        tiny("vjepa2-large")(torch.zeros(1, 3, 3, 8, 8))


def test_a_map_is_of_one_frame(dino, pairs):
    with pytest.raises(FrameFormatError, match=r"flatten\(0, 1\)"):
        dino.feature_map(torch.zeros(1, 2, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"'univla', whose 4 tokens have no position"):
        _ = pairs.grid_size


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"name": "dino"}, UnknownNameError, "Valid names"),
        ({"trainable": "some"}, UnknownNameError, "all, last, lora, none"),
        ({"trainable": "last", "trainable_blocks": 0}, ConfigError, "at least 1"),
        ({"trainable": "last", "dtype": "bfloat16"}, ConfigError, "use_amp"),
        ({"trainable": "all", "save": False}, ConfigError, "lose what was trained"),
        ({"image_px": 50}, ConfigError, "multiple of 14"),
        ({"dtype": "float8"}, UnknownNameError, "bfloat16"),
    ],
)
def test_configurations_that_fit_nothing_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        tiny(**changes) if "name" not in changes else ObservationEncoder(EncoderConfig(**changes))
