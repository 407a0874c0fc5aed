"""`lerobot-eval` itself on `lary_sim`: metrics, videos, recordings, and the count of `lary rollout`."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.default import EvalConfig
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.utils import env_to_policy_features
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.scripts.lerobot_eval import eval_main
from lerobot.utils.constants import ACTION, OBS_STATE

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.gym.core import GymCore
from lary_envs.gym.lerobot import LarySimEnv
from lary_envs.gym.vector import LaryVectorEnv
from lary_policy.data.simulated.collect import FIRST_SEED
from lary_policy.errors import ConfigError, EmbodimentError
from lary_policy.policy.configuration_lary import EncoderConfig, LaryConfig
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.rollout.loop import run_episodes

SEED, WORLDS, STEPS, PX, CHUNK = FIRST_SEED["rollout"], 4, 40, 32, 5
RUNS = {
    "batched": {},
    "tensors": {"torch_observations": True},
    "sync": {"batched": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x"])  # LeRobot's configs read it again


def env_config(**options):
    return LarySimEnv(**{"image_px": PX, "max_episode_steps": STEPS, **options})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random ACT whose actions all lie around the goal of the second seed: it alone succeeds."""
    folder = tmp_path_factory.mktemp("act")
    sim = SimEnv("reach", 1, image_px=16)
    sim.reset([SEED + 1])
    goal = torch.cat([sim.state()["goal_pos"][0].float(), torch.tensor([0.0, 0.0, 0.0, 1.0])])
    config = ACTConfig(
        pretrained_backbone_weights=None, device="cpu", push_to_hub=False, use_vae=False, dim_model=16,
        n_heads=2, dim_feedforward=16, n_encoder_layers=1, chunk_size=CHUNK, n_action_steps=CHUNK,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = make_policy(config, env_cfg=env_config())
    wide = {"mean": torch.zeros(7), "std": torch.ones(7)}
    stats = {ACTION: {"mean": goal, "std": torch.full((7,), 0.003)}, OBS_STATE: wide}
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    return folder


def load(checkpoint):
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = Path(checkpoint)
    return config


def evaluate(
    checkpoint, folder, *, episodes=WORLDS, recording=False, async_=False, rename_map=None, **options
):
    """Run lerobot-eval's main function and return what it wrote."""
    eval_main(
        EvalPipelineConfig(
            env=env_config(**options),
            eval=EvalConfig(
                n_episodes=episodes, batch_size=WORLDS, use_async_envs=async_, recording=recording
            ),
            policy=load(checkpoint), output_dir=folder, seed=SEED, rename_map=rename_map or {},
        )
    )  # fmt: skip
    return json.loads((folder / "eval_info.json").read_text())


@pytest.fixture(scope="module")
def infos(checkpoint, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x"])
        return {n: evaluate(checkpoint, tmp_path_factory.mktemp(n), **o) for n, o in RUNS.items()}


def metrics(info):
    return {k: v for k, v in info["per_task"][0]["metrics"].items() if not k.endswith("paths")}


@pytest.mark.parametrize("run", RUNS)
def test_success_is_reported_however_the_worlds_are_run(infos, run):
    assert metrics(infos[run])["successes"] == [False, True, False, False]
    assert metrics(infos[run])["sum_rewards"] == [0.0, 1.0, 0.0, 0.0]
    assert infos[run]["overall"]["pc_success"] == 25.0
    assert metrics(infos[run]) == metrics(infos["batched"])


def film(info, episode):
    with av.open(info["per_task"][0]["metrics"]["video_paths"][episode]) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("run", RUNS)
def test_videos_show_each_episode_to_its_end(infos, run):
    paths = infos[run]["per_task"][0]["metrics"]["video_paths"]
    assert [Path(p).parts[-3:] for p in paths] == [
        ("videos", "lary_sim_0", f"eval_episode_{i}.mp4") for i in range(WORLDS)
    ]
    short, whole = film(infos[run], 1), film(infos[run], 2)
    assert short.shape[1:] == (PX, PX, 3)
    assert len(short) < len(whole) == STEPS
    other = film(infos["batched"], 1)
    assert len(short) == len(other)
    assert abs(short.astype(float) - other).mean() < 1
    assert abs(short.astype(float) - whole[: len(short)]).mean() > 1


class Chunks:
    """The checkpoint as an agent of `lary rollout`."""

    needs_frames = True

    def __init__(self, checkpoint):
        config = load(checkpoint)
        self.policy = make_policy(config, env_cfg=env_config()).eval()
        self.before, self.after = make_pre_post_processors(config, pretrained_path=str(checkpoint))

    def plan(self, seen):
        images = seen.frames[:, 0].permute(0, 3, 1, 2).contiguous().float() / 255
        batch = self.before({"observation.images.front": images, "observation.state": seen.proprio})
        with torch.inference_mode():
            chunk = self.policy.predict_action_chunk(batch)
        return torch.stack([self.after(action) for action in chunk.unbind(1)], 1)


def test_lary_rollout_counts_the_same_for_the_same_checkpoint_and_seeds(infos, checkpoint):
    env = SimEnv("reach", WORLDS, image_px=PX)
    seeds = range(SEED, SEED + WORLDS)
    controller, agent = EndEffectorController(WORLDS), Chunks(checkpoint)
    episodes = run_episodes(env, controller, lambda: agent, seeds, max_steps=STEPS).episodes
    env.close()
    assert [e.success for e in episodes] == metrics(infos["batched"])["successes"]
    assert len(film(infos["batched"], 1)) == episodes[1].first_success_step


def test_episodes_beyond_the_first_batch_go_on_with_the_next_seeds(checkpoint, tmp_path, monkeypatch):
    seeds, reset = [], GymCore.reset
    monkeypatch.setattr(
        GymCore, "reset", lambda self, new, *rest: seeds.extend(new) or reset(self, new, *rest)
    )
    info = evaluate(checkpoint, tmp_path, episodes=6)
    assert seeds == list(range(SEED, SEED + 2 * WORLDS))  # LeRobot runs the last batch in full
    assert metrics(info)["successes"] == [False, True, *[False] * 4]


def test_episodes_are_recorded_as_a_dataset(checkpoint, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    info = evaluate(checkpoint, tmp_path, recording=True)
    assert metrics(info)["successes"] == [False, True, False, False]
    roots = [tmp_path / "recordings" / "lary_sim_0" / f"env_{i}" for i in range(WORLDS)]
    sets = [LeRobotDataset(f"eval_recording_env_{i}", root=root) for i, root in enumerate(roots)]
    assert [bool(d[len(d) - 1]["next.success"]) for d in sets] == [False, True, False, False]
    assert len(sets[0]) == STEPS
    assert sets[1].meta.fps == 20
    frame = sets[1][0]
    assert frame["observation.images.front"].shape == (3, PX, PX)
    assert frame["agent_pos"].shape == frame["action"].shape == (7,)
    assert frame["task"] == "move the gripper to the magenta sphere"


@pytest.mark.slow
def test_worlds_in_processes_of_their_own_report_the_same(infos, checkpoint, tmp_path):
    info = evaluate(checkpoint, tmp_path, async_=True, batched=False)
    assert metrics(info) == metrics(infos["batched"])


def lary_checkpoint(folder, **facts):
    """A random policy `lary` with two cameras."""
    env = env_config(cameras=["front", "wrist"])
    config = LaryConfig(
        encoder=EncoderConfig(name="pixels", image_px=28), pool="mean", head_width=8, head_blocks=1,
        chunk_size=4, device="cpu", push_to_hub=False, embodiment="arm7", **{"control_hz": 20.0, **facts},
    )  # fmt: skip
    features = env_to_policy_features(env)
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (7,))}
    config.input_features = {k: v for k, v in features.items() if k != ACTION}
    unit = {"mean": torch.zeros(7), "std": torch.ones(7)}
    before, after = make_pre_post_processors(config, dataset_stats={ACTION: unit, OBS_STATE: unit})
    for part in (LaryPolicy(config), before, after):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("facts", "env", "error", "says"),
    [
        ({}, {"task": "dual_reach"}, EmbodimentError, "12 numbers"),
        ({}, {"action_mode": "relative"}, EmbodimentError, "relative_to_command"),
        ({"control_hz": 10.0}, {}, EmbodimentError, "control_hz 20.0"),
        ({}, {}, ConfigError, "observation.images.wrist"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_step(tmp_path, monkeypatch, facts, env, error, says):
    monkeypatch.setattr(LaryVectorEnv, "step", lambda *_: pytest.fail("a step was taken"))
    folder = lary_checkpoint(tmp_path / "lary", **facts)
    with pytest.raises(error, match=says):
        evaluate(folder, tmp_path / "out", **env)


def test_a_lary_policy_runs_and_cameras_may_be_renamed(tmp_path):
    folder = lary_checkpoint(tmp_path / "lary")
    views = {"front": "agent", "wrist": "wrist"}
    names = {f"observation.images.{new}": f"observation.images.{old}" for old, new in views.items()}
    env = {"cameras": list(views.values()), "max_episode_steps": 6}
    info = evaluate(folder, tmp_path / "out", rename_map=names, **env)
    assert metrics(info)["successes"] == [False] * WORLDS
    assert len(list((tmp_path / "out" / "videos" / "lary_sim_0").iterdir())) == WORLDS


def test_the_policy_keeps_the_features_of_the_env(checkpoint):
    policy = make_policy(load(checkpoint), env_cfg=env_config())
    feature = policy.config.output_features[ACTION]
    assert feature.contract == env_to_policy_features(env_config())[ACTION].contract
