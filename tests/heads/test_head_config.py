from dataclasses import asdict

import pytest
import torch

from lary_policy.errors import ConfigError, UnknownNameError
from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.config import (
    TrainConfig,
    list_head_configs,
    load_head_config,
    parse_head_config,
    parse_model_config,
)
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import build_module
from lary_policy.machine import autocast, resolve_precision


@pytest.mark.parametrize("name", list_head_configs())
def test_every_shipped_configuration_parses_and_round_trips(name):
    config = load_head_config(name)
    assert parse_model_config(config.model.kind, asdict(config.model)) == config.model
    assert config.label.startswith(config.model.kind)


def test_reference_configurations_are_the_defaults_of_the_classes():
    assert load_head_config("mlp-reference").model == ActionExpertConfig()
    assert load_head_config("mlp-reference").train == TrainConfig(precision="float32")
    assert load_head_config("attentive-reference").model == AttentiveProbeConfig()


def test_reference_heads_compute_as_the_reference_does_whatever_the_machine_offers():
    """Regression in float32; classes in bfloat16 and validated in float32 (protocol sections 4.2 and 5.3)."""
    found = {
        name: (config.precision, config.val_precision, config.select)
        for name in list_head_configs()
        if "reference" in name or "sweep" in name
        for config in [load_head_config(name).train]
    }
    assert found == {
        "attentive-reference": ("bfloat16", "float32", "last"),
        "attentive-sweep": ("bfloat16", "float32", "last"),
        "dit-reference": ("float32", None, "best"),
        "mlp-reference": ("float32", None, "best"),
    }


def test_the_small_mlp_is_as_described():
    small = load_head_config("mlp-small")
    assert small.model == ActionExpertConfig(512, 2, PoolConfig("project", width=32))
    assert small.label == "mlp512-project32"


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'mlp-small'\?"):
        load_head_config("mlp-smal")
    with pytest.raises(UnknownNameError, match="attentive, dit, mlp"):
        parse_head_config({"kind": "dti"})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "mlp", "widht": 3}, r"fields of head: kind|fields of head: .*widht"),
        ({"kind": "mlp", "pool": {"kind": "flatten", "size": 3}}, r"head\.pool.*got size"),
        ({"kind": "mlp", "train": {"epoch": 3}}, r"head\.train.*got epoch"),
        ({"kind": "mlp", "train": {"epochs": 0}}, "epochs >= 1"),
        ({"kind": "mlp", "train": {"lr": -1.0, "warmup_fraction": 1.0}}, r"lr > 0; 0 <= warmup_fraction < 1"),
        ({"kind": "mlp", "train": {"schedule": "step"}}, "schedule constant or cosine"),
        ({"kind": "mlp", "train": {"precision": "float16"}}, "precision"),
        ({"kind": "mlp", "train": {"grad_clip": 0.0}}, "grad_clip"),
        ({"kind": "mlp", "width": "wide"}, "width 'wide'"),
        ({"kind": "mlp", "width": 16.5}, "width 16.5"),
        ({"kind": "mlp", "train": {"epochs": True}}, "epochs True"),
        ({"kind": "mlp", "train": [1]}, r"fields of head\.train by name"),
        ({"kind": "mlp", "train": {"sweep": [[1e-3, "x"]]}}, "TrainConfig"),
    ],
)
def test_misspelled_and_impossible_values_are_refused(raw, message):
    with pytest.raises(ConfigError, match=message):
        parse_head_config(raw)


def test_building_depends_on_the_seed_alone():
    config = ActionExpertConfig(16, 1)
    state = torch.random.get_rng_state()
    heads = [build_module(config, (1, 1, 2, 3), chunk=1, action_dim=2, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(heads[0].fc_in.weight, heads[1].fc_in.weight)
    assert not torch.equal(heads[0].fc_in.weight, heads[2].fc_in.weight)


@pytest.mark.parametrize("kind", ["amx_tile", "avx512_bf16"])
def test_automatic_precision_follows_the_hardware(kind, monkeypatch):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    assert resolve_precision("auto", "cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, f"_is_{kind}_supported", lambda: True)
    assert resolve_precision("auto", "cpu") == torch.bfloat16
    monkeypatch.delattr(torch.cpu, f"_is_{kind}_supported")
    assert resolve_precision("auto", "cpu") == torch.float32
    assert resolve_precision("bfloat16", "cpu") == torch.bfloat16
    assert resolve_precision("float32", "cuda") == torch.float32


def test_autocast_multiplies_in_the_precision_and_leaves_float32_alone():
    linear, x = torch.nn.Linear(4, 4), torch.zeros(1, 4)
    with autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16
    with autocast("cpu", torch.float32):
        assert linear(x).dtype == torch.float32
