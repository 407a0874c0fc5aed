"""Controls: noise that belongs to a frame, components that are a projection."""

from __future__ import annotations

import pytest
import torch

from lary_policy.encoders import ComponentEncoder, EncoderShelf, EncoderView, load_encoder
from lary_policy.errors import ConfigError

FRAMES = torch.randint(
    0, 256, (3, 2, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def test_noise_is_of_its_size_and_the_same_for_a_frame_in_any_batch():
    shelf = EncoderShelf("cpu", frame_px=28)
    plain, noisy = (shelf.load(EncoderView("pixels", noise=std)) for std in (None, 0.5))
    clean, first = plain.encode(FRAMES), noisy.encode(FRAMES)
    assert torch.equal(noisy.encode(FRAMES[1:2, 1:]), first[1:2, 1:])
    moved = (first - clean).flatten(2).std(-1) / clean.flatten(2).std(-1)
    assert torch.allclose(moved, torch.full_like(moved, 0.5), atol=0.1)
    assert (
        len({plain.fingerprint, noisy.fingerprint, shelf.load(EncoderView("pixels", noise=1.0)).fingerprint})
        == 3
    )
    other = EncoderShelf("cpu", seed=1, frame_px=28).load(EncoderView("pixels", noise=0.5))
    assert not torch.equal(other.encode(FRAMES), first)


def test_components_of_all_directions_lose_nothing():
    encoder = load_encoder("pixels", image_px=28)
    latents = encoder.encode(FRAMES).flatten(2)
    axes, _ = torch.linalg.qr(torch.randn(latents.shape[-1], 5, generator=torch.Generator().manual_seed(1)))
    mean = latents.flatten(0, 1).mean(0)
    cut = ComponentEncoder(encoder, mean, axes, "train")
    assert cut.encode(FRAMES).shape == (3, 2, 1, 5)
    assert (cut.latent.tokens, cut.latent.width) == (1, 5)
    assert torch.allclose(cut.encode(FRAMES)[:, :, 0], (latents - mean) @ axes)
    assert ComponentEncoder(encoder, mean, axes, "other").fingerprint != cut.fingerprint


def test_labels_keys_and_wrong_values_are_told():
    view = EncoderView.of({"name": "pixels", "components": 8, "noise": 0.5})
    assert view.label == "pixels@components8,noise0.5"
    shelf = EncoderShelf("cpu", frame_px=28)
    keys = [shelf.key(EncoderView("pixels", components=n, noise=s)) for n in (None, 8) for s in (None, 0.5)]
    assert len({str(key) for key in keys}) == 4
    assert {"components", "noise"}.isdisjoint(keys[0])
    for wrong in ({"components": 0}, {"noise": -1.0}):
        with pytest.raises(ConfigError, match="> 0"):
            EncoderView.of({"name": "pixels", **wrong})
    pairs = load_encoder("lapa", weights="tiny-random")
    with pytest.raises(ConfigError, match="of kind pair"):
        ComponentEncoder(pairs, torch.zeros(1), torch.zeros(1, 1), "")
