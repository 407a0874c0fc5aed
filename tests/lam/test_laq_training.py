"""Training LAPA's quantiser, step by step against the reference's own classes.

The numbers of GOLDEN come from LARYBench's `LatentActionQuantizationDinov2Feature` and
`LatentActionQuantization` (commit 2092d20) on the CPU: weights filled by `golden_weights.fill`, features and
images by `named_tensor`, noise by `named_tensor("draws <step>")`, Adam (0.9, 0.99) at 1e-3, gradients clipped
to 0.5; loss, norm of the gradient, and the sums of the absolute values of three weights after the step.
"""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from lary_policy.cli.compose import read_group
from lary_policy.encoders.families.lapa import LaqConfig, LatentActionQuantiser
from lary_policy.lam import FramePair, LamConfig, lam_kind
from lary_policy.lam.laq import LaqTraining

sys.path.append(str(Path(__file__).parents[1] / "encoders"))
from golden_weights import fill, named_tensor

WATCHED = ("dec_spatial_transformer.layers.0.2.to_q.weight", "vq.codebooks", "vq.project_in.weight")
GOLDEN = {
    "features": [
        (1.055487871170044, 2.27539324760437, 50.28365031327121, 10.639192728558555, 26.658099198830314),
        (1.0753823518753052, 0.9508491158485413, 50.28815939038759, 10.639617946697399, 26.659919113502838),
        (1.046478271484375, 1.2045588493347168, 50.31538267061114, 10.641061681788415, 26.657651336863637),
    ],
    "pixels": [
        (1.0224584341049194, 0.6012664437294006, 50.284458163776435, 10.623254077276215, 26.636100720148534),
        (1.0006457567214966, 0.6076724529266357, 50.297031838214025, 9.310367197496817, 26.629598369821906),
        (0.9782009124755859, 0.5711583495140076, 50.29200284718536, 9.306792128365487, 26.624773792456836),
    ],
}
SIZES = LaqConfig(
    dim=16, codes=4, code_width=8, code_seq_len=4, spatial_depth=1, temporal_depth=1, heads=2, head_width=8
)


def model(pixels):
    patch = {"input_patch_px": 8, "output_patch_px": 8} if pixels else {}
    module = LaqTraining(LatentActionQuantiser(LaqConfig(**{**vars(SIZES), **patch})), 8, pixels)
    fill(module.network).train()
    return module


def pairs(pixels):
    if pixels:
        images = named_tensor("images", (4, 3, 2, 64, 64)).abs() * 10
        return FramePair(images[:, :, 0], images[:, :, 1], images[:, :, 0], images[:, :, 1])
    features = named_tensor("features", (4, 2, 8, 8, 16)).flatten(2, 3) * 4
    return FramePair(features[:, 0], features[:, 1])


@pytest.mark.parametrize("seen", GOLDEN)
def test_steps_are_those_of_the_reference(seen):
    module, batch = model(seen == "pixels"), pairs(seen == "pixels")
    optimiser = torch.optim.Adam(module.network.parameters(), lr=1e-3, betas=(0.9, 0.99))
    for step, expected in zip((0, 10, 20), GOLDEN[seen], strict=True):
        loss, codes = module(batch, named_tensor(f"draws {step}", (4 * module.draws[0], 8)))
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.network.parameters(), 0.5)
        used = torch.zeros(4)
        used[codes.flatten()] = 1
        module.tend(step, used, 4, seed=0)
        optimiser.step()
        weights = dict(module.network.named_parameters())
        sums = [float(weights[name].detach().double().abs().sum()) for name in WATCHED]
        assert (loss.item(), norm.item(), *sums) == pytest.approx(expected, rel=1e-5)


def test_a_prediction_is_made_from_the_codes_alone():
    module, batch = model(False), pairs(False)
    score = module.score(batch)
    vq = module.network.vq
    with torch.no_grad():
        first, second = batch.first, batch.second
        tokens = module.network.encode(torch.stack([first, second], dim=1))
        codes = torch.cdist(vq.encode(tokens[:, 1]) - vq.encode(tokens[:, 0]), vq.codebooks).argmin(-1)
        predicted = module.network.reconstruct(first, vq.decode(vq.codebooks[codes]))
    assert torch.equal(score.codes, codes)
    torch.testing.assert_close(score.predicted, predicted)
    torch.testing.assert_close(score.error, (predicted - second).square().mean(-1))
    torch.testing.assert_close(score.copied, (first - second).square().mean(-1))


def test_errors_of_pixels_are_by_patch():
    module, batch = model(True), pairs(True)
    score = module.score(batch)
    assert score.error.shape == score.copied.shape == (4, 64)
    patch = (batch.second_image - batch.first_image)[2, :, 8:16, 16:24]
    assert score.copied[2, 8 + 2] == pytest.approx(float(patch.square().mean()), rel=1e-5)


def test_unused_codes_become_copies_of_used_ones_only_at_the_steps_of_the_recipe():
    module = model(False)
    before = module.network.vq.codebooks.detach().clone()
    used = torch.tensor([1.0, 0.0, 1.0, 0.0])
    changed = {step: module.tend(step, used, 4, seed=step) for step in range(31)}
    assert [step for step, count in changed.items() if count] == [10, 20, 30]
    after = module.network.vq.codebooks.detach()
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(after[[1, 3]], before[[0, 2]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("width", [384, 1280])
def test_sizes_follow_the_features(width):
    small = {"attention_heads": 2, "head_width": 8, "code_seq_len": 16}
    module = lam_kind("laq").build(LamConfig(**small), some_pairs(width), False)
    assert module.network.config.dim == width
    assert module.draws == (4, 32)  # a grid of 6 is thinned out twice


def some_pairs(width=24, pairs=40):
    """Features of another scale in each channel, of which one in four differs."""
    generator = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, pairs, 36, width, generator=generator) * torch.linspace(1, 4, width)
    return FramePair(first, torch.where(torch.arange(36)[:, None] % 4 == 0, other, first))


def test_first_weights_predict_that_nothing_changes():
    sample = some_pairs()
    config = LamConfig(attention_heads=2, head_width=8, codebook=16, dim=8)
    copying, drawn = (
        lam_kind("laq").build(dataclasses.replace(config, first_weights=how), sample, False).eval()
        for how in ("copying", "drawn")
    )
    with torch.no_grad():
        scores = [module.score(sample) for module in (copying, drawn)]
    still = float(scores[0].copied.mean())
    assert float(scores[0].error.mean()) < 1.1 * still < 0.9 * float(scores[1].error.mean())
    assert len(scores[0].codes.unique()) > len(scores[1].codes.unique())  # codes are changes of the batch


def test_the_recipe_of_the_reference_is_a_file():
    config = LamConfig(**read_group("lam", "reference"))
    assert (config.first_weights, config.schedule, config.warmup_steps) == ("drawn", "constant", 0)
    assert (config.lr, config.beta2, config.grad_clip, config.weight_decay) == (3e-4, 0.99, 0.5, 0)
