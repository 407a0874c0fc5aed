"""`lary doctor --device`: what a device computes is compared with the CPU before it is trusted."""

from __future__ import annotations

import copy

import pytest
import torch

from lary_policy import cli
from lary_policy.cli import device as device_module
from lary_policy.encoders import load_encoder
from lary_policy.encoders.check import require_encoder_like_cpu
from lary_policy.errors import DeviceError
from lary_policy.heads import build_module, load_head_config
from lary_policy.heads.training import LatentBatches
from lary_policy.heads.training import check as heads_check
from lary_policy.machine import require_like_cpu


def test_the_cpu_is_like_itself_and_a_wrong_device_is_named(capsys, monkeypatch):
    kept = device_module._play("cpu")
    monkeypatch.setattr(device_module, "_play", lambda where: kept)  # once is enough here
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "5 of 5 comparisons with the CPU hold. It can be trusted." in said
    moved = (kept[0], kept[1] + torch.tensor([0.0, 0.002, 0.0]))
    played = iter([kept, moved])
    monkeypatch.setattr(device_module, "_play", lambda where: next(played))
    monkeypatch.setattr(device_module, "_encoder", lambda name, where: 1 / 0)
    assert cli.main(["doctor", "--device=cpu"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "2.0 mm on cpu" in said
    assert "ZeroDivisionError" in said
    assert "1 of 5 comparisons" in said
    assert "trusted" not in said


@pytest.mark.parametrize("words", [["--device"], ["--device", "cpu", "x"], ["--cuda"], ["device=gpu"]])
def test_wrong_words_name_the_right_ones(words, capsys):
    assert cli.main(["doctor", *words]) == 2
    assert "auto, cpu, cuda" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "part", "passes"), [
    (torch.float32, 0.005, True), (torch.float32, 0.02, False), (torch.bfloat16, 0.05, True),
    (torch.bfloat16, 0.2, False), (torch.float16, 0.02, True), (torch.float16, 0.05, False),
])  # fmt: skip
def test_the_limit_is_that_of_the_precision(precision, part, passes):
    expected = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    if passes:
        require_like_cpu("x", expected * (1 + part), expected, precision)
        return
    with pytest.raises(DeviceError, match=f"{part:.3g} in the worst tenth of 40"):
        require_like_cpu("x", expected * (1 + part), expected, precision)


def test_a_few_other_vectors_are_rounding_and_many_are_not():
    expected = torch.randn(100, 7, generator=torch.Generator().manual_seed(0))
    for count, wrong in ((8, False), (15, True)):
        for value in (-1.0, torch.nan, torch.inf):
            got = expected.clone()
            got[:count] *= value
            if not wrong:
                require_like_cpu("x", got, expected, torch.float32)
                continue
            with pytest.raises(DeviceError):
                require_like_cpu("x", got, expected, torch.float32)
    with pytest.raises(DeviceError, match="inf"):
        require_like_cpu("x", expected[:, :3], expected, torch.float32)


def test_an_encoder_with_other_weights_is_found():
    encoders = [load_encoder("efficientnet-lite0", weights="random", image_px=64, seed=s) for s in (0, 1)]
    facts = {"image_px": 64, "dtype": torch.float32}
    require_encoder_like_cpu(encoders[0], lambda: encoders[0], **facts)
    with pytest.raises(DeviceError, match="efficientnet-lite0 on cpu"):
        require_encoder_like_cpu(encoders[0], lambda: encoders[1], **facts)


def test_a_head_that_answers_otherwise_is_found(monkeypatch):
    latents = torch.randn(12, 9, 8, generator=torch.Generator().manual_seed(0))
    samples = LatentBatches(latents, torch.arange(12).view(12, 1, 1), torch.zeros(12, 4, 7))
    head = build_module(load_head_config("mlp-small").model, samples.latent_shape, chunk=4, action_dim=7)
    torch.nn.init.normal_(list(head.parameters())[-2], generator=torch.Generator().manual_seed(0))
    heads_check.require_heads_like_cpu([head], samples)
    assert head.training

    def changed(module):
        other = copy.deepcopy(module)
        list(other.parameters())[-2].data.mul_(1.1)
        return other

    monkeypatch.setattr(heads_check, "copy", type("copy", (), {"deepcopy": staticmethod(changed)}))
    with pytest.raises(DeviceError, match="ActionExpert on cpu"):
        heads_check.require_heads_like_cpu([head], samples)
