"""A probe's head as a policy: the plans of the rollouts' agent, LeRobot's checkpoint, refusals by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from tiny_lary import PX, STATE, config

from lary_policy.actions.contract import ActionContract
from lary_policy.actions.embodiment import load_embodiment
from lary_policy.actions.statistics import ActionStats
from lary_policy.encoders.base import load_encoder
from lary_policy.encoders.kinds import pair_spec
from lary_policy.errors import ConfigError, EmbodimentError, HeadMismatchError
from lary_policy.heads.config import parse_head_config
from lary_policy.heads.files import HeadMeta, build_head, save_head
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.rollout.agents import HeadAgent, Observation

ARM7 = load_embodiment("arm7")
STATS = ActionStats((0.5, 0.0, 0.2, 0.0, 0.0, 0.1, 0.5), (0.1, 0.2, 0.1, 0.05, 0.05, 0.3, 0.5), 100)
PROPRIO = ActionStats((0.4, 0.1, 0.3, 0.0, 0.0, 0.0, 0.5), (0.2,) * 7, 100)
CAMERAS = ("front", "wrist")
HEADS = {
    "mlp": {"kind": "mlp", "width": 16, "num_blocks": 1, "pool": {"kind": "mean"}},
    "dit": {
        "kind": "dit",
        "width": 16,
        "depth": 1,
        "num_heads": 2,
        "sample_steps": 4,
        "pool": {"kind": "mean"},
    },
}


def probe(folder, encoder, head="mlp", proprio=True, **changes):
    """Write what `lary probe` leaves of a head with random weights."""
    still = encoder.latent.kind == "frame"
    latent = encoder.latent if still else pair_spec(encoder)
    meta = HeadMeta(
        model=parse_head_config(HEADS[head]).model,
        encoder=encoder.spec.name,
        fingerprint=encoder.fingerprint,
        latent_shape=(1, len(CAMERAS), latent.tokens, latent.width),
        cameras=CAMERAS,
        embodiment="arm7",
        task="reach",
        mode="policy",
        target="relative",
        chunk=5,
        action_dim=7,
        stats=STATS,
        proprio_stats=PROPRIO if proprio else None,
        token_grid=latent.grid,
        contract=ActionContract.of(ARM7, "relative"),
    )
    meta = replace(meta, **changes)
    module = build_head(meta)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    save_head(folder, module.eval(), meta)
    return module.eval(), meta


def policy_of(folder, encoder="pixels", weights="auto", cameras=("wrist", "front"), **values):
    settings = config(encoder, weights, cameras, head_from=str(folder), **values)
    policy = LaryPolicy(settings)
    return policy, make_pre_post_processors(settings)


def observations(count=3):
    rng = torch.Generator().manual_seed(4)
    for _ in range(count):
        yield (
            torch.randint(0, 256, (2, len(CAMERAS), PX, PX, 3), dtype=torch.uint8, generator=rng),
            torch.rand(2, 7, generator=rng) * 0.4,
        )


def lerobot(frames, state):
    images = frames.movedim(-1, -3).float() / 255
    return {STATE: state, **{f"observation.images.{c}": images[:, i] for i, c in enumerate(CAMERAS)}}


@pytest.mark.parametrize("head", ["mlp", "dit"])
@pytest.mark.parametrize("target", ["absolute", "relative"])
@pytest.mark.parametrize("proprio", [True, False])
def test_its_chunk_is_the_plan_of_the_rollouts_agent(tmp_path, head, target, proprio):
    encoder = load_encoder("pixels", image_px=PX)
    module, meta = probe(tmp_path / "probe", encoder, head, proprio, target=target)
    policy, (before, after) = policy_of(tmp_path / "probe")
    agent = HeadAgent(encoder, module, ARM7, STATS, target=target, proprio_stats=meta.proprio_stats)
    policy.save_pretrained(tmp_path / "policy")
    before.save_pretrained(tmp_path / "policy")
    after.save_pretrained(tmp_path / "policy")
    loaded = LaryPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.config.head_from is None
    assert loaded.config.control_hz == ARM7.control_hz
    again = make_pre_post_processors(loaded.config, pretrained_path=str(tmp_path / "policy"))
    for index, (frames, state) in enumerate(observations()):
        want = agent.plan(Observation(frames, state, torch.zeros(2, 7), index))
        for each, pre, post in ((policy, before, after), (loaded, *again)):
            got = post(each.predict_action_chunk(pre(lerobot(frames, state))))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lapa", "vjepa2-large"])
def test_an_encoder_of_pairs_sees_the_frames_of_the_last_two_plans(tmp_path, name):
    encoder = load_encoder(name, weights="tiny-random")
    module, _ = probe(tmp_path, encoder)
    policy, (before, after) = policy_of(tmp_path, name, "tiny-random")
    agent = HeadAgent(encoder, module, ARM7, STATS, target="relative", proprio_stats=PROPRIO)
    assert policy.config.observation_delta_indices == [-5, 0]
    for index, (frames, state) in enumerate(observations()):
        want = agent.plan(Observation(frames, state, torch.zeros(2, 7), index))
        for step in range(5):  # what is seen between two plans does not matter
            seen = lerobot(frames if step == 0 else 255 - frames, state)
            torch.testing.assert_close(
                after(policy.select_action(before(seen))), want[:, step], atol=1e-5, rtol=0
            )


def test_what_no_policy_can_be_made_of_is_refused(tmp_path):
    encoder = load_encoder("pixels", image_px=PX)

    def refused(match, settings=None, **changes):
        probe(tmp_path, encoder, **changes)
        with pytest.raises(HeadMismatchError, match=match):
            policy_of(tmp_path, **(settings or {}))

    refused("needs the frame to be reached", mode="pair")
    refused("needs the frame to be reached", mode="subgoal")
    refused("predicts classes", mode="atomic")
    refused("rot6d", rotation="rot6d")
    refused("displacement", target="displacement")
    refused("relative_pose", target="relative_pose")
    refused("--policy.encoder.name=pixels", {"encoder": "dinov2-small", "weights": "tiny-random"})
    refused("front, wrist", {"cameras": ("front", "top")})
    refused("front, wrist", {"cameras": ("front",)})
    refused("fingerprint", fingerprint="0" * 16)
    refused("sees latents", {"state_dim": 8})


def test_a_checkpoint_has_a_head_already_and_more_than_a_chunk_is_not_executed(tmp_path):
    probe(tmp_path, load_encoder("pixels", image_px=PX))
    with pytest.raises(HeadMismatchError, match=r"Drop --policy\.head_from"):
        policy_of(tmp_path, pretrained_path=tmp_path)
    with pytest.raises(ConfigError, match="n_action_steps"):
        policy_of(tmp_path, n_action_steps=6)


def test_actions_of_another_length_are_refused(tmp_path):
    encoder = load_encoder("pixels", image_px=PX)
    probe(tmp_path, encoder)
    with pytest.raises(EmbodimentError, match=r"7 numbers .*x, y, z"):
        policy_of(tmp_path, action_dim=8)
