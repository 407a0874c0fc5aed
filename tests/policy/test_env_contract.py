"""Policies meet environments: what they must agree on, before the first step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import pytest
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import make_policy
from tiny_lary import ACTION, config

from lary_envs.gym.lerobot import LarySimEnv
from lary_policy.actions.contract import ActionContract
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.policy.features import own_contract, require_env
from lary_policy.policy.modeling_lary import LaryPolicy

ARM7 = ActionContract.of(load_embodiment("arm7"), "absolute")


@dataclass
class Contracted(PolicyFeature):
    """A feature as an environment hands it over."""

    contract: dict = field(default_factory=dict)
    cameras: tuple[str, ...] | None = None


def met(contract=ARM7, cameras=None, seen=("top",), **values):
    """Let a policy's configuration meet an environment's action feature."""
    known = {"embodiment": "arm7", "control_hz": 20.0, "action_dim": 7, **values}
    length = known.pop("action_dim")
    settings = config(cameras=seen, **known)
    settings.action_dim = length
    feature = Contracted(FeatureType.ACTION, (len(contract.labels),), asdict(contract), cameras)
    settings.output_features = {ACTION: feature}
    require_env(settings)


def test_a_policy_states_its_contract():
    settings = config(embodiment="arm7", control_hz=20.0)
    assert own_contract(settings) == asdict(ARM7)
    assert own_contract(config()) == {"target": "absolute"}
    met()
    met(embodiment=None, control_hz=None, action_dim=None)  # nothing is known, nothing contradicts
    met(action_mode="relative")  # what leaves the postprocessor is absolute


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({}, replace(ARM7, control_hz=10.0)),
        ({}, replace(ARM7, target="relative_to_command")),
        ({}, replace(ARM7, labels=("y", "x", *ARM7.labels[2:]))),
        ({}, replace(ARM7, conventions=("xyz_base_frame cm",) * 7)),
        ({"embodiment": "arm6"}, ARM7),
        ({"embodiment": None, "action_feature_names": ["a", "b", "c", "d", "e", "f", "g"]}, ARM7),
        ({}, ActionContract.of(load_embodiment("arm16"), "absolute")),
        ({"action_dim": 6}, ARM7),
    ],
)
def test_what_differs_is_printed_from_both_sides(changes, theirs):
    with pytest.raises(EmbodimentError) as caught:
        met(theirs, **changes)
    message = str(caught.value)
    assert "policy" in message
    if len(theirs.labels) == 7 and "action_dim" not in changes:
        assert "(of the policy)" in message
        assert "(of the environment)" in message


def test_a_missing_camera_is_refused_by_both_lists():
    both = ("observation.images.top", "observation.images.wrist")
    met(cameras=both)
    with pytest.raises(ConfigError, match=r"observation.images.top, .*wrist.*got observation.images.top"):
        met(cameras=both[:1], seen=("top", "wrist"))


def test_lerobot_refuses_a_checkpoint_in_another_simulation(tmp_path):
    settings = config(cameras=("front",), embodiment="arm7", control_hz=20.0)
    LaryPolicy(settings).save_pretrained(tmp_path)

    def meet(task):
        loaded = PreTrainedConfig.from_pretrained(tmp_path)
        loaded.pretrained_path = tmp_path
        return make_policy(loaded, env_cfg=LarySimEnv(task=task))

    assert meet("reach").config.action_dim == 7
    with pytest.raises(EmbodimentError, match="7 numbers"):
        meet("dual_reach")
    settings.control_hz = 10.0
    settings.save_pretrained(tmp_path)
    with pytest.raises(EmbodimentError, match=r"control_hz 10.0 \(of the policy\)"):
        meet("reach")
