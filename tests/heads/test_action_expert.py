import pytest
import torch
import torch.nn.functional as F

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads.mlp import ActionExpert, ActionExpertConfig
from lary_policy.heads.pool import PoolConfig


def by_hand(weights, latents, proprio, blocks):
    """The formula of the protocol, written without modules."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    x = linear(norm(latents.flatten(1), "norm_in"), "fc_in")
    if proprio is not None:
        x = x + linear(proprio, "fc_proprio")
    x = x.clamp_min(0)
    for i in range(blocks):
        x = x + linear(norm(x, f"blocks.{i}.norm"), f"blocks.{i}.linear").clamp_min(0)
    return linear(norm(x, "norm_out"), "fc_out")


def randomised(head):
    g = torch.Generator().manual_seed(1)
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.3
    return head.double()


@pytest.mark.parametrize("proprio_dim", [0, 7])
@pytest.mark.parametrize("blocks", [0, 2, 3])
def test_matches_the_formula_of_the_protocol(blocks, proprio_dim):
    head = randomised(ActionExpert((2, 1, 4, 6), 5, 7, width=24, num_blocks=blocks, proprio_dim=proprio_dim))
    latents = torch.randn(3, 2, 1, 4, 6, generator=torch.Generator().manual_seed(2)).double()
    proprio = torch.randn(3, 7, generator=torch.Generator().manual_seed(3)).double() if proprio_dim else None
    expected = by_hand(dict(head.named_parameters()), latents, proprio, blocks).view(3, 5, 7)
    torch.testing.assert_close(head(latents, proprio), expected)


@pytest.mark.parametrize(
    ("numbers", "millions"),
    # protocol section 5.2: size of the CALVIN head (5 steps of 7) by size of the latents
    [(64, 34.0), (512, 35.8), (4096, 50.5), (16384, 100.9)],
)
def test_parameter_counts_of_the_reference(numbers, millions):
    head = ActionExpert((1, 1, numbers // 32, 32), 5, 7)
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_projecting_head_has_nearly_the_same_size_for_every_width_of_token():
    sizes = [
        sum(p.numel() for p in ActionExpert((2, 1, 64, d), 5, 7, pool=pool, width=512).parameters())
        for pool in [PoolConfig("project", width=32)]
        for d in (192, 1024)
    ]
    assert sizes[1] - sizes[0] == (1024 - 192) * 32


def test_proprioception_is_used_and_must_match():
    head = ActionExpert((1, 1, 4, 6), 5, 7, width=16, proprio_dim=7)
    latents = torch.zeros(2, 1, 1, 4, 6)
    assert not torch.equal(head(latents, torch.ones(2, 7)), head(latents, torch.zeros(2, 7)))
    with pytest.raises(ShapeError, match=r"\[b, 7\]; got none"):
        head(latents)
    with pytest.raises(ShapeError, match=r"\[b, 7\]; got \(2, 6\)"):
        head(latents, torch.zeros(2, 6))
    blind = ActionExpert((1, 1, 4, 6), 5, 7, width=16)
    with pytest.raises(ShapeError, match="no proprioception"):
        blind(latents, torch.zeros(2, 7))


def test_every_parameter_gets_a_gradient():
    head = ActionExpert((2, 1, 4, 6), 5, 7, width=16, proprio_dim=7, pool=PoolConfig("project", width=3))
    F.huber_loss(head(torch.randn(4, 2, 1, 4, 6), torch.randn(4, 7)), torch.zeros(4, 5, 7)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_defaults_are_the_reference_and_bad_sizes_are_refused():
    assert ActionExpertConfig() == ActionExpertConfig(4096, 2, PoolConfig("flatten"))
    assert ActionExpertConfig().label == "mlp4096-flatten"
    with pytest.raises(ConfigError, match="width"):
        ActionExpertConfig(width=0)
