"""Layers of one model out of one pass are those of passes of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lary_policy.encoders import layers_together, load_encoder, share_a_pass


def some_frames(seed, count=3, px=28):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, px, px, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "weights", "layers"),
    [("dinov2-small", "tiny-random", (1, None)), ("dinov2-small", "tiny-random", (2, 1, None)),
     ("auto:test_vit", "random", (2, 5, None))],
)  # fmt: skip
def test_one_pass_gives_the_latents_of_several_bit_for_bit(name, weights, layers):
    px = 28 if name == "dinov2-small" else 32
    encoders = [load_encoder(name, weights=weights, image_px=px, layer=layer) for layer in layers]
    frames = some_frames(0)
    alone = [one.encode(frames) for one in encoders]
    ran = []
    for one in encoders:
        for block in (m for m in one.model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)):
            if len(list(block)) > 1:
                block[0].register_forward_hook(lambda *_: ran.append(1))
                break
    ran.clear()
    with layers_together(encoders) as encode:
        together = encode(frames)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(ran) == 1  # the first block ran in one of the models only
    assert all(torch.equal(a, one.encode(frames)) for a, one in zip(alone, encoders, strict=True))


def test_threads_do_not_see_each_others_frames():
    encoders = [load_encoder("dinov2-small", weights="tiny-random", image_px=28, layer=one) for one in (1, 2)]
    batches = [some_frames(seed) for seed in range(12)]
    with layers_together(encoders) as encode, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encode, batches))
    for frames, latents in zip(batches, found, strict=True):
        assert all(torch.equal(e.encode(frames), z) for e, z in zip(encoders, latents, strict=True))


def test_encoders_without_blocks_are_told_apart():
    assert not share_a_pass([load_encoder("pixels")])
    assert share_a_pass([load_encoder("dinov2-small", weights="tiny-random", layer=k) for k in (1, 2)])
