"""Streams and compiled twins of encoders give the latents of plain calls."""

import functools

import pytest
import torch

from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.streaming import compiled, encode_stream
from lary_policy.errors import FrameFormatError

NAMES = ["pixels", "dinov2-small", "vjepa2-large", "flux2-vae", "univla"]


@functools.cache
def tiny(name: str, device: str = "cpu"):
    return load_encoder(
        name, weights="tiny-random", image_px=112 if name == "univla" else None, device=device
    )


def batches(sizes=(2, 2, 2, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (b, 2, 40, 50, 3), dtype=torch.uint8, generator=generator) for b in sizes]


def stream_of(encoder, frames):
    return encode_stream(lambda batch: (encoder.encode(batch),), ((None, (batch,)) for batch in frames))


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_stream_gives_what_single_calls_give(name):
    frames = batches()
    streamed = list(stream_of(tiny(name), frames))
    assert len(streamed) == len(frames)
    for (_, (latents,)), batch in zip(streamed, frames, strict=True):
        assert torch.equal(latents, tiny(name).encode(batch))


def test_a_stream_takes_batches_as_they_are_needed():
    taken = []

    def source():
        for number, batch in enumerate(batches()):
            taken.append(number)
            yield batch

    stream = stream_of(tiny("pixels"), source())
    next(stream)
    assert taken == [0]
    assert len(list(stream)) == 3
    assert list(stream_of(tiny("pixels"), [])) == []


def test_a_wrong_batch_in_a_stream_is_a_named_error():
    with pytest.raises(FrameFormatError, match="float32"):
        list(stream_of(tiny("pixels"), [batches()[0], batches()[1].float()]))


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_twin_agrees_and_leaves_the_original_alone(name):
    original = tiny(name)
    model, before = original.model, original.encode(batches()[0])
    twin = compiled(original, backend="eager")
    torch.testing.assert_close(twin.encode(batches()[0]), before, rtol=1e-5, atol=1e-5)
    assert original.model is model
    assert twin.model is not model
    assert twin.fingerprint == original.fingerprint
    shared = dict(twin.model.named_parameters())
    assert len(shared) == len(list(model.parameters()))
    assert {p.data_ptr() for p in shared.values()} == {p.data_ptr() for p in model.parameters()}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_on_a_gpu_gives_what_single_calls_give(name):
    frames = batches((4,) * 9 + (3,))
    encoder = tiny(name, "cuda")
    streamed = list(stream_of(encoder, iter(frames)))
    for (_, (latents,)), batch in zip(streamed, frames, strict=True):
        assert latents.device.type == "cpu"
        torch.testing.assert_close(latents, encoder.encode(batch).cpu(), rtol=1e-4, atol=1e-4)
