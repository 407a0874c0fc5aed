from dataclasses import replace

import pytest
import torch

from lary_policy.errors import ConfigError
from lary_policy.heads.files import build_head, count_parameters
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import AttentivePool, Pool, PoolConfig

# (t, c, n, d) of pairs: DINOv2-L, V-JEPA 2, LAPA-DINO, UniVLA, villa-X (protocol section 2.1)
SHAPES = [(2, 1, 256, 1024), (1, 1, 196, 1024), (1, 1, 16, 1024), (1, 1, 4, 128), (1, 1, 2, 32)]


def test_pool_is_attention_written_out():
    torch.manual_seed(0)
    pool = AttentivePool((2, 1, 3, 6), width=8, queries=2, num_heads=2).double()
    x = torch.randn(1, 2, 1, 3, 6).double()
    tokens = (pool.projection(pool.norm(x)) + pool.frame_embed + pool.token_embed).view(6, 8)
    keys, values = pool.key_value(tokens).chunk(2, -1)
    expected = []
    for query in pool.queries:
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            weights = (keys[:, part] @ query[part] / 2).softmax(0)
            expected.append(weights @ values[:, part])
    torch.testing.assert_close(pool(x)[0], torch.cat(expected))


def test_frames_and_tokens_are_told_apart():
    pool = Pool(PoolConfig("attentive", width=8, queries=2), (2, 1, 3, 6))
    x = torch.randn(1, 2, 1, 3, 6)
    assert pool(x).shape == (1, pool.out_features) == (1, 16)
    assert not torch.allclose(pool(x), pool(x.flip(1)), atol=1e-5)
    assert not torch.allclose(pool(x), pool(x.flip(3)), atol=1e-5)


def test_d10_matched_heads_have_one_size_and_the_count_is_known(meta):
    """The reference's first layer is as long as the latents: its heads differ sixty-fold in capacity."""

    def count(model, shape):
        return count_parameters(replace(meta, model=model, latent_shape=shape, proprio_stats=None))

    reference = [count(ActionExpertConfig(), shape) for shape in SHAPES]
    assert reference[0] == pytest.approx(2.18e9, rel=2e-3)  # protocol section 5.2, counted without allocation
    assert max(reference) / min(reference) > 60
    matched = [count(ActionExpertConfig(512, 2, PoolConfig("attentive", 64)), shape) for shape in SHAPES]
    assert max(matched) / min(matched) < 1.1
    head = build_head(replace(meta, model=ActionExpertConfig(64, 1, PoolConfig("attentive", 16))))
    assert count_parameters(
        replace(meta, model=ActionExpertConfig(64, 1, PoolConfig("attentive", 16)))
    ) == sum(p.numel() for p in head.parameters())


def test_label_and_wrong_sizes():
    assert PoolConfig("attentive", 64, queries=16).label == "attentive16x64"
    with pytest.raises(ConfigError, match="3 heads for width 64"):
        PoolConfig("attentive", 64, num_heads=3)
    with pytest.raises(ConfigError, match="positive pool sizes"):
        PoolConfig("attentive", 64, queries=0)
