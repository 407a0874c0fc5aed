"""Streams of frames give the latents of batches, at the price of one backbone pass a new frame."""

import pytest
import torch

from lary_policy.encoders.base import list_encoders, load_encoder
from lary_policy.encoders.kinds import PairEncoder, encode_pairs, encode_two, pair_spec
from lary_policy.encoders.streaming import StreamingEncoder
from lary_policy.errors import FrameFormatError, ShapeError

STREAMS, STEPS = 3, 4
PAIR_ENCODERS = ("lapa", "lapa-dinov2", "univla", "villa-x")


def tiny(name, **options):
    px = {"vjepa2-large": 32, "wan2.2-vae": 32, "lapa": 224}.get(name, 56)
    return load_encoder(name, weights="tiny-random", image_px=px, **options)


@pytest.fixture
def clip():
    """Return frames [t w h w 3]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (STEPS, STREAMS, 40, 50, 3), dtype=torch.uint8, generator=generator)


class Calls:
    """Counts the images that go through a module's `features`."""

    def __init__(self, encoder):
        self.images = 0
        self._features = encoder.model.features
        encoder.model.features = self.count

    def count(self, images):
        self.images += len(images)
        return self._features(images)


@pytest.mark.parametrize("name", PAIR_ENCODERS)
def test_streamed_pairs_equal_batched_pairs(name, clip):
    encoder = tiny(name)
    assert isinstance(encoder, PairEncoder)
    stream = StreamingEncoder(encoder, STREAMS)
    streamed = [stream.push(frames) for frames in clip]
    features = [encoder.features(frames[:, None]) for frames in clip]
    assert torch.equal(streamed[0], encoder.latents(features[0], features[0])[:, 0])
    for before, now, latents in zip(features, features[1:], streamed[1:], strict=False):
        assert torch.equal(latents, encoder.latents(before.transpose(0, 1), now.transpose(0, 1))[0])
    pairs = torch.cat([encoder.encode(clip[i : i + 2].transpose(0, 1)) for i in range(STEPS - 1)], dim=1)
    torch.testing.assert_close(torch.stack(streamed[1:], dim=1), pairs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PAIR_ENCODERS)
def test_a_new_frame_costs_one_pass(name, clip):
    encoder = tiny(name)
    calls, stream = Calls(encoder), StreamingEncoder(encoder, STREAMS)
    for count, frames in enumerate(clip, start=1):
        stream.push(frames)
        assert calls.images == count * STREAMS
    encoder.encode(clip.transpose(0, 1))
    assert calls.images == 2 * STEPS * STREAMS  # a batch, too, sees each frame once


def test_the_noise_of_the_reference_is_the_streams_too(clip):
    encoder = tiny("lapa", preprocess="lary", output="lary")
    stream = StreamingEncoder(encoder, STREAMS)
    streamed = [stream.push(frames) for frames in clip]
    batch = encoder.encode(clip[:2].transpose(0, 1))[:, 0]
    torch.testing.assert_close(streamed[1], batch, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(streamed[1], streamed[2], atol=1e-3)


@pytest.mark.parametrize("name", ["vjepa2-large", "wan2.2-vae"])
def test_clip_encoders_see_the_last_two_frames(name, clip):
    if name not in list_encoders():
        pytest.skip("not registered")
    encoder = tiny(name)
    stream = StreamingEncoder(encoder, STREAMS)
    streamed = [stream.push(frames) for frames in clip]
    spec = pair_spec(encoder)
    for i in range(1, STEPS):
        assert streamed[i].shape == (STREAMS, spec.tokens, spec.width)
        assert torch.equal(streamed[i], encode_two(encoder, clip[i - 1], clip[i]))
    assert torch.equal(streamed[0], encode_two(encoder, clip[0], clip[0]))


def test_frame_encoders_pass_through(clip):
    encoder = load_encoder("pixels", image_px=28)
    stream = StreamingEncoder(encoder, STREAMS)
    for frames in clip:
        assert torch.equal(stream.push(frames), encoder.encode(frames[:, None])[:, 0])


def test_a_reset_stream_starts_anew_and_the_others_go_on(clip):
    encoder = tiny("univla")
    stream, fresh = StreamingEncoder(encoder, STREAMS), StreamingEncoder(encoder, STREAMS)
    stream.push(clip[0])
    usual = stream.push(clip[1])
    stream.reset()
    stream.push(clip[0])
    stream.reset(torch.tensor([False, True, False]))
    partly = stream.push(clip[1])
    assert torch.equal(partly[[0, 2]], usual[[0, 2]])
    assert torch.equal(partly[1], fresh.push(clip[1])[1])
    assert not torch.allclose(partly[1], usual[1], atol=1e-3)


def test_cameras_are_streams_of_their_own(clip):
    encoder = tiny("univla")
    by_camera, single = StreamingEncoder(encoder, STREAMS), StreamingEncoder(encoder, STREAMS)
    for frames in clip:
        both = by_camera.push(torch.stack((frames.flip(1), frames), dim=1))
        assert both.shape == (STREAMS, 2, encoder.latent.tokens, encoder.latent.width)
        torch.testing.assert_close(both[:, 1], single.push(frames), rtol=1e-4, atol=1e-5)
    by_camera.reset(torch.tensor([True, False, False]))
    torch.testing.assert_close(
        by_camera.push(torch.stack((clip[0], clip[0]), dim=1))[0, 1],
        StreamingEncoder(encoder, STREAMS).push(clip[0])[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_streams_that_show_nothing_keep_their_last_frame(clip):
    encoder = tiny("univla")
    stream = StreamingEncoder(encoder, STREAMS)
    stream.push(clip[0])
    some = torch.tensor([2, 0])
    pushed = stream.push(clip[1][some], some)
    torch.testing.assert_close(pushed, encode_two(encoder, clip[0], clip[1])[some], rtol=1e-4, atol=1e-5)
    all_again = stream.push(clip[2])
    last = torch.stack((clip[1, 0], clip[0, 1], clip[1, 2]))
    torch.testing.assert_close(all_again, encode_two(encoder, last, clip[2]), rtol=1e-4, atol=1e-5)


def test_wrong_frames_are_named_errors(clip):
    stream = StreamingEncoder(tiny("univla"), STREAMS)
    with pytest.raises(ShapeError, match="3 streams"):
        stream.push(clip[0, :2])
    with pytest.raises(FrameFormatError, match="float32"):
        stream.push(clip[0].float())
    with pytest.raises(FrameFormatError, match="time"):
        stream.push(clip[0, 0])


@pytest.mark.parametrize("name", ["univla", "villa-x", "vjepa2-large"])
def test_any_pairs_of_a_set_of_frames(name, clip):
    encoder, frames = tiny(name), clip[:, 0]
    wanted = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 2]])
    found = encode_pairs(encoder, frames, wanted)
    expected = encode_two(encoder, frames[wanted[:, 0]], frames[wanted[:, 1]])
    torch.testing.assert_close(found.latents, expected, rtol=1e-4, atol=1e-5)
    spec = pair_spec(encoder)
    assert found.latents.shape == (4, spec.tokens, spec.width)
    if encoder.spec.codebook is None:
        assert found.codes is None
    else:
        assert torch.equal(found.codes[0], encoder.encode_indices(frames[None, :2])[0, 0])


def test_frame_encoders_have_no_latent_of_two():
    with pytest.raises(ShapeError, match="pixels"):
        pair_spec(load_encoder("pixels", image_px=28))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["univla", "villa-x", "vjepa2-large"])
def test_streams_on_a_gpu_equal_those_on_the_cpu(name, clip, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it keeps 10 bits of the mantissa
    here, there = tiny(name), tiny(name, device="cuda")
    one, other = StreamingEncoder(here, STREAMS), StreamingEncoder(there, STREAMS)
    some = torch.tensor([2, 0])
    for frames in clip:
        expected, found = one.push(frames), other.push(frames.cuda())
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    for stream, frames in ((one, clip[0]), (other, clip[0].cuda())):
        stream.reset(torch.tensor([True, False, False], device=frames.device))
    expected = one.push(clip[1][some], some)
    found = other.push(clip[1][some].cuda(), some.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    pairs = torch.tensor([[0, 1], [2, 0]])
    torch.testing.assert_close(
        encode_pairs(there, clip[:, 0], pairs).latents.cpu(),
        encode_pairs(here, clip[:, 0], pairs).latents,
        rtol=1e-3,
        atol=1e-3,
    )
