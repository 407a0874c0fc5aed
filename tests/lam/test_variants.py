"""UniVLA's and villa-X's models in training: their losses from their published code, and their stages."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lary_policy.encoders.codebook import nearest_codes
from lary_policy.errors import LaryPolicyError
from lary_policy.lam import FramePair, LamConfig, lam_kind
from lary_policy.lam.codebook import REPLACE_EVERY, CodeUpkeep, straight_through

SMALL = LamConfig(model="univla", attention_heads=2, codebook=4, dim=8, code_seq_len=3, width=16)


def features(pairs=12, width=12):
    generator = torch.Generator().manual_seed(0)
    return FramePair(*torch.randn(2, pairs, 16, width, generator=generator))


def images(pairs=6, state=3, chunk=4):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, pairs, 3, 28, 28, generator=generator)
    motion = (torch.randn(pairs, n, generator=generator) for n in (state, state, chunk))
    return FramePair(first, second, first, second, *motion)


def build(config, sample, pixels=False):
    torch.manual_seed(0)
    return lam_kind(config.model).build(config, sample, pixels)


def test_the_loss_is_that_of_univla():
    """`shared_step` of its trainer, term by term."""
    module, pairs = build(SMALL, features()), features()
    network = module.network
    (z,) = network.changes(pairs.first, pairs.second)
    code, _ = nearest_codes(z, network.vq.codes)
    recon = network.decoder(torch.cat([network.action_up(code), network.patch_up(pairs.first)], 1))[:, 3:]
    mse = ((recon - pairs.second) ** 2).mean()
    q_loss = ((z.detach() - code) ** 2).mean()
    commit = ((z - code.detach()) ** 2).mean()
    loss, codes = module.loss(pairs, torch.empty(12))
    torch.testing.assert_close(loss, mse + q_loss + 0.25 * commit)
    assert codes.shape == (12, 3)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_gradients_pass_through_codes_to_vectors():
    module = build(SMALL, features())
    vectors = torch.randn(5, 3, 8, requires_grad=True)
    codes, _, _ = straight_through(module.network.vq, vectors)
    codes.square().sum().backward()
    torch.testing.assert_close(vectors.grad, 2 * codes.detach())


def save(module, folder, kind="univla", **changes):
    from lary_policy.encoders.families import TRAINED_CONFIG, TrainedLam
    from lary_policy.paths import write_json

    about = TrainedLam(kind, "dinov2-small", "random", "0" * 64, "native", None, 56, 0, module.network.config)
    folder.mkdir()
    lam_kind(kind).write(folder, module.network.state_dict(), about)
    write_json(folder / TRAINED_CONFIG, {**about.to_dict(), **changes}, seal=True)
    return str(folder)


def test_the_second_stage_keeps_what_the_first_learned_of_the_rest(tmp_path):
    first = build(SMALL, features())
    second = build(dataclasses.replace(SMALL, stage_one=save(first, tmp_path / "one")), features())
    network = second.network
    assert torch.equal(network.vq.codes, first.network.vq.codes)
    assert torch.equal(network.action_latent, first.network.action_latent)
    assert not network.vq.codes.requires_grad
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in second.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # what is before the decoder's silenced branches moves after the first
        loss, codes = second.loss(features(), torch.empty(12))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    kept = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    assert kept == ["vq.codebook.weight"]
    expected, _ = nearest_codes(
        network.changes(*dataclasses.astuple(features())[:2])[0], network.vq_action.codes
    )
    assert codes.shape == expected.shape[:2]
    for change, words in (({"codebook": 8}, "codes 8"), ({"code_seq_len": 2}, "action_tokens 2")):
        with pytest.raises(LaryPolicyError, match=words):
            build(dataclasses.replace(SMALL, stage_one=str(tmp_path / "one"), **change), features())
    twice = save(second, tmp_path / "two")
    with pytest.raises(LaryPolicyError, match="a second stage"):
        build(dataclasses.replace(SMALL, stage_one=twice), features())
    with pytest.raises(LaryPolicyError, match=r"config\.json"):
        build(dataclasses.replace(SMALL, stage_one=str(tmp_path)), features())


def test_the_loss_is_that_of_villa_x_and_of_the_robot():
    config = dataclasses.replace(SMALL, model="villax", code_seq_len=2)
    module, pairs = build(config, images(), True), images()
    network, sizes = module.network, module.network.config
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    first, second = ((x - mean) / std for x in (pairs.first, pairs.second))
    z = network.window(network.features(torch.cat([first, second])).unflatten(0, (2, 6)).transpose(0, 1))
    code = z.quantised[:, 0]
    patches = second.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    visual = F.mse_loss(network.decoder(first, code), patches)
    fit = 1.25 * F.mse_loss(z.continuous[:, 0], code)
    truth = torch.cat([pairs.second_state, pairs.chunk], 1)
    robot = F.mse_loss(module.forward_model(torch.cat([pairs.first_state, code.flatten(1)], 1)), truth)
    loss, codes = module.loss(pairs, torch.empty(6))
    torch.testing.assert_close(loss, visual + fit + robot)
    assert codes.shape == (6, sizes.num_learned_tokens)
    unknown = dataclasses.replace(pairs, chunk=pairs.chunk.fill_(float("nan")))
    state = F.mse_loss(
        module.forward_model(torch.cat([pairs.first_state, code.flatten(1)], 1))[:, :3], pairs.second_state
    )
    torch.testing.assert_close(module.loss(unknown, torch.empty(6))[0], visual + fit + state)
    score = module.score(pairs)
    torch.testing.assert_close(score.copied.mean(), F.mse_loss(pairs.first, pairs.second))
    torch.testing.assert_close(score.error.mean(), F.mse_loss(score.predicted, pairs.second))
    assert not any("forward_model" in name for name in network.state_dict())


@pytest.mark.parametrize("model", ["univla", "villax"])
def test_first_weights_predict_that_nothing_changes(model):
    """A decoder fitted to the sample beats both a drawn one and the mean of each channel."""
    if model == "univla":
        first = features(40).first * torch.linspace(0.5, 3, 12)
        sample = FramePair(first, first + 0.1 * features(40).second)
    else:
        smooth = F.interpolate(images(24).first[:, :, ::14, ::14], size=28, mode="bilinear")
        sample = dataclasses.replace(images(24), first=smooth, second=smooth.flip(1) * 0.1 + smooth * 0.9)
    config = dataclasses.replace(SMALL, model=model, code_seq_len=2, width=32)
    copying, drawn = (
        build(dataclasses.replace(config, first_weights=how), sample, model == "villax")
        for how in ("copying", "drawn")
    )
    with torch.no_grad():
        error, other = (float(module.score(sample).error.mean()) for module in (copying, drawn))
    assert error < 0.3 * min(other, float(sample.second.var()))
    assert copying.score(sample).codes.unique().numel() > 1


def test_unused_codes_become_neighbours_of_used_ones():
    upkeep, codes = CodeUpkeep(4), torch.arange(8.0).view(4, 2)
    before, used = codes.clone(), torch.tensor([1.0, 0.0, 1.0, 0.0])
    replaced = [upkeep.tend(codes, step, used, seed=step) for step in range(REPLACE_EVERY + 1)]
    assert replaced == [0] * REPLACE_EVERY + [2]
    assert torch.equal(codes[[0, 2]], before[[0, 2]])
    distance = torch.cdist(codes[[1, 3]], before[[0, 2]]).min(1).values
    assert ((distance > 0) & (distance < 3)).all()


@pytest.mark.parametrize(("change", "sample", "words"), [
    ({}, images(), "features for model=univla"),
    ({"attention_heads": 5}, features(), "multiple of 2 x 5"),
    ({"model": "villax"}, features(), "backbone=pixels"),
    ({"model": "villax", "width": 18}, images(), "width as a multiple of 4"),
    ({"model": "villax", "patch_px": 10}, images(), "image_px as a multiple of 10"),
    ({"model": "villax"}, dataclasses.replace(images(), first_state=None), "Choose tasks, or model=laq"),
])  # fmt: skip
def test_what_does_not_fit_is_named(change, sample, words):
    with pytest.raises(LaryPolicyError, match=words):
        build(dataclasses.replace(SMALL, **change), sample, sample.first.dim() == 4)
