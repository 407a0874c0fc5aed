"""`lerobot-rollout`: a relative policy on a robot that follows its commands exactly, in LeRobot's loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from threading import Event

import numpy as np
import pytest
import torch
from lerobot.robots import Robot, RobotConfig
from tiny_lary import PX, config

from lary_policy.actions.statistics import ActionStats
from lary_policy.policy.modeling_lary import LaryPolicy
from lary_policy.policy.processor_lary import make_lary_pre_post_processors

MOTORS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")  # an SO-101
JOINTS = [f"{name}.pos" for name in MOTORS]
SIZE, EXECUTED = len(JOINTS), 3
STATS = ActionStats((0.0, 0.1, -0.1, 0.05, 0.2, 0.5), (0.02, 0.03, 0.04, 0.05, 0.01, 0.2), 100)


@RobotConfig.register_subclass("lary_exact")
@dataclass(kw_only=True)
class ExactRobotConfig(RobotConfig):
    """A robot without hardware."""


class ExactRobot(Robot):
    """Is at once where it was sent, and remembers everything."""

    config_class, name = ExactRobotConfig, "lary_exact"

    def __init__(self, settings):
        super().__init__(settings)
        self.now = {name: 0.1 * (i + 1) for i, name in enumerate(JOINTS)}
        self.seen, self.sent, self._on = [], [], False
        self.observation_features = {**dict.fromkeys(JOINTS, float), "top": (PX, PX, 3)}
        self.action_features = dict.fromkeys(JOINTS, float)

    observation_features = action_features = None  # replaced by instances
    is_calibrated = True

    @property
    def is_connected(self):
        return self._on

    def connect(self, calibrate=True):
        self._on = True

    def disconnect(self):
        self._on = False

    def calibrate(self):
        pass

    def configure(self):
        pass

    def get_observation(self):
        self.seen.append([self.now[name] for name in JOINTS])
        return {**self.now, "top": np.full((PX, PX, 3), len(self.seen), np.uint8)}

    def send_action(self, action):
        self.sent.append([float(action[name]) for name in JOINTS])
        self.now = {name: float(action[name]) for name in JOINTS}
        return action


@pytest.mark.parametrize("mode", ["relative", "delta"])
def test_a_relative_policy_reaches_its_planned_poses(tmp_path, monkeypatch, mode):
    from lerobot.rollout import RolloutConfig, build_rollout_context, create_strategy

    settings = config(
        action_mode=mode, action_dim=SIZE, state_dim=SIZE, chunk_size=4, n_action_steps=EXECUTED,
        action_feature_names=JOINTS, control_hz=50.0,
    )  # fmt: skip
    policy = LaryPolicy(settings)
    policy.codec.fit(STATS, STATS)
    policy.save_pretrained(tmp_path)
    for processor in make_lary_pre_post_processors(settings):
        processor.save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lerobot-rollout", f"--policy.path={tmp_path}"])
    monkeypatch.setattr("lerobot.robots.utils.make_device_from_device_class", ExactRobot)
    monkeypatch.setattr("lerobot.robots.robot.HF_LEROBOT_CALIBRATION", tmp_path)
    for module in ("base", "core"):  # where the loop sleeps: up to 0.6.1, and since
        path = f"lerobot.rollout.strategies.{module}.precise_sleep"
        monkeypatch.setattr(path, lambda seconds: None, raising=False)
    stop = Event()
    told = {"fps": 50.0, "device": "cpu", "return_to_initial_position": False}
    context = build_rollout_context(RolloutConfig(robot=ExactRobotConfig(), **told), stop)
    robot, said = context.hardware.robot_wrapper.inner, []
    context.policy.policy.head.register_forward_hook(lambda *args: said.append(args[2][0].numpy()))
    robot.seen.clear()
    send = robot.send_action

    def send_seven(action):
        send(action)
        if len(robot.sent) == 7:
            stop.set()
        return action

    monkeypatch.setattr(robot, "send_action", send_seven)
    strategy = create_strategy(context.runtime.cfg.strategy)
    strategy.setup(context)
    strategy.run(context)
    strategy.teardown(context)

    assert len(robot.sent) == 7
    assert len(said) == 3  # a chunk of four, of which three are executed
    for step, sent in enumerate(robot.sent):
        planned, place = step // EXECUTED * EXECUTED, step % EXECUTED
        offsets = said[planned // EXECUTED] * np.array(STATS.std) + np.array(STATS.mean)
        offset = offsets[: place + 1].sum(0) if mode == "delta" else offsets[place]
        want = np.array(robot.seen[planned]) + offset
        want[-1] = offsets[place][-1]  # the gripper stays absolute
        np.testing.assert_allclose(sent, want, atol=1e-5)


def test_real_time_chunking_is_refused_by_name(tmp_path):
    """A regression head cannot continue a chunk that was planned elsewhere."""
    from lerobot.rollout.inference.rtc import supports_rtc_inference

    assert not supports_rtc_inference(LaryPolicy(config()))
    assert torch.is_inference_mode_enabled() is False
