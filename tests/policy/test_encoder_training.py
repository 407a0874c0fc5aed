"""What of an encoder trains, and that nothing else does."""

import pytest
import torch
from torch import nn

from lary_policy.encoders.base import load_encoder
from lary_policy.errors import ConfigError
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.encoder import training as training_module
from lary_policy.policy.encoder.observation import ObservationEncoder

# Encoders of each kind; DINOv2 and V-JEPA 2 name their projections differently, villa-X has them in one.
KINDS = {"dinov2-small": 1, "univla": 2, "villa-x": 2, "vjepa2-large": 2, "lapa-dinov2": 2}
PX = {"vjepa2-large": 64}


def tiny(name: str = "dinov2-small", **changes) -> ObservationEncoder:
    config = {"name": name, "weights": "tiny-random", "image_px": PX.get(name, 56), "trainable_blocks": 1}
    return ObservationEncoder(EncoderConfig(**{**config, **changes}))


def images(name: str = "dinov2-small", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, KINDS.get(name, 1), 3, 32, 32, generator=generator)


def learn(encoder: ObservationEncoder, name: str = "dinov2-small", steps: int = 1) -> None:
    """Leave the gradients of the last of some steps towards larger tokens."""
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        tokens = encoder(images(name))
        weights = torch.linspace(-1, 1, tokens.numel()).view_as(tokens)
        (tokens * weights).sum().backward()
        optimiser.step()


def moved(encoder: ObservationEncoder) -> set[str]:
    """Return the names of parameters with a gradient other than zero."""
    return {n for n, p in encoder.named_parameters() if p.grad is not None and bool(p.grad.any())}


def trained(encoder: ObservationEncoder) -> set[str]:
    return {n for n, p in encoder.named_parameters() if p.requires_grad}


def test_a_frozen_encoder_has_no_gradients_and_stays_in_eval_mode():
    encoder = tiny()
    policy = nn.Sequential(encoder, nn.Linear(encoder.embed_dim, 3)).train()
    assert trained(encoder) == set()
    assert not any(module.training for module in encoder.backbone.modules())
    assert policy(images()).requires_grad  # the head's
    assert not encoder(images()).requires_grad


@pytest.mark.parametrize("name", KINDS)
def test_lora_trains_every_adapter_and_nothing_else(name):
    encoder = tiny(name, trainable="lora", lora_rank=2)
    adapters = trained(encoder)
    assert adapters
    assert all(".lora_A." in n or ".lora_B." in n for n in adapters)
    frozen = load_encoder(name, weights="tiny-random", image_px=PX.get(name, 56))
    before = encoder(images(name))
    # B starts at zero: the adapters change nothing yet, and A has no gradient before B has moved.
    torch.testing.assert_close(before, frozen.encode((images(name) * 255).round().byte().movedim(2, -1)))
    learn(encoder, name)
    assert moved(encoder) == {n for n in adapters if ".lora_B." in n}
    assert not torch.equal(encoder(images(name)), before)
    learn(encoder, name)
    assert moved(encoder) == adapters


@pytest.mark.parametrize("name", ["dinov2-small", "villa-x", "vjepa2-large", "univla"])
def test_last_trains_the_last_blocks_and_the_norm_after_them(name):
    encoder = tiny(name, trainable="last")
    paths = {n.split(".", 1)[1] for n in trained(encoder)}
    blocks = {
        "dinov2-small": ("backbone.encoder.layer.1.", "backbone.layernorm."),
        "villa-x": ("encoder.layers.1.", "encoder.norm."),
        "vjepa2-large": ("backbone.layer.1.", "backbone.layernorm."),
        "univla": ("encoder.transformer_blocks.1.",),
    }[name]
    assert {next((b for b in blocks if p.startswith(b)), p) for p in paths} == set(blocks)
    every = {n for n, _ in encoder.backbone.named_parameters() if n.startswith(blocks)}
    assert paths == every
    before = encoder(images(name))
    learn(encoder, name)
    unused = trained(encoder) - moved(encoder)
    # Keys of softmax attention may shift together without any effect: their bias has no gradient.
    assert all(".bias" in n for n in unused), unused
    assert not torch.equal(encoder(images(name)), before)


def test_blocks_of_a_smaller_number_are_trained_and_a_larger_one_is_refused():
    assert len(trained(tiny(trainable="last", trainable_blocks=2))) == 2 * 18 + 2
    with pytest.raises(ConfigError, match="at most 2"):
        tiny(trainable="last", trainable_blocks=3)


def test_all_trains_everything_that_an_image_reaches():
    encoder = tiny(trainable="all")
    assert trained(encoder) == {n for n, _ in encoder.named_parameters()}
    before = encoder(images())
    learn(encoder)
    # The mask token is of pretraining; a key's bias has no effect on softmax.
    still = {n for n in trained(encoder) - moved(encoder) if "mask_token" not in n}
    assert all(n.endswith("k_proj.bias") for n in still), still
    assert not torch.equal(encoder(images()), before)


@pytest.mark.parametrize(("trainable", "modes"), [("none", 0), ("last", 2), ("lora", 0), ("all", None)])
def test_only_what_trains_follows_into_train_mode(trainable, modes):
    encoder = tiny(trainable=trainable)
    parent = nn.ModuleList([encoder]).train()
    in_train = [m for m in encoder.backbone.modules() if m.training]
    if modes is None:
        assert len(in_train) == len(list(encoder.backbone.modules()))
    else:
        tops = {p for p in encoder._trained if p.training}
        assert len(tops) == modes
        assert len(in_train) == sum(len(list(top.modules())) for top in tops)
    parent.eval()
    assert not any(m.training for m in encoder.modules())


def test_no_graph_is_kept_where_the_caller_wants_none():
    encoder = tiny(trainable="all")
    with torch.no_grad():
        assert not encoder(images()).requires_grad
    with torch.inference_mode():
        assert encoder(images()).is_inference()


def test_adapters_that_others_inject_get_gradients():
    from peft import LoraConfig, inject_adapter_in_model

    encoder = tiny()
    assert not encoder(images()).requires_grad
    inject_adapter_in_model(LoraConfig(r=2, target_modules=r".*q_proj"), encoder)
    learn(encoder)
    assert moved(encoder) == {n for n in trained(encoder) if ".lora_B." in n}
    assert moved(encoder)
    kept = set(encoder.state_dict())
    assert {n for n in kept if "lora_" in n} == trained(encoder)


def test_new_adapters_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = tiny(trainable="lora").state_dict()
    state = torch.get_rng_state()
    second = tiny(trainable="lora").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[n], second[n]) for n in first)
    other = tiny(trainable="lora", seed=1).state_dict()
    assert not all(torch.equal(first[n], other[n]) for n in first if "lora_A" in n)


@pytest.mark.parametrize(
    ("name", "trainable", "words"),
    [
        ("open-magvit2", "last", "stack of equal transformer blocks.*encoder"),
        ("open-magvit2", "lora", r"to_q.*linear layers \(none\)"),
        ("pixels", "all", "parameters to train in 'pixels'"),
        ("pixels", "last", "no layers"),
    ],
)
def test_what_an_encoder_lacks_is_named(name, trainable, words):
    with pytest.raises(ConfigError, match=words):
        tiny(name, trainable=trainable, image_px=None if name != "pixels" else 28)


def test_linear_layers_are_listed_where_no_projection_is_known(monkeypatch):
    monkeypatch.setattr(training_module, "ATTENTION", ("nothing",))
    with pytest.raises(
        ConfigError, match=r"named nothing; got linear layers .*encoder\.layer\.\*\.attention\.k_proj"
    ):
        tiny(trainable="lora")


def test_codebook_vectors_cannot_be_trained_through():
    with pytest.raises(ConfigError, match=r"codebook vectors of 'univla'.*output=continuous"):
        tiny("univla", trainable="lora", output="quantised")


def test_without_peft_the_command_is_named(monkeypatch):
    monkeypatch.setattr(training_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "peft>=0\.18,<1"'):
        tiny(trainable="lora")
