"""Trained encoders through LeRobot's own saving, loading and adapters."""

import pytest
import torch
from safetensors import safe_open
from tiny_lary import batch, config

from lary_policy.errors import WeightsMismatchError
from lary_policy.policy.modeling_lary import LaryPolicy


def policy_with(**changes) -> LaryPolicy:
    settings = config(encoder="dinov2-small", weights="tiny-random")
    for name, value in {"image_px": 28, "trainable_blocks": 1, **changes}.items():
        setattr(settings.encoder, name, value)
    return LaryPolicy(settings)


def step(policy: torch.nn.Module, settings) -> dict[str, torch.Tensor]:
    """Take a step and return the gradients that were not zero."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    loss, _ = policy.forward(batch(settings, training=True))
    loss.backward()
    optimiser.step()
    moved = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None and bool(p.grad.any())}
    policy.zero_grad()
    return moved


@pytest.mark.parametrize("trainable", ["last", "all", "lora"])
def test_what_was_trained_comes_back(trainable, tmp_path):
    policy = policy_with(trainable=trainable).train()
    assert any(name.startswith("encoder.backbone") for name in step(policy, policy.config))
    policy.eval().save_pretrained(tmp_path)
    loaded = LaryPolicy.from_pretrained(tmp_path)
    assert loaded.config.encoder == policy.config.encoder
    seen = batch(policy.config)
    assert torch.equal(loaded.predict_action_chunk(seen), policy.predict_action_chunk(seen))


def test_stored_weights_count_more_than_a_changed_seed(tmp_path):
    policy = policy_with()
    policy.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    loaded = LaryPolicy.from_pretrained(tmp_path)
    seen = batch(policy.config)
    assert torch.equal(loaded.predict_action_chunk(seen), policy.eval().predict_action_chunk(seen))
    assert loaded.encoder.fingerprint != policy.encoder.fingerprint
    with pytest.raises(WeightsMismatchError, match=r"tiny-random-seed0.*tiny-random-seed1"):
        LaryPolicy(loaded.config).encoder(torch.zeros(1, 3, 8, 8))


def test_adapters_of_lerobots_peft_learn_and_are_saved(tmp_path):
    from peft import PeftModel

    policy_with().save_pretrained(tmp_path / "base")
    base = LaryPolicy.from_pretrained(tmp_path / "base")
    base.config.pretrained_path = tmp_path / "base"
    wrapped = base.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2})
    adapters = {n for n, p in wrapped.named_parameters() if p.requires_grad and "encoder.backbone" in n}
    assert adapters
    step(wrapped.train(), base.config)
    moved = step(wrapped, base.config)
    assert {n for n in moved if "encoder.backbone" in n} == adapters
    wrapped.save_pretrained(tmp_path / "adapters")
    with safe_open(tmp_path / "adapters" / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    assert len([k for k in stored if "encoder.backbone" in k]) == len(adapters)
    assert not [k for k in stored if "base_layer" in k]
    again = PeftModel.from_pretrained(LaryPolicy.from_pretrained(tmp_path / "base"), tmp_path / "adapters")
    seen = batch(base.config)
    before = wrapped.eval().base_model.model.predict_action_chunk(seen)
    assert torch.equal(again.eval().base_model.model.predict_action_chunk(seen), before)
