"""Relative and delta actions: a queued action is the state at the time of planning plus the prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import RelativeActionsProcessorStep
from scipy.spatial.transform import Rotation
from tiny_lary import ACTION, STATE, batch, config

from lary_policy.actions.codec import RelativeFrame
from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.policy.modeling_lary import LaryPolicy

CHUNK, EXECUTED, STEPS = 5, 3, 9  # three chunks, each cut short
STATS = ActionStats((0.1, 0.0, -0.1, 0.2, 0.0, 0.1, 0.5), (0.5, 0.4, 0.3, 0.2, 0.3, 0.2, 0.1), 100)
NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


def moved(state, offset, composed):
    """One pose moved by one offset, in numpy, number by number or with rotations multiplied."""
    out = state + offset
    if composed:
        turn = Rotation.from_euler("xyz", state[3:6]) * Rotation.from_euler("xyz", offset[3:6])
        out[3:6] = turn.as_euler("xyz")
    out[6] = offset[6]  # grippers stay absolute
    return out


def expected(states, predictions, mode, composed):
    """Absolute actions [steps b a] from states [steps b a] and what the head said at each plan [b k a]."""
    actions = np.zeros((STEPS, 2, 7))
    for step in range(STEPS):
        planned, place = step // EXECUTED * EXECUTED, step % EXECUTED
        for world in range(2):
            offsets = predictions[planned][world] * np.array(STATS.std) + np.array(STATS.mean)
            if mode == "relative":
                actions[step, world] = moved(states[planned, world], offsets[place], composed)
                continue
            pose = states[planned, world]
            for offset in offsets[: place + 1]:
                pose = moved(pose, offset, composed)
            actions[step, world] = pose
    return actions


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("mode", ["relative", "delta"])
@pytest.mark.parametrize(
    ("embodiment", "history", "steps"),
    [(None, 1, False), (None, 1, True), (None, 2, False), ("arm7", 1, False), ("arm7", 2, True)],
)
def test_a_scripted_episode_of_three_chunks(tmp_path, embodiment, mode, history, steps, saved):
    """With and without LeRobot's own steps, which exist for plain numbers and single frames alone."""
    settings = config(
        chunk_size=CHUNK, n_action_steps=EXECUTED, action_mode=mode, embodiment=embodiment,
        n_obs_steps=history, action_feature_names=NAMES, use_relative_actions=steps,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = LaryPolicy(settings)
    policy.codec.fit(STATS, STATS)
    processors = make_pre_post_processors(settings)
    assert settings.use_relative_actions == (steps and embodiment is None)
    own = [type(step) for step in processors[0].steps]
    assert (RelativeActionsProcessorStep in own) == settings.use_relative_actions
    if saved:
        policy.save_pretrained(tmp_path)
        for processor in processors:
            processor.save_pretrained(tmp_path)
        policy = LaryPolicy.from_pretrained(tmp_path)
        processors = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path))
    before, after = processors
    seen = [batch(policy.config, seed=s) for s in range(STEPS)]
    states = torch.stack([s[STATE] for s in seen]) * 0.3
    said = []
    policy.head.register_forward_hook(lambda *args: said.append(args[2].numpy().astype(float)))
    actions = [
        after(policy.select_action(before({**s, STATE: x}))) for s, x in zip(seen, states, strict=True)
    ]
    predictions = {i * EXECUTED: chunk for i, chunk in enumerate(said)}
    assert len(said) == STEPS // EXECUTED
    want = expected(states.numpy().astype(float), predictions, mode, embodiment is not None)
    got = torch.stack(actions).numpy()
    np.testing.assert_allclose(got[..., [0, 1, 2, 6]], want[..., [0, 1, 2, 6]], atol=1e-5)
    if embodiment is None:
        np.testing.assert_allclose(got[..., 3:6], want[..., 3:6], atol=1e-5)
    else:  # angles may differ by whole turns
        turns = [Rotation.from_euler("xyz", a[..., 3:6].reshape(-1, 3)) for a in (got, want)]
        assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-4


def test_a_whole_chunk_can_be_postprocessed_at_once():
    settings = config(action_mode="relative", embodiment="arm7", chunk_size=CHUNK)
    policy = LaryPolicy(settings)
    policy.codec.fit(STATS, STATS)
    before, after = make_pre_post_processors(settings)
    seen = before(batch(settings))
    chunk = after(policy.predict_action_chunk(seen))
    torch.testing.assert_close(chunk[:, 0], after(policy.select_action(seen)), atol=1e-5, rtol=0)
    assert chunk.shape == (2, CHUNK, 7)


@pytest.mark.parametrize("embodiment", [None, "arm7"])
@pytest.mark.parametrize("delta", [False, True])
def test_training_targets_are_decoded_to_the_recorded_actions(embodiment, delta):
    rng = torch.Generator().manual_seed(0)
    actions, state = torch.rand(6, CHUNK, 7, generator=rng) - 0.5, torch.rand(6, 7, generator=rng) - 0.5
    settings = config(
        action_mode="delta" if delta else "relative", embodiment=embodiment, chunk_size=CHUNK,
        action_feature_names=NAMES,
    )  # fmt: skip
    codec = LaryPolicy(settings).codec
    codec.fit(STATS, STATS)
    before, _ = make_pre_post_processors(settings)
    seen = before({**batch(settings, 6), STATE: state, ACTION: actions})
    torch.testing.assert_close(seen[ACTION], actions)  # the policy makes them relative itself
    targets = codec.encode(codec.relative(actions, state))
    assert not torch.allclose(targets, actions)
    torch.testing.assert_close(codec.absolute(targets, state), actions, atol=1e-5, rtol=0)


def test_checkpoints_of_the_first_version_act_as_they_did(tmp_path):
    """Their processors hold steps that composed rotations; they are loaded, the policy does it itself."""
    settings = config(action_mode="relative", embodiment="arm7", chunk_size=CHUNK, n_action_steps=2)
    policy = LaryPolicy(settings)
    policy.codec.fit(STATS, STATS)
    policy.save_pretrained(tmp_path)
    for kind, processor in zip(("relative", "absolute"), make_pre_post_processors(settings), strict=True):
        processor.save_pretrained(tmp_path)
        path = tmp_path / f"{processor.name}.json"
        raw = json.loads(path.read_text())
        told = {"enabled": True, "exclude_joints": [], "action_names": None, "embodiment": "arm7"}
        told = told if kind == "relative" else {"enabled": True}
        raw["steps"].append({"registry_name": f"lary_{kind}_actions_processor", "config": told})
        path.write_text(json.dumps(raw))
    loaded = LaryPolicy.from_pretrained(tmp_path)
    before, after = make_pre_post_processors(loaded.config, str(tmp_path))
    b, a = make_pre_post_processors(settings)
    assert "lary_absolute" in (tmp_path / "policy_postprocessor.json").read_text()
    for seed in range(3):
        seen = batch(settings, seed=seed)
        old, new = after(loaded.select_action(before(dict(seen)))), a(policy.select_action(b(dict(seen))))
        torch.testing.assert_close(old, new)


def test_rotations_are_exact_under_autocast():
    """LeRobot runs pre- and postprocessors under autocast, too."""
    frame, rng = RelativeFrame.of(7, embodiment="arm7"), torch.Generator().manual_seed(0)
    actions, state = torch.rand(6, CHUNK, 7, generator=rng) - 0.5, torch.rand(6, 7, generator=rng) - 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = frame.to_absolute(frame.to_relative(actions, state), state)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, actions, atol=1e-6, rtol=0)


def test_statistics_are_required_not_invented():
    policy = LaryPolicy(config(action_mode="relative", action_feature_names=NAMES))
    with pytest.raises(EmbodimentError, match="make_policy"):
        policy.select_action(batch(policy.config))
    before, after = make_pre_post_processors(config(), None)
    with pytest.raises(EmbodimentError, match=r"statistics of 'observation.state'"):
        before(batch(config()))
    with pytest.raises(EmbodimentError, match=r"statistics of 'action'"):
        after(torch.zeros(1, 7))
    blind = config(use_proprio=False)  # nothing of the state is seen, so nothing of it is normalised
    state = torch.full((1, 7), 3.0)
    torch.testing.assert_close(make_pre_post_processors(blind, None)[0]({STATE: state})[STATE], state)
    short = {STATE: {"mean": torch.zeros(6), "std": torch.ones(6)}}
    with pytest.raises(EmbodimentError, match="another length"):
        make_pre_post_processors(config(), dataset_stats=short)


def test_a_constant_number_is_not_scaled_up():
    """A gripper that never moved in the demonstrations may be off by a hair in the episode."""
    still = {"mean": torch.zeros(7), "std": torch.tensor([0.1] * 6 + [0.0])}
    for embodiment in (None, "arm7"):
        before, _ = make_pre_post_processors(
            config(embodiment=embodiment), dataset_stats={STATE: still, ACTION: still}
        )
        seen = before({STATE: torch.full((1, 7), 1e-4)})
        assert seen[STATE].abs().max() < 1e-2


def test_other_ways_to_normalise_relative_actions_are_refused():
    ranges = {"VISUAL": NormalizationMode.IDENTITY, "ACTION": NormalizationMode.MIN_MAX}
    with pytest.raises(ConfigError, match="ACTION MIN_MAX"):
        config(action_mode="relative", normalization_mapping=ranges)
    assert config(normalization_mapping=ranges).normalization_mapping == ranges


def test_a_rotation_is_relative_as_a_whole_or_not_at_all():
    with pytest.raises(ConfigError, match="roll, pitch, yaw"):
        RelativeFrame.of(7, embodiment="arm7", exclude=["yaw"])
    with pytest.raises(EmbodimentError, match="7 numbers"):
        RelativeFrame.of(6, embodiment="arm7")
    assert RelativeFrame.of(7, embodiment="arm7", exclude=["roll", "pitch", "yaw"]).mask[2:5] == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        {"motors": NAMES},
        [NAMES],
        {"arm": NAMES[:6], "hand": NAMES[6:]},
        {n: i for i, n in enumerate(NAMES)},
    ],
)
def test_names_are_read_in_every_spelling_of_datasets(names):
    """LeRobot makes a list of `{"motors": [...]}` whose only name is `motors`."""
    features = {key: {"names": names, "shape": (7,), "dtype": "float32"} for key in (ACTION, STATE)}
    settings = config(action_mode="relative")
    settings.action_feature_names = list(names)  # as LeRobot's make_policy does before
    settings.set_dataset_feature_metadata(features)
    assert settings.action_feature_names == NAMES
    assert LaryPolicy(settings).codec.frame.mask == (True,) * 6 + (False,)  # the gripper stays absolute
    features[STATE]["names"] = {"motors": ["j1", *NAMES[1:]]}
    with pytest.raises(ConfigError, match="j1"):
        settings.set_dataset_feature_metadata(features)


def test_names_that_name_nothing_are_not_taken_for_some():
    settings = config(action_mode="relative")
    settings.action_feature_names = ["motors"]
    settings.set_dataset_feature_metadata({ACTION: {"names": {"motors": NAMES[:3]}, "shape": (7,)}})
    assert settings.action_feature_names is None


def test_a_state_of_other_numbers_is_refused():
    features = {ACTION: {"names": NAMES, "shape": (7,)}, STATE: {"names": ["j1", "j2"], "shape": (2,)}}
    with pytest.raises(ConfigError, match="j1"):
        config(action_mode="relative").set_dataset_feature_metadata(features)
    config().set_dataset_feature_metadata(features)
    features[ACTION]["info"] = {"embodiment": "arm16"}
    with pytest.raises(EmbodimentError, match="16 numbers"):
        config().set_dataset_feature_metadata(features)
