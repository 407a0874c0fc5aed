"""What a checkpoint holds of an encoder, and what loading it refuses."""

import copy
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from lary_policy.encoders import base, weights_status
from lary_policy.encoders.base import encoder_spec, load_encoder
from lary_policy.encoders.families.transformers_vit import TransformersVit, register_vits
from lary_policy.encoders.weights.places import WeightsSource
from lary_policy.errors import WeightsMismatchError, WeightsMissingError
from lary_policy.policy.configuration_lary import EncoderConfig
from lary_policy.policy.encoder.observation import ObservationEncoder
from lary_policy.policy.encoder.state import load_exactly

IMAGES = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
WIDTH, DEPTH = 16, 3  # of the small encoder that has a file
BACKBONE = "left.encoder.backbone."


class Policy(nn.Module):
    """Two cameras that share an encoder, and a head; saved and loaded as LeRobot saves and loads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        encoder = ObservationEncoder(config)
        self.left, self.right = (nn.ModuleDict({"encoder": encoder}) for _ in range(2))
        self.head = nn.Linear(encoder.embed_dim, 2)
        load_exactly(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.left["encoder"].pooled(images) + self.right["encoder"].pooled(images))

    def save(self, path: Path) -> EncoderConfig:
        """Write the weights and return the configuration as a file would give it back."""
        save_model(self, str(path))
        return EncoderConfig(**dataclasses.asdict(self.config))

    @classmethod
    def load(cls, path: Path, config: EncoderConfig, *, strict: bool = False) -> "Policy":
        policy = cls(config)
        load_model(policy, path, strict=strict)
        return policy


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Iterator[Path]:
    """Return the weight file of a small DINOv2 that is registered as `small-vit` meanwhile."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "image_size": 28}
    vit = TransformersVit("Dinov2Model", {**sizes, "patch_size": 14}, prefix_tokens=1)
    spec = encoder_spec("dinov2-small")
    latent = dataclasses.replace(spec.latent, width=WIDTH)
    small = dataclasses.replace(spec, name="small-vit", latent=latent, weights=WeightsSource())
    register_vits([small], {"small-vit": vit})
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    backbone = load_encoder("small-vit", weights="random", image_px=28, seed=3).model.backbone
    save_file({k: v.contiguous() for k, v in backbone.state_dict().items()}, path)
    yield path
    del base._REGISTRY["small-vit"]


def real(source: Path, **changes) -> EncoderConfig:
    return EncoderConfig(**{"name": "small-vit", "weights": str(source), "image_px": 28, **changes})


def toy(**changes) -> EncoderConfig:
    return EncoderConfig(**{"weights": "tiny-random", "image_px": 28, "trainable_blocks": 1, **changes})


def train(policy: Policy) -> None:
    """Take two steps, so that both halves of each adapter have moved."""
    optimiser = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        policy(IMAGES).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("strict", [False, True])
def test_a_frozen_encoder_is_a_reference(source, tmp_path, strict):
    policy = Policy(real(source))
    config = policy.save(tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == {"head.weight", "head.bias"}
    assert config.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert config.revision == "local model.safetensors"
    loaded = Policy.load(tmp_path / "model.safetensors", config, strict=strict)
    assert torch.equal(loaded(IMAGES), policy(IMAGES))
    assert loaded.left["encoder"].fingerprint == policy.left["encoder"].fingerprint


def test_other_weights_are_refused_with_both_hashes(source, tmp_path):
    config = Policy(real(source)).save(tmp_path / "model.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({k: v + 1 for k, v in load_file(source).items()}, other)
    changed = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(WeightsMismatchError, match=f"{config.sha256}.*{changed}.*encoder.weights=<path>"):
        Policy.load(tmp_path / "model.safetensors", dataclasses.replace(config, weights=str(other)))


def test_absent_weights_are_an_error_that_says_what_to_do(source, tmp_path):
    moved = tmp_path / "hidden.safetensors"
    moved.write_bytes(source.read_bytes())
    config = Policy(real(moved)).save(tmp_path / "model.safetensors")
    moved.unlink()
    with pytest.raises(WeightsMissingError) as caught:
        Policy.load(tmp_path / "model.safetensors", config)
    for words in (
        str(config.sha256),
        "--policy.encoder.weights=<path>",
        "save=true",
        "local hidden.safetensors",
    ):
        assert words in str(caught.value)
    again = dataclasses.replace(config, weights=str(source))  # the same file elsewhere
    assert Policy.load(tmp_path / "model.safetensors", again)(IMAGES).shape == (1, 2)


@pytest.mark.parametrize(
    "changes", [{"save": True}, {"trainable": "last"}, {"trainable": "lora", "save": True}]
)
def test_embedded_weights_need_no_file(source, tmp_path, changes):
    moved = tmp_path / "hidden.safetensors"
    moved.write_bytes(source.read_bytes())
    policy = Policy(real(moved, **changes))
    train(policy)
    config = policy.save(tmp_path / "model.safetensors")
    moved.unlink()
    loaded = Policy.load(tmp_path / "model.safetensors", config)
    assert torch.equal(loaded(IMAGES), policy(IMAGES))
    # Random weights stood there until it was loaded; their fingerprint is not this encoder's.
    drawn = load_encoder("small-vit", weights="random", image_px=28)
    assert loaded.left["encoder"].fingerprint != drawn.fingerprint


def test_nothing_is_encoded_with_weights_that_never_came(source, tmp_path):
    moved = tmp_path / "hidden.safetensors"
    moved.write_bytes(source.read_bytes())
    config = Policy(real(moved, save=True)).save(tmp_path / "model.safetensors")
    moved.unlink()
    unloaded = Policy(config)
    for policy in (unloaded, copy.deepcopy(unloaded)):
        with pytest.raises(WeightsMissingError, match=r"local hidden\.safetensors"):
            policy(IMAGES)


def test_adapters_are_stored_without_what_they_adapt(source, tmp_path):
    policy = Policy(real(source, trainable="lora"))
    train(policy)
    config = policy.save(tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    adapters = {k for k in stored if ".lora_" in k}
    assert len(adapters) == 2 * 2 * DEPTH  # A and B of two projections a block, once for both cameras
    assert set(stored) - adapters == {"head.weight", "head.bias"}
    assert sum(v.numel() for k, v in stored.items() if k in adapters) == 2 * 2 * DEPTH * 8 * WIDTH
    loaded = Policy.load(tmp_path / "model.safetensors", config)
    assert torch.equal(loaded(IMAGES), policy(IMAGES))


@pytest.mark.parametrize("changes", [{}, {"trainable": "lora"}, {"trainable": "last"}, {"trainable": "all"}])
def test_drawn_weights_are_stored(tmp_path, changes):
    policy = Policy(toy(**changes))
    if changes:
        train(policy)
    config = policy.save(tmp_path / "model.safetensors")
    stored = {k for k in load_file(tmp_path / "model.safetensors") if k.startswith("left.encoder.")}
    assert len(stored) == len(policy.left["encoder"].backbone.state_dict())
    loaded = Policy.load(tmp_path / "model.safetensors", config, strict=True)
    assert torch.equal(loaded(IMAGES), policy(IMAGES))


def test_save_false_leaves_drawn_weights_to_their_seed(tmp_path):
    policy = Policy(toy(save=False))
    config = policy.save(tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == {"head.weight", "head.bias"}
    assert torch.equal(Policy.load(tmp_path / "model.safetensors", config)(IMAGES), policy(IMAGES))


def test_a_checkpoint_with_an_encoder_loads_where_it_would_not_be_stored(tmp_path):
    policy = Policy(toy(save=True))
    config = policy.save(tmp_path / "model.safetensors")
    with torch.no_grad():
        loaded = Policy.load(
            tmp_path / "model.safetensors", dataclasses.replace(config, save=False), strict=True
        )
    assert torch.equal(loaded(IMAGES), policy(IMAGES))


def test_a_trained_encoder_that_is_frozen_later_stays_in_checkpoints(source, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    policy = Policy(real(source, trainable="last"))
    untrained = policy.left["encoder"].fingerprint
    train(policy)
    frozen = dataclasses.replace(policy.save(first), trainable="none")
    loaded = Policy.load(first, frozen)
    assert not any(p.requires_grad for p in loaded.left.parameters())
    assert loaded.left["encoder"].fingerprint != untrained
    again = Policy.load(second, loaded.save(second))
    for twin in (loaded, again):
        assert torch.equal(twin(IMAGES), policy(IMAGES))
    assert again.left["encoder"].fingerprint == loaded.left["encoder"].fingerprint
    with pytest.raises(WeightsMismatchError, match="the encoder was trained"):
        Policy.load(first, dataclasses.replace(frozen, save=False))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tensors: tensors.pop("head.bias"), "head.bias missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra not in the policy"),
        (
            lambda tensors: tensors.update({"head.bias": torch.zeros(3)}),
            r"head.bias is \(3,\), policy \(2,\)",
        ),
        (lambda tensors: tensors.pop(f"{BACKBONE}backbone.layernorm.bias"), "layernorm.bias missing"),
        (lambda tensors: tensors.update({f"{BACKBONE}x": torch.zeros(1)}), f"{BACKBONE}x not in the policy"),
    ],
)
def test_tensors_that_do_not_fit_are_named_though_loading_is_not_strict(tmp_path, edit, words):
    path = tmp_path / "model.safetensors"
    config = Policy(toy()).save(path)
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(WeightsMismatchError, match=words):
        Policy.load(path, config, strict=False)


def test_parts_of_a_policy_and_policies_in_wrappers_load_as_torch_does_it():
    policy = Policy(toy())
    policy.head.load_state_dict({"bias": torch.ones(2)}, strict=False)
    assert torch.equal(policy.head.bias, torch.ones(2))
    wrapper = nn.ModuleDict({"policy": policy})
    assert wrapper.load_state_dict({}, strict=False).missing_keys


def test_copies_keep_their_hooks(source):
    policy = copy.deepcopy(Policy(real(source)))
    assert set(policy.state_dict()) == {"head.weight", "head.bias"}
    with pytest.raises(WeightsMismatchError, match=r"head\.bias missing"):
        policy.load_state_dict({"head.weight": policy.head.weight}, strict=False)
    policy.load_state_dict(policy.state_dict(), strict=True)
    assert policy.left["encoder"].encoder.model is policy.right["encoder"].backbone


def test_the_real_dinov2_small_is_a_reference(tmp_path):
    status = weights_status("dinov2-small")
    if not status.available:
        pytest.skip(status.fix)
    policy = Policy(EncoderConfig(image_px=56))
    policy.save(tmp_path / "model.safetensors")
    assert set(load_file(tmp_path / "model.safetensors")) == {"head.weight", "head.bias"}
    assert (policy.config.sha256, policy.config.revision) == (status.sha256, status.source)
    assert len(policy.config.sha256) == 64
    assert not any(p.requires_grad for p in policy.left.parameters())
