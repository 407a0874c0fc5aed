"""Any gymnasium environment with pixels, proprioception and success is a world for a policy."""

from __future__ import annotations

import json
import sys
import time

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from lary_envs.gym import GivenEnv, GymSettings, GymWorld, open_for, reading
from lary_policy.cli import main
from lary_policy.errors import (
    ConfigError,
    EmbodimentError,
    LaryPolicyError,
    ShapeError,
    SimulationError,
    UnknownNameError,
)
from lary_policy.rollout import Observation, run_episodes

NAME, PX, GOAL = "gym:Dot-v0", 32, 0.5
CAMERAS = ("pixels.top", "pixels.side")
SETTINGS = GymSettings(state_key="agent_pos", progress_key="closeness")


RATES = {"words": "ten", "endless": float("nan"), "stopped": 0}
SAID = {"yes": "yes", "pair": np.ones(2), "half": np.float32(1.5), "numpy": np.bool_(True), "none": None}


made = []  # those that are "once"


class Dot(gymnasium.Env):
    """A dot that goes where it is sent, up to 0.1 a step; done at x = 0.5, truncated after 20 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's)

    def __init__(self, render_mode=None, broken=""):
        self.render_mode, self.broken = render_mode, broken
        views = spaces.Dict(dict.fromkeys(("top", "side"), spaces.Box(0, 255, (PX, PX, 3), np.uint8)))
        self.observation_space = spaces.Dict(
            {"pixels": views, "agent_pos": spaces.Box(-np.inf, np.inf, (2,), np.float32)}
        )
        self.action_space = {
            "discrete": spaces.Discrete(2), "whole": spaces.Box(0, 9, (2,), np.int64),
        }.get(broken, spaces.Box(-1, 1, (2,), np.float32))  # fmt: skip
        self.metadata = {**self.metadata, "render_fps": RATES.get(broken, 10)}
        self.observation_space["name"] = spaces.Text(9)
        if broken == "tuple":
            self.observation_space = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,))])
        if broken == "dots":
            view, place = spaces.Dict({"rgb.top": views["top"]}), self.observation_space["agent_pos"]
            self.observation_space = spaces.Dict({"cam": view, "cam.side": view, "agent.pos": place})
        if broken == "text":
            self.metadata = {**self.metadata, "render_modes": ["ansi"]}
        if broken == "once" and made.append(self) is None and len(made) > 2:
            raise OSError("one licence")
        if broken == "constructor":
            sys.exit(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.3, 0.3, 2).astype(np.float32)
        if self.broken == "nan":
            self.place[0] = np.nan
        if self.broken == "reset":
            raise KeyError("no simulator")
        if self.broken == "licence":
            sys.exit(0)
        if self.broken in ("unseeded", "alike"):
            draw = np.random.default_rng(0 if self.broken == "alike" else None)
            self.place = draw.uniform(-0.3, 0.3, 2).astype(np.float32)
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        self.place = self.place + np.clip(np.asarray(action, np.float32) - self.place, -0.1, 0.1)
        done = bool(abs(self.place[0] - GOAL) < 0.05)
        if self.broken == "later":
            self.place[1] = np.nan
        close = float(np.clip(1 - abs(self.place[0] - GOAL), 0, 1))
        if self.broken == "step":
            raise ZeroDivisionError("the solver")
        self.steps += 1
        if self.broken == "exit":
            sys.exit(0)
        said = {"solved": done} if self.broken == "silent" else {"is_success": SAID.get(self.broken, done)}
        if self.broken == "numbers":
            said[0] = 1
        if self.broken == "at_end":
            said = {"is_success": done} if done or self.steps == 20 else {}
        return self._seen(), float(done), done, False, {**said, "closeness": close}

    def render(self):
        if self.broken == "render":
            raise OSError("no display")
        return None if self.broken == "blind" else self._view(200)

    def close(self):
        if self.broken == "close":
            raise RuntimeError("no window")
        if self.broken == "hang":
            time.sleep(60)

    def _view(self, grey):
        frame = np.full((PX, PX, 3), grey, np.uint8)
        x = int(np.clip(np.nan_to_num(self.place[0]) * 16 + 16, 0, PX - 1))
        frame[:, x] = (255, 0, 0)
        return frame

    def _seen(self):
        if self.broken == "tuple":
            return (self.place, self.place)
        if self.broken == "dots":
            top = {"rgb.top": self._view(0)}
            return {"cam": top, "cam.side": {"rgb.top": self._view(9)}, "agent.pos": self.place}
        views = {"top": self._view(0), "side": self._view(90)}
        return {"pixels": views, "agent_pos": self.place, "name": "dot"}


gymnasium.register("Dot-v0", entry_point=Dot, max_episode_steps=20)
gymnasium.register("Endless-v0", entry_point=Dot)


class To:
    """An agent that goes to x in world 0, and stays in the others."""

    needs_frames = False

    def __init__(self, x):
        self._x = x

    def plan(self, seen: Observation):
        target = seen.proprio.clone()
        target[0, 0] = self._x
        return target[:, None].repeat(1, 5, 1)


@pytest.fixture
def world():
    made = GymWorld(NAME, 2, CAMERAS, SETTINGS)
    yield made
    made.close()


def played(world, x=GOAL, **options):
    return run_episodes(
        world, world.controller(), lambda: To(x), [1, 2], max_steps=world.max_steps, **options
    ).episodes


def test_an_environment_is_read_as_it_describes_itself(world):
    assert (world.control_hz, world.max_steps, world.state_dim) == (10.0, 20, 2)
    assert world.frame_shape == (PX, PX, 3)
    world.reset([1, 2])
    frames = world.frames()
    assert frames.shape == (2, 2, PX, PX, 3)
    assert frames[:, 0].min() == 0
    assert frames[:, 1].min() == 0  # the dot's line
    assert (frames[:, 0] == 0).any(-1).all(-1)[0].sum() > 0
    assert torch.equal(world.frames([1]), frames[[1]])
    first = world.proprio()
    world.reset([2, 1])
    assert torch.equal(world.proprio(), first.flip(0))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_episodes_end_by_the_environments_rules_and_rest(mode):
    options = {"vector_kwargs": {"autoreset_mode": mode}}
    settings = GymSettings("agent_pos", progress_key="closeness", env_options=options)
    if mode is AutoresetMode.DISABLED:  # gymnasium refuses to step such environments after an episode
        with pytest.raises(ConfigError, match=r"got autoreset_mode Disabled.*autoreset_mode: SameStep"):
            GymWorld(NAME, 2, CAMERAS, settings)
        return
    world = GymWorld(NAME, 2, CAMERAS, settings)
    won, lost = played(world)
    assert (won.success, won.success_at_end, won.progress) == (True, True, 1.0)
    assert won.first_success_step == won.steps < 10
    assert (lost.success, lost.steps, lost.failure) == (False, 20, None)
    assert 0.1 < lost.progress < 1.0
    assert abs(float(world.proprio()[0, 0]) - GOAL) < 0.05  # how it ended, whatever came after
    world.close()


class Resting(gymnasium.vector.VectorEnv):
    """Dots that rest where their episodes end, as simulators behind a server do; nothing resets itself."""

    def __init__(self, num_envs, **_):
        self.num_envs, self._dots = num_envs, [Dot() for _ in range(num_envs)]
        self.metadata = {"render_fps": 10, "autoreset_mode": "Disabled"}
        self.single_action_space = self._dots[0].action_space
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def _seen(self, rows):
        views = {view: np.stack([row["pixels"][view] for row in rows]) for view in ("top", "side")}
        return {"pixels": views, "agent_pos": np.stack([row["agent_pos"] for row in rows])}

    def reset(self, *, seed=None, options=None):
        self._last = [(dot.reset(seed=s)[0], 0.0, False) for dot, s in zip(self._dots, seed, strict=True)]
        return self._seen([seen for seen, _, _ in self._last]), {"is_success": np.zeros(self.num_envs, bool)}

    def step(self, actions):
        for world, dot in enumerate(self._dots):
            if not self._last[world][2]:
                self._last[world] = dot.step(actions[world])[:3]
        done = np.array([done for _, _, done in self._last])
        cut = np.zeros(self.num_envs, bool)
        return self._seen([seen for seen, _, _ in self._last]), done * 1.0, done, cut, {"is_success": done}


gymnasium.register("Resting-v0", vector_entry_point=Resting)


def test_a_vector_environment_whose_worlds_rest_need_not_reset_itself():
    world = GymWorld("gym:Resting-v0", 2, CAMERAS, GymSettings("agent_pos", max_steps=20))
    won, lost = played(world)
    assert (won.success, won.success_at_end, lost.success, lost.steps) == (True, True, False, 20)
    assert won.steps < 10
    world.close()


def test_a_rendered_picture_is_a_camera():
    world = GymWorld(NAME, 2, ("render",), SETTINGS)
    world.reset([1, 2])
    assert world.frames().shape == (2, 1, PX, PX, 3)
    assert int(world.frames()[0, 0, 0, 0, 1]) in (0, 200)
    world.close()


def test_an_observation_that_stops_being_finite_ends_the_episode():
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": "later"}))
    assert [e.failure for e in played(world)] == ["diverged", "diverged"]
    world.close()


@pytest.mark.parametrize(
    ("name", "cameras", "settings", "kind", "words"),
    [
        ("gym:Dto-v0", CAMERAS, {}, UnknownNameError, "Dot-v0"),
        (
            "gym:PushT-v0",
            CAMERAS,
            {},
            UnknownNameError,
            r"mean 'gym:<module>:PushT-v0'.*Closest of.*imports the module .* gym:gym_pusht:",
        ),
        ("gym:no_such_pkg/Dot-v0", CAMERAS, {}, ConfigError, "pip install no-such-pkg"),
        ("gym:no_such_pkg:Other-v0", CAMERAS, {}, ConfigError, "no_such_pkg"),
        (NAME, CAMERAS, {"env_options": {"size": 3}}, ConfigError, "size"),
        (NAME, ("pixels.tpo",), {}, UnknownNameError, "top"),
        (NAME, ("agent_pos",), {}, SimulationError, "float32"),
        (NAME, CAMERAS, {"state_key": "agent"}, UnknownNameError, "agent_pos"),
        (NAME, CAMERAS, {"state_key": None}, ConfigError, r"Pass state_key=<one of .*agent_pos"),
        (NAME, CAMERAS, {"embodiment": "arm7"}, EmbodimentError, "7 numbers"),
        (NAME, CAMERAS, {"embodiment": "arm77"}, UnknownNameError, "arm7"),
        (NAME, CAMERAS, {"env_options": {"broken": "discrete"}}, EmbodimentError, "Discrete"),
        (NAME, CAMERAS, {"env_options": {"broken": "nan"}}, SimulationError, "finite"),
        ("gym:Endless-v0", CAMERAS, {}, ConfigError, "max_steps"),
        (NAME, CAMERAS, {"max_steps": 0}, ConfigError, "max_steps"),
        (NAME, CAMERAS, {"control_hz": 0}, ConfigError, r"control_hz.*above 0.*got int 0"),
        (NAME, CAMERAS, {"control_hz": -1}, ConfigError, r"control_hz.*got int -1"),
        (NAME, CAMERAS, {"control_hz": float("nan")}, ConfigError, r"control_hz.*nan"),
        (NAME, CAMERAS, {"control_hz": float("inf")}, ConfigError, r"control_hz.*inf"),
        (NAME, CAMERAS, {"env_options": {"broken": "words"}}, ConfigError, r"got str ten.*control_hz="),
        (NAME, CAMERAS, {"env_options": {"broken": "endless"}}, ConfigError, r"control_hz.*nan"),
        (NAME, CAMERAS, {"env_options": {"broken": "stopped"}}, ConfigError, "control_hz"),
        (NAME, CAMERAS, {"env_options": {"broken": "whole"}}, EmbodimentError, r"real numbers.*int64"),
        (NAME, CAMERAS, {"state_key": "name"}, SimulationError, r"place name for state_key; got tuple"),
        (NAME, ("name",), {}, SimulationError, "place name for cameras"),
        (NAME, (), {}, SimulationError, "cameras of at least 1"),
        (
            NAME,
            ("render",),
            {"state_key": None, "env_options": {"broken": "tuple"}},
            SimulationError,
            "tuple",
        ),
        (NAME, ("render",), {"state_key": "0", "env_options": {"broken": "tuple"}}, SimulationError, "tuple"),
        (NAME, CAMERAS, {"env_options": {"broken": "reset"}}, SimulationError, r"to reset.*no simulator"),
        (NAME, ("render",), {"env_options": {"broken": "render"}}, SimulationError, r"to render.*no display"),
        (NAME, ("render",), {"env_options": {"broken": "blind"}}, SimulationError, r"object .* at 'render'"),
        (NAME, ("render",), {"env_options": {"broken": "text"}}, SimulationError, r"modes ansi.*cameras=\["),
        (NAME, CAMERAS, {"env_options": {"broken": "constructor"}}, ConfigError, "SystemExit: 3"),
        (NAME, CAMERAS, {"env_options": {"broken": "licence"}}, SimulationError, "to reset.*SystemExit: 0"),
        (NAME, ("cam.top",), {"env_options": {"broken": "dots"}}, UnknownNameError, r"cam\.side\.rgb\.top"),
    ],
)
def test_what_cannot_be_a_world_is_named(name, cameras, settings, kind, words):
    with pytest.raises(kind, match=words):
        GymWorld(name, 1, cameras, GymSettings(**{"state_key": "agent_pos", **settings}))


def test_success_that_is_never_said_and_wrong_actions_are_named(world):
    with pytest.raises(ShapeError, match=r"\[2, 2\]"):
        world.step(torch.zeros(2, 3))
    with pytest.raises(SimulationError, match="2 seeds"):
        world.reset([1])
    silent = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": "silent"}))
    with pytest.raises(SimulationError, match=r"is_success.*solved.*success_key"):
        played(silent)
    silent.close()
    named = GymSettings("agent_pos", success_key="solved", env_options={"broken": "silent"})
    world = GymWorld(NAME, 2, CAMERAS, named)
    assert played(world)[0].success
    world.close()


@pytest.mark.parametrize(
    ("broken", "more", "words"),
    [
        ("yes", {}, r"is_success = \['yes' 'yes'\], closeness.*success_key="),
        ("pair", {}, r"is_success = \[\[1"),
        ("half", {}, r"a number from 0 to 1.*is_success = \[1\.5"),
        ("none", {}, r"is_success = \[None"),
        ("step", {}, r"gym:Dot-v0 to step.*ZeroDivisionError: the solver"),
        ("exit", {}, r"gym:Dot-v0 to step.*SystemExit: 0"),
        ("silent", {}, r"infos solved, closeness"),
        ("", {"success_key": "success"}, "success_key=is_success"),
        ("at_end", {"max_steps": 3}, "leave out max_steps if"),
        ("", {"progress_key": "closenes"}, r"'closenes'.*got infos is_success, closeness.*progress_key="),
    ],
)
def test_what_an_environment_says_wrong_on_the_way_is_named(broken, more, words):
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": broken}, **more))
    with pytest.raises(SimulationError, match=words):
        played(world)
    world.close()


def test_infos_may_have_keys_that_are_no_words():
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": "numbers"}))
    assert played(world)[0].success
    world.close()


def test_numbers_of_numpy_are_numbers():
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": "numpy"}))
    assert [e.first_success_step for e in played(world)] == [1, 1]
    world.close()


def test_success_that_is_told_at_the_end_is_asked_of_whole_episodes_only():
    """The world without an episode in the last wave is stopped before its end."""
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": "at_end"}))
    idle = played(world, impossible=[None, "idle"])
    assert [e.success for e in idle] == [True, False]
    assert idle[0].steps < 20
    assert [e.success for e in played(world)] == [True, False]
    world.close()


def test_names_with_dots_are_places():
    settings = GymSettings("agent.pos", env_options={"broken": "dots"})
    world = GymWorld(NAME, 1, ("cam.rgb.top", "cam.side.rgb.top"), settings)
    world.reset([3])
    assert world.frames()[0, :, 0, 0, 2].tolist() == [0, 9]
    world.close()


@pytest.mark.parametrize(
    ("broken", "words"),
    [("unseeded", "starts differently from one seed"), ("alike", "starts alike from all seeds"), ("", "")],
)
def test_starts_that_do_not_follow_from_seeds_are_said(broken, words, capsys):
    reading.say_once.cache_clear()
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": broken}))
    world.reset([1, 2])
    world.reset([2, 2])
    world.close()
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == (1 if words else 0)


@pytest.mark.parametrize(("broken", "words"), [("close", "RuntimeError: no window"), ("hang", "after 0.1 s")])
def test_what_does_not_close_takes_no_results_with_it(broken, words, capsys, monkeypatch):
    monkeypatch.setattr(reading, "CLOSING_S", 0.1)
    reading.say_once.cache_clear()
    world = GymWorld(NAME, 2, CAMERAS, GymSettings("agent_pos", env_options={"broken": broken}))
    assert played(world)[0].success
    world.close()
    assert words in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random ACT of the dot's two cameras, in another order, whose actions all lie at the goal."""
    folder = tmp_path_factory.mktemp("dot")
    image = PolicyFeature(FeatureType.VISUAL, (3, PX, PX))
    config = ACTConfig(
        pretrained_backbone_weights=None, device="cpu", push_to_hub=False, use_vae=False, dim_model=16,
        n_heads=2, dim_feedforward=16, n_encoder_layers=1, chunk_size=5, n_action_steps=5,
        input_features={
            f"{OBS_IMAGES}.side": image, f"{OBS_IMAGES}.top": image,
            OBS_STATE: PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (2,))},
    )  # fmt: skip
    torch.manual_seed(0)
    policy = ACTPolicy(config)
    stats = {
        ACTION: {"mean": torch.tensor([GOAL, 0.0]), "std": torch.full((2,), 1e-4)},
        OBS_STATE: {"mean": torch.zeros(2), "std": torch.ones(2)},
    }
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    return folder


def rolled_out(checkpoint, out, *more):
    arguments = ["rollout", f"policy={checkpoint}", f"env={NAME}", "state_key=agent_pos", "episodes=3",
                 "num_worlds=2", f"output_dir={out}", "run=dot"]  # fmt: skip
    return main([*arguments, *more])


def test_a_checkpoint_of_lerobot_acts_in_it(checkpoint, tmp_path, capsys):
    assert rolled_out(checkpoint, tmp_path, "cameras=[pixels.top,pixels.side]") == 0
    assert f"{NAME}: success 1" in capsys.readouterr().out
    found = json.loads((tmp_path / "dot" / "rollout.json").read_text())
    assert [row["success"] for row in found["episodes"]] == [True] * 3
    assert (tmp_path / "dot" / "episodes.mp4").stat().st_size > 0


def test_results_stay_where_a_film_cannot_be_shot(checkpoint, tmp_path, capsys):
    made.clear()
    once = "env_options={broken: once}"
    assert rolled_out(checkpoint, tmp_path, "cameras=[pixels.top,pixels.side]", once, "episodes=2") == 0
    told = capsys.readouterr()
    assert f"{NAME}: success 1" in told.out
    assert "one licence" in "".join(told.err.split("no film: ")[1:])
    assert {path.name for path in (tmp_path / "dot").iterdir()} == {"checksums.json", "rollout.json"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("cameras=[pixels.top]",), "cameras side, top"),
        (("cameras=[pixels.top,pixels.side]", "embodiment=sawyer4"), "2 numbers of gym:Dot-v0"),
        (("cameras=[pixels.top,pixels.side]", "state_kye=x"), "state_key"),
        (("cameras=[pixels.top,pixels.side]", "env=reach"), "env=gym:<id> for state_key"),
    ],
)
def test_what_the_command_line_gets_wrong_is_named(checkpoint, tmp_path, capsys, more, words):
    assert rolled_out(checkpoint, tmp_path, *more) == 2
    assert words in capsys.readouterr().err


def test_a_policy_acts_in_one_task(checkpoint, tmp_path, capsys):
    tasks = f"tasks=[{NAME},gym:Nope-v0]"
    assert (
        main(["rollout", f"policy={checkpoint}", tasks, "state_key=agent_pos", f"output_dir={tmp_path}"]) == 2
    )
    assert f"one task for a policy; got {NAME}, gym:Nope-v0" in capsys.readouterr().err


def test_other_verbs_say_what_such_worlds_are_for(tmp_path, capsys):
    assert main(["data", f"env={NAME}", f"output_dir={tmp_path}"]) == 2
    assert "lary rollout policy=<checkpoint>" in capsys.readouterr().err


class Config:
    """What is asked of a policy's configuration."""

    def __init__(self, px=PX, state=2, action=2, more=()):
        self.image_features = {f"{OBS_IMAGES}.top": PolicyFeature(FeatureType.VISUAL, (3, px, px))}
        self.input_features = {
            **self.image_features, **dict.fromkeys(more),
            OBS_STATE: PolicyFeature(FeatureType.STATE, (state,)),
        }  # fmt: skip
        self.action_feature = PolicyFeature(FeatureType.ACTION, (action,))


def test_cameras_are_named_by_their_last_level_or_before_a_colon():
    """Two cameras of one name, and more than a policy sees of none of its names, are no guess."""
    dots = GymSettings("agent.pos", env_options={"broken": "dots"})
    for cameras in (("cam.rgb.top", "cam.side.rgb.top"), ("a:cam.rgb.top", "b:cam.side.rgb.top")):
        with pytest.raises(ConfigError, match=r"cameras top.*cameras=\[top:<its place>\]"):
            open_for(Config(), NAME, 1, cameras, dots)
    world, _ = open_for(Config(), NAME, 1, ("b:cam.rgb.top", "top:cam.side.rgb.top"), dots)
    assert world.cameras == ("cam.side.rgb.top",)
    world.close()


def test_a_policy_is_compared_with_the_world_before_the_first_step():
    world, env = open_for(Config(), NAME, 1, CAMERAS, SETTINGS)
    assert isinstance(env, GivenEnv)
    assert world.cameras == ("pixels.top",)
    assert env.features[ACTION].contract == {"control_hz": 10.0}
    world.close()
    wrong = {
        "actions of 3": Config(action=3), "proprioception": Config(state=3), "32 x 32": Config(px=64),
        "environment_state": Config(more=("observation.environment_state",)),
    }  # fmt: skip
    for words, config in wrong.items():
        with pytest.raises(LaryPolicyError, match=words):
            open_for(config, NAME, 1, CAMERAS, SETTINGS)
