import math

import pytest
import torch
from torch import nn

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads import pool as attentive_probe
from lary_policy.heads.attentive import AttentiveProbe, AttentiveProbeConfig, PoolingBlock, SelfBlock


def randomised(module, seed=0):
    g = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.2
    return module.double().eval()


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture(params=["plain", "fused"])
def attention_path(request, monkeypatch):
    """Run on both ways to compute attention on CPU."""
    if request.param == "fused":
        monkeypatch.setattr(attentive_probe, "_MAX_PLAIN_SCORES", 0)


@pytest.mark.usefixtures("attention_path")
def test_self_block_equals_torchs_transformer_layer():
    ours = randomised(SelfBlock(48, 4, 4.0))
    theirs = nn.TransformerEncoderLayer(48, 4, 192, 0.0, "gelu", batch_first=True, norm_first=True).double()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.qkv.weight,
            "self_attn.in_proj_bias": ours.qkv.bias,
            "self_attn.out_proj.weight": ours.proj.weight,
            "self_attn.out_proj.bias": ours.proj.bias,
            "linear1.weight": ours.mlp.fc1.weight,
            "linear1.bias": ours.mlp.fc1.bias,
            "linear2.weight": ours.mlp.fc2.weight,
            "linear2.bias": ours.mlp.fc2.bias,
            **{
                f"{n}.{p}": getattr(getattr(ours, n), p)
                for n in ("norm1", "norm2")
                for p in ("weight", "bias")
            },
        }
    )
    x = tokens(2, 9, 48)
    torch.testing.assert_close(ours(x), theirs.train()(x))


def reference_pooling(ours, query, x):
    """The same block from torch's MultiheadAttention, which forms every key and value."""
    attention = nn.MultiheadAttention(48, 4, batch_first=True).double()
    attention.in_proj_weight.data = torch.cat([ours.q.weight, ours.kv.weight])
    attention.in_proj_bias.data = torch.cat([ours.q.bias, ours.kv.bias])
    attention.out_proj.weight.data, attention.out_proj.bias.data = (
        torch.eye(48).double(),
        torch.zeros(48).double(),
    )
    context = ours.norm1(x)
    mixed, weights = attention(query.expand(len(x), 1, -1), context, context, average_attn_weights=False)
    hidden = query + mixed[:, 0]
    return hidden + ours.mlp(ours.norm2(hidden)), weights[:, :, 0]


def test_pooling_block_equals_multihead_attention_with_keys_and_values():
    ours, query, x = randomised(PoolingBlock(48, 4, 4.0)), tokens(48, seed=2), tokens(2, 9, 48)
    output, weights = reference_pooling(ours, query, x)
    torch.testing.assert_close(ours(query, x), output)
    torch.testing.assert_close(ours.weights(query, x), weights)


def test_pooling_block_has_the_gradients_of_multihead_attention():
    ours, query, x = (
        randomised(PoolingBlock(48, 4, 4.0)),
        tokens(48, seed=2),
        tokens(2, 9, 48).requires_grad_(),
    )
    names = ["norm1.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.bias"]
    wanted = [x, *(ours.get_parameter(n) for n in names)]
    theirs = torch.autograd.grad(reference_pooling(ours, query, x)[0].square().sum(), wanted)
    torch.testing.assert_close(torch.autograd.grad(ours(query, x).square().sum(), wanted), theirs)


@pytest.mark.parametrize(("frames", "tokens_per_frame"), [(9, 196), (8, 16), (1, 784)])
def test_parameter_count_of_the_reference(frames, tokens_per_frame):
    probe = AttentiveProbe((frames, 1, tokens_per_frame, 1024), 54)
    assert sum(p.numel() for p in probe.parameters()) == 28_690_230  # protocol section 4.1: 28.69 M


def test_initial_weights_follow_the_reference():
    torch.manual_seed(0)
    probe = AttentiveProbe((2, 1, 4, 256), 10)
    stds = {
        "projector.0.weight": 0.02,
        "temporal_embed": 0.02,
        "query_tokens": 0.02,
        "blocks.0.qkv.weight": 0.02,
        "blocks.0.proj.weight": 0.02 / math.sqrt(2),
        "blocks.1.mlp.fc2.weight": 0.02 / math.sqrt(4),
        "blocks.2.proj.weight": 0.02 / math.sqrt(6),
        "cross_attention_block.kv.weight": 0.02,
        "cross_attention_block.mlp.fc2.weight": 0.02 / math.sqrt(6),
        "linear.weight": 1 / math.sqrt(3 * 768),  # PyTorch's default, uniform
    }
    for name, std in stds.items():
        assert float(probe.get_parameter(name).detach().std()) == pytest.approx(std, rel=0.1), name
    for name, parameter in probe.named_parameters():
        if name.endswith("bias") and name != "linear.bias":
            assert not parameter.any(), name


def test_attention_sums_to_one_and_has_the_shape_of_the_tokens():
    probe = randomised(AttentiveProbe((3, 2, 5, 8), 4, width=16, num_self_blocks=1, num_heads=2))
    weights = probe.attention(tokens(6, 3, 2, 5, 8))
    assert weights.shape == (6, 3, 2, 5)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(6).double())


def test_attention_moves_with_its_token():
    probe = randomised(AttentiveProbe((2, 1, 4, 8), 3, width=16, num_self_blocks=0, num_heads=1))
    latents = tokens(64, 2, 1, 4, 8)
    before = probe.attention(latents)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(probe.attention(latents[..., order, :]), before[..., order])


@pytest.mark.usefixtures("attention_path")
def test_order_of_tokens_does_not_matter_but_order_of_frames_does():
    probe = randomised(AttentiveProbe((2, 1, 4, 8), 3, width=16, num_self_blocks=2, num_heads=2))
    latents = tokens(5, 2, 1, 4, 8)
    torch.testing.assert_close(probe(latents[..., [3, 1, 0, 2], :]), probe(latents))
    assert not torch.allclose(probe(latents.flip(1)), probe(latents), atol=1e-3)


def test_one_frame_gets_no_temporal_embedding_and_long_clips_interpolate_it():
    single = randomised(AttentiveProbe((1, 1, 4, 8), 3, width=16, num_self_blocks=1, num_heads=2))
    before = single(tokens(2, 1, 1, 4, 8))
    single.temporal_embed.data += 1
    assert torch.equal(single(tokens(2, 1, 1, 4, 8)), before)
    long = randomised(AttentiveProbe((8, 1, 1, 8), 3, width=16, num_self_blocks=0, num_heads=2, max_frames=4))
    assert long(tokens(2, 8, 1, 1, 8)).shape == (2, 3)
    # bilinear without aligned corners: output i samples the input at (i + 0.5) / 2 - 0.5
    expected = 0.75 * long.temporal_embed[:, 1] + 0.25 * long.temporal_embed[:, 0]
    torch.testing.assert_close(long._temporal(8)[:, 2], expected)


def test_bad_sizes_and_foreign_latents_are_refused():
    with pytest.raises(ConfigError, match="5 heads for width 16"):
        AttentiveProbeConfig(width=16, num_heads=5)
    with pytest.raises(ConfigError, match="positive"):
        AttentiveProbeConfig(num_self_blocks=-1)
    probe = AttentiveProbe((1, 1, 4, 8), 3, width=16, num_self_blocks=1, num_heads=2)
    with pytest.raises(ShapeError, match="1, 1, 4, 8"):
        probe(torch.zeros(2, 2, 1, 4, 8))
