"""The policy `lary` in LeRobot's hands: losses, chunks, queues, histories, checkpoints."""

from __future__ import annotations

import pytest
import torch
from tiny_lary import ACTION, PX, STATE, TOP, batch, config, features

from lary_policy.errors import ConfigError, ShapeError, UnknownNameError, WeightsMismatchError
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.policy.head import build_policy_head
from lary_policy.policy.modeling_lary import LaryPolicy


class Calls:
    """Counts calls of an encoder."""

    def __init__(self, policy):
        self.count = 0
        policy.encoder.register_forward_hook(self)

    def __call__(self, *_):
        self.count += 1


@pytest.mark.parametrize("head", ["mlp", "dit"])
@pytest.mark.parametrize("pool", ["mean", "project", "flatten", "grid", "attentive", "keypoints"])
def test_each_head_trains_behind_each_pool(head, pool):
    torch.manual_seed(0)
    policy = LaryPolicy(config(head=head, pool=pool, pool_grid=2, pool_width=8, cameras=("top", "wrist")))
    seen = batch(policy.config, 4, training=True)
    (group,) = policy.get_optim_params()
    optimizer = torch.optim.AdamW(group["params"], lr=3e-3)
    first = None
    for _ in range(60):
        torch.manual_seed(1)  # the same noise every time, so that a diffusion head's loss can be compared
        loss, figures = policy.forward(seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = float(loss.detach()) if first is None else first
    assert figures == {"huber": pytest.approx(float(loss.detach()))}
    assert float(loss.detach()) < 0.7 * first
    assert policy.predict_action_chunk(seen).shape == (4, 4, 7)


@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_actions_past_the_episodes_end_do_not_count(head):
    policy, seen = LaryPolicy(config(head=head)), None
    seen = batch(policy.config, 3, training=True)
    seen["action_is_pad"][0, 2:] = True
    seen["action_is_pad"][1, :] = True
    loss, each = (_loss(policy, seen, reduction) for reduction in ("mean", "none"))
    assert each.shape == (3,)
    assert float(each[1]) == 0
    torch.testing.assert_close(loss, (each * torch.tensor([2.0, 0, 4])).sum() / 6)
    other = {**seen, ACTION: seen[ACTION].clone()}
    other[ACTION][0, 2:] += 5
    torch.testing.assert_close(_loss(policy, other, "none"), each)  # a new diffusion head predicts no noise
    other[ACTION][0, 1] += 5
    assert (float(_loss(policy, other, "none")[0]) != float(each[0])) == (head == "mlp")


def _loss(policy, seen, reduction):
    torch.manual_seed(0)
    return policy.forward(seen, reduction=reduction)[0].detach()


def test_an_unknown_reduction_is_named():
    policy = LaryPolicy(config())
    with pytest.raises(UnknownNameError, match="mean, none"):
        policy.forward(batch(policy.config, training=True), reduction="sum")


def test_only_what_requires_gradients_is_optimised():
    policy = LaryPolicy(config(encoder="dinov2-small", weights="tiny-random"))
    (group,) = policy.get_optim_params()
    assert {id(p) for p in group["params"]} == {id(p) for p in policy.head.parameters()}
    thawed = config(encoder="dinov2-small", weights="tiny-random")
    thawed.encoder.trainable = "all"
    groups = LaryPolicy(thawed).get_optim_params()
    assert [len(g["params"]) > 0 for g in groups] == [True, True]
    assert groups[1]["lr"] == thawed.optimizer_lr_encoder


@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_peft_trains_adapters_and_the_head(tmp_path, head):
    """As `lerobot-train --peft.method_type=LORA` wraps a checkpoint."""
    policy = LaryPolicy(
        config(encoder="dinov2-small", weights="tiny-random", head=head, pretrained_path=tmp_path)
    )
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2}).train()
    optimizer = torch.optim.SGD([p for group in wrapped.get_optim_params() for p in group["params"]], lr=0.1)
    seen, losses = batch(policy.config, training=True), []
    for _ in range(3):  # a new diffusion head's last layer and new adapters are zero: gradients come in steps
        torch.manual_seed(0)
        loss, _ = wrapped.forward(seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    moved = {n for n, p in wrapped.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any("lora_A" in name for name in moved)
    assert any("modules_to_save" in name for name in moved)
    assert losses[-1] < losses[0]


def test_frames_are_encoded_once_a_chunk_and_actions_leave_in_order():
    policy = LaryPolicy(config(n_action_steps=3))
    calls, seen = Calls(policy), [batch(policy.config, seed=s) for s in range(7)]
    chunks = {s: policy.predict_action_chunk(seen[s]) for s in (0, 3, 6)}
    calls.count = 0
    for step in range(7):
        action = policy.select_action(seen[step])
        torch.testing.assert_close(action, chunks[step // 3 * 3][:, step % 3])
    assert calls.count == 3
    policy.reset()
    torch.testing.assert_close(policy.select_action(seen[6]), chunks[6][:, 0])
    assert not policy.training


@pytest.mark.parametrize("stride", [1, 3])
def test_the_history_in_an_episode_is_that_of_training(stride):
    """Frames `stride` apart; before the start the first frame stands in, as LeRobot's clamping does."""
    policy = LaryPolicy(config(n_obs_steps=3, observation_stride=stride, n_action_steps=1, use_proprio=False))
    assert policy.config.observation_delta_indices == [-2 * stride, -stride, 0]
    seen = [batch(policy.config, seed=s) for s in range(8)]
    for step in range(8):
        past = [max(0, step + delta) for delta in policy.config.observation_delta_indices]
        window = torch.stack([seen[i][TOP] for i in past], 1)
        action = policy.select_action(seen[step])
        torch.testing.assert_close(action, policy.predict_action_chunk({TOP: window})[:, 0])


@pytest.mark.parametrize("encoder", ["lapa", "vjepa2-large"])
def test_encoders_of_pairs_and_clips_see_a_history(encoder):
    values = {"n_obs_steps": 2, "observation_stride": 2, "cameras": ("top", "wrist"), "n_action_steps": 1}
    policy = LaryPolicy(config(encoder=encoder, weights="tiny-random", **values))
    assert policy.encoder.kind in ("pair", "clip")
    policy.forward(batch(policy.config, training=True))[0].backward()
    first, second = (batch(policy.config, seed=s) for s in range(2))
    policy.select_action(first)
    action = policy.select_action(second)
    window = {n: torch.stack([first[n], second[n]], 1) for n in policy.config.image_features}
    torch.testing.assert_close(action, policy.predict_action_chunk({**second, **window})[:, 0])


def test_cameras_of_different_sizes_and_a_policy_without_state():
    settings = config(cameras=("top", "wrist"), state_dim=0, use_proprio=False)
    settings.input_features[TOP].shape = (3, 42, 56)
    policy = LaryPolicy(settings)
    seen = batch(settings, training=True)
    assert STATE not in seen
    policy.forward(seen)[0].backward()
    assert policy.select_action(seen).shape == (2, 7)


def test_chunks_are_float32_under_autocast():
    policy = LaryPolicy(config(head="dit"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert policy.select_action(batch(policy.config)).dtype == torch.float32


def test_wrong_features_and_settings_are_named():
    def refused(match, error=ConfigError, **values):
        with pytest.raises(error, match=match):
            LaryPolicy(config(**values)).select_action({})

    refused("cameras observation.images", cameras=())
    refused("use_proprio=false", state_dim=0)
    refused("n_action_steps <= chunk_size", n_action_steps=5)
    refused("n_obs_steps=2", encoder="lapa", weights="tiny-random")
    refused("dinov2-small", UnknownNameError, encoder="dinov2-smal")
    refused("dit, mlp", UnknownNameError, head="mpl")
    refused("attentive, flatten, grid, keypoints, mean, project", UnknownNameError, pool="max")
    refused("absolute, delta, relative", UnknownNameError, action_mode="rel")
    refused("observation.images.top.*no images", cameras=("top",))
    depth = config()
    depth.input_features[TOP].shape = (1, PX, PX)
    with pytest.raises(ConfigError, match="Leave out"):
        LaryPolicy(depth)
    silent = config()
    silent.output_features = {}
    with pytest.raises(ConfigError, match="output feature 'action'"):
        LaryPolicy(silent)
    policy = LaryPolicy(config())
    seen = batch(policy.config)
    with pytest.raises(ShapeError, match="7"):
        policy.select_action({**seen, STATE: torch.zeros(2, 6)})
    del seen[STATE]
    with pytest.raises(ShapeError, match=STATE):
        policy.select_action(seen)


@pytest.mark.parametrize("head", ["mlp", "dit"])
def test_a_checkpoint_gives_equal_actions_and_is_loaded_strictly(tmp_path, head):
    torch.manual_seed(3)
    policy = LaryPolicy(
        config(encoder="dinov2-small", weights="tiny-random", head=head, cameras=("top", "wrist"))
    )
    policy.save_pretrained(tmp_path)
    loaded = LaryPolicy.from_pretrained(tmp_path)
    seen = batch(policy.config)
    torch.testing.assert_close(loaded.predict_action_chunk(seen), policy.predict_action_chunk(seen))
    assert loaded.config.encoder.sha256 == policy.config.encoder.sha256 is not None
    wider = LaryPolicy(config(encoder="dinov2-small", weights="tiny-random", head=head, head_width=32))
    wider.config.save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatchError):
        LaryPolicy.from_pretrained(tmp_path)


def test_storing_the_encoder_is_asked_for_on_the_policy():
    assert config().encoder.save is None
    assert config(save_encoder=True).encoder.save


def test_the_default_head_is_small():
    """60 MB is the most for a checkpoint without encoder, also behind two cameras of DINOv2-L at 224 px."""
    inputs, outputs = features(("front", "wrist"), action_dim=16, state_dim=16)
    settings = LaryConfig(input_features=inputs, output_features=outputs, chunk_size=50, device="cpu")
    with torch.device("meta"):
        head = build_policy_head(settings, (1, 2, 256, 1024), (1, 16, 16), 16)
    assert 1e6 < 4 * sum(p.numel() for p in head.parameters()) < 60e6
