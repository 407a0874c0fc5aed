"""Parity with LARYBench's own classes, run with fixed weights at small sizes.

The golden files come from the reference at commit 2092d20. Of `FeatureEvaluator(6, model_dim=8,
num_classes=5, num_heads=2, depth=4)` (run in float64), `ActionExpertMLP(12, 7, 16, 2, 5)` and
`ActionExpertDiT(12, 3, 4, 8, 2, 2)` all parameters were set to normal numbers of deviation 0.2
(torch.Generator seeds 1, 2, 3); stored are inputs, outputs, loss, and the weights before and after one step
of AdamW with the loss and rates of its training scripts. The JSON holds its schedules, sampler, metrics,
relative target and parameter counts.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lary_policy.actions.embodiment import load_embodiment
from lary_policy.errors import WeightsMismatchError
from lary_policy.heads.attentive import AttentiveProbe
from lary_policy.heads.config import TrainConfig, load_head_config
from lary_policy.heads.dit import DiffusionExpert, DiffusionExpertConfig, diffusion_objective, squared_cosine
from lary_policy.heads.files import load_reference_head, reference_weights
from lary_policy.heads.mlp import ActionExpert
from lary_policy.heads.objective import Batch, action_objective, class_objective, share_of
from lary_policy.heads.training.batches import balanced_order
from lary_policy.heads.training.epoch import REFERENCE_SWEEP, learning_rate

GOLDEN = Path(__file__).parents[1] / "golden"
TENSORS = load_file(GOLDEN / "heads_reference.safetensors")
FACTS = json.loads((GOLDEN / "heads_reference.json").read_text())
TIGHT = {"rtol": 1e-5, "atol": 1e-5}


def part(prefix):
    return {k.removeprefix(f"{prefix}/"): v for k, v in TENSORS.items() if k.startswith(f"{prefix}/")}


def loaded(head, name):
    head.load_state_dict(reference_weights(part(f"{name}/before")))
    return head


def one_step(head, loss, lr, decay):
    optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=decay)
    loss.backward()
    optimiser.step()
    return head.state_dict()


def assert_stepped(weights, name):
    expected = reference_weights(part(f"{name}/after"))
    assert weights.keys() == expected.keys()
    for key, value in weights.items():
        wanted = expected[key]
        if key.endswith("kv.bias"):
            # A bias of all keys moves all scores alike: its gradient is 0 but for rounding, and Adam scales
            # that up. Queries and values are left.
            thirds = key.endswith("qkv.bias")
            value, wanted = (torch.cat(v.chunk(3)[::2]) if thirds else v.chunk(2)[1] for v in (value, wanted))
        torch.testing.assert_close(value.float(), wanted, **TIGHT, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(
    ("name", "frames", "max_frames"),
    [("probe_video", 3, 16), ("probe_tokens", 1, 8), ("probe_long", 6, 4)],
)
def test_attentive_probe_output_loss_and_one_step(name, frames, max_frames):
    golden = part(name)
    x = golden["x"].view(4, frames, 1, -1, 6)
    head = AttentiveProbe(tuple(x.shape[1:]), 5, width=8, num_heads=2, max_frames=max_frames)
    loaded(head, name)
    torch.testing.assert_close(head(x), golden["logits"], **TIGHT)
    torch.testing.assert_close(class_objective().loss(head, Batch(x, golden["y"])), golden["loss"], **TIGHT)
    exact, batch = head.double(), Batch(x.double(), golden["y"])
    loss = torch.nn.functional.cross_entropy(exact(*batch.inputs), batch.targets, label_smoothing=0.1)
    assert_stepped(one_step(exact, loss, 5e-3, 0.01), name)


def test_a_time_axis_of_length_one_carries_the_embedding_if_asked():
    """The reference adds it to any 4-D array, so also to the single frame of Wan's pairs."""
    golden, x = part("probe_tokens"), part("probe_tokens")["x"].view(4, 1, 1, 5, 6)
    head = loaded(
        AttentiveProbe((1, 1, 5, 6), 5, width=8, num_heads=2, max_frames=8, temporal="always"), "probe_tokens"
    )
    assert not torch.allclose(head(x), golden["logits"], atol=1e-3)
    head.temporal_embed.data.zero_()
    torch.testing.assert_close(head(x), golden["logits"], **TIGHT)


def test_mlp_expert_output_loss_and_one_step():
    golden = part("mlp")
    head = loaded(ActionExpert((1, 1, 3, 4), 5, 7, width=16), "mlp")
    batch = Batch(golden["x"].view(6, 1, 1, 3, 4), golden["y"].view(6, 5, 7))
    torch.testing.assert_close(head(batch.latents).flatten(1), golden["pred"], **TIGHT)
    loss = action_objective().loss(head, batch)
    torch.testing.assert_close(loss, golden["loss"], **TIGHT)
    assert_stepped(one_step(head, loss, 1e-3, 1e-4), "mlp")


def dit(**changes):
    config = DiffusionExpertConfig(width=8, depth=2, num_heads=2, **changes)
    head = loaded(DiffusionExpert((1, 1, 3, 4), 4, 3, config), "dit")
    golden = part("dit")
    return head, golden, Batch(golden["x"].view(6, 1, 1, 3, 4), golden["y"].view(6, 4, 3))


def test_dit_expert_predicts_the_reference_noise():
    head, golden, batch = dit()
    predicted = head.eval()(batch.latents, noisy=golden["n"], steps=golden["t"])
    torch.testing.assert_close(predicted, golden["eps"], **TIGHT)
    schedule = squared_cosine(1000)
    torch.testing.assert_close(schedule.kept, golden["alphas_cumprod"], rtol=1e-6, atol=0)
    noisy = schedule.add_noise(batch.targets, golden["n"], golden["t"])
    torch.testing.assert_close(noisy, golden["noisy"], **TIGHT)


@pytest.mark.parametrize(("clip", "name"), [(1.0, "clipped"), (None, "unclipped")])
def test_dit_expert_draws_the_reference_samples(clip, name):
    """All 500 ancestral steps, with the reference's clipping and without."""
    head, golden, batch = dit(clip_sample=clip)
    drawn = head.sample(batch.latents, generator=torch.Generator().manual_seed(0))
    expected = golden[f"sample_{name}"].view(6, 4, 3)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_dit_expert_loss_and_one_step():
    head, golden, batch = dit()
    torch.manual_seed(5)
    loss = diffusion_objective(head.config).loss(head.train(), batch)
    torch.testing.assert_close(loss, golden["loss"], **TIGHT)
    assert_stepped(one_step(head, loss, 1e-3, 1e-4), "dit")


def test_parameter_counts_of_the_reference():
    with torch.device("meta"):
        full = DiffusionExpert((1, 1, 2, 32), 5, 7, DiffusionExpertConfig())
        assert sum(p.numel() for p in full.parameters()) == FACTS["dit_params"]  # 19.34 M
        for width, count in FACTS["mlp_params"].items():
            head = ActionExpert((1, 1, 1, int(width)), 5, 7)
            assert sum(p.numel() for p in head.parameters()) == count


def test_rates_and_decays_of_the_sweep_point_by_point():
    sweep = load_head_config("attentive-sweep").train
    assert sweep.sweep == REFERENCE_SWEEP
    for (lr, decay), curve in zip(REFERENCE_SWEEP, FACTS["cosine_sweep"], strict=True):
        config = TrainConfig(lr=lr, warmup_fraction=sweep.warmup_fraction, schedule=sweep.schedule)
        rates, decays = zip(*curve, strict=True)
        assert [learning_rate(s, 30, config) for s in range(30)] == pytest.approx(rates, rel=1e-12, abs=1e-15)
        assert decays == pytest.approx([decay] * 30)


def test_constant_rate_after_warm_up_point_by_point():
    config = load_head_config("mlp-reference").train
    ours = [learning_rate(s, 28, config) for s in range(28)]
    assert ours == pytest.approx(FACTS["constant_warmup"], rel=1e-12)


def test_class_balanced_draws_are_the_reference_indices():
    targets = torch.tensor(FACTS["sampler"]["targets"])
    for key, ranks in FACTS["sampler"]["drawn"].items():
        world, epoch = map(int, key.split("/"))
        order = balanced_order(targets, epoch)
        for rank, expected in enumerate(ranks):
            share = share_of(len(order), rank, world)
            # The reference draws until every process has as many; ours leaves the last batch uneven.
            size = len(share.positions)
            if len(targets) % world == 0 or world == 1:
                assert order[share.positions].tolist() == expected
            else:
                padded = np.random.default_rng(epoch)
                weights = 1 / torch.bincount(targets)[targets].double().numpy()
                total = -(-len(targets) // world) * world
                full = padded.choice(len(targets), total, p=weights / weights.sum())
                assert full[rank::world].tolist() == expected
                assert full[:size].tolist() == order[:size].tolist()


def test_errors_by_number_and_group_are_the_reference_metrics():
    names = {"calvin": "arm7", "vlabench": "arm7", "robocoin": "arm12", "agibotbeta": "arm16"}
    for dataset, facts in FACTS["metrics"].items():
        embodiment = load_embodiment(names[dataset])
        shape = (-1, 3, embodiment.action_dim)
        squared = torch.tensor(facts["pred"]).view(shape) - torch.tensor(facts["target"]).view(shape)
        by_dim = squared.square().mean((0, 1))
        assert float(by_dim.mean()) == pytest.approx(facts["mse"], rel=1e-6)
        assert by_dim.tolist() == pytest.approx(list(facts["dim"].values()), rel=1e-6)
        assert list(facts["dim"]) == [label.replace("_gripper", "_g") for label in embodiment.labels]
        groups = embodiment.group_indices()
        for name, value in facts["group"].items():
            ours = by_dim[list(groups[name.removeprefix("mse_")])].mean()
            assert float(ours) == pytest.approx(value, rel=1e-6), f"{dataset} {name}"


def test_checkpoints_of_the_reference_load_safely(tmp_path):
    torch.save({"model_state_dict": part("mlp/before")}, tmp_path / "best_model.pth")
    sweep = [{f"module.{k}": v for k, v in part(f"probe_video/{s}").items()} for s in ("before", "after")]
    torch.save({"classifiers": sweep, "epoch": 20}, tmp_path / "latest.pt")
    expert = ActionExpert((1, 1, 3, 4), 5, 7, width=16)
    load_reference_head(expert, tmp_path / "best_model.pth")
    golden = part("mlp")
    ours = expert(golden["x"].view(6, 1, 1, 3, 4)).flatten(1)
    torch.testing.assert_close(ours, golden["pred"], **TIGHT)
    probe = AttentiveProbe((3, 1, 3, 6), 5, width=8, num_heads=2, max_frames=16)
    load_reference_head(probe, tmp_path / "latest.pt", member=1)
    assert torch.equal(probe.linear.bias, part("probe_video/after")["classifier.linear.bias"])
    with pytest.raises(WeightsMismatchError, match="head 2 of a LARYBench checkpoint"):
        load_reference_head(probe, tmp_path / "latest.pt", member=2)
    with pytest.raises(WeightsMismatchError, match="fits AttentiveProbe"):
        load_reference_head(probe, tmp_path / "best_model.pth")
    torch.save({"model_state_dict": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(WeightsMismatchError, match=r"code\.pth"):
        load_reference_head(probe, tmp_path / "code.pth")
