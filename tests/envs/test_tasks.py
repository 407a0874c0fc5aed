"""Every registered task: its expert succeeds, and its success condition can fail."""

import dataclasses
import math

import pytest
import torch

from lary_envs.controller import EndEffectorController
from lary_envs.env import SimEnv
from lary_envs.kinematics.chain import TorchChain
from lary_envs.robots.robot import robot_of
from lary_envs.tasks.expert import make_expert
from lary_envs.tasks.spec import Placement, list_tasks, register_task, task_entry, task_spec
from lary_envs.tasks.state import WorldState
from lary_envs.tools.reachability import joint_margin_rad
from lary_policy.errors import SimulationError, UnknownNameError

TASKS = list_tasks()
MARGIN_RAD = math.radians(2)  # servos sag by less than half a degree under load
ARM7 = tuple(task for task in TASKS if task_spec(task).embodiment == "arm7")


def world_of(task):
    """Return the state of one world before its first reset."""
    return SimEnv(task, 1).world_state()


def run_expert(task, seeds, noise_m=0.0, watch=None):
    """Return bool `[w]` for success ever and at the end, the largest move, and progress `[steps, w]`.

    `watch(env, controller, wanted)` is called after each step.
    """
    env = SimEnv(task, len(seeds))
    controller = EndEffectorController(len(seeds), embodiment=env.task.embodiment)
    env.reset(seeds)
    controller.reset(env.joints())
    expert = make_expert(task, env)
    expert.reset()
    generator, target = torch.Generator().manual_seed(0), controller.pose()
    ever = torch.zeros(len(seeds), dtype=torch.bool)
    largest, progress = 0.0, [env.progress()]
    for _ in range(env.task.max_steps):
        wanted = expert.act(target)
        largest = max(largest, float((wanted - target)[:, :3].norm(dim=-1).max()))
        noise = noise_m * torch.randn(len(seeds), 3, generator=generator)
        wanted[:, :3] += noise * expert.free_space()[:, None]
        assert controller.check(wanted) == [None] * len(seeds)
        env.step(controller.command(wanted))
        target = wanted
        if watch is not None:
            watch(env, controller, wanted)
        ever |= env.success()
        progress.append(env.progress())
        assert torch.equal(progress[-1] == 1, ever)
    return ever, env.success(), largest, torch.stack(progress)


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds_on_50_seeds_and_reaches_all_that_it_asks_for(task):
    chain = TorchChain([arm.chain for arm in robot_of(task_spec(task).embodiment).arms])
    margins = []

    def watch(env, controller, wanted):
        assert not controller.out_of_reach().any()
        joints, asked = controller.joints(), env.layout.to_arms(wanted.double())
        lag = (chain.forward(joints)[0] - asked[..., :3]).norm(dim=-1)
        assert lag.max() < 0.02  # joints at their speed limits lag behind
        margins.append(joint_margin_rad(chain, joints).min())

    ever, at_end, largest, progress = run_expert(task, range(1000, 1050), watch=watch)
    assert torch.stack(margins).min() > MARGIN_RAD
    assert int(ever.sum()) >= 48
    assert int(at_end.sum()) >= 48
    assert largest < 0.0205  # 0.4 m/s
    assert (progress[0] == 0).all()
    assert (progress.diff(dim=0) >= 0).all()
    stages = len(task_entry(task).factory().milestones(world_of(task)))
    seen = progress[:, ever].unique().mul(stages + 1).round().int().tolist()
    assert seen == list(range(stages + 2))  # every milestone stands for something that episodes pass through


@pytest.mark.parametrize("task", TASKS)
def test_who_does_nothing_gets_nowhere(task):
    env, controller = SimEnv(task, 20), None
    controller = EndEffectorController(20, embodiment=env.task.embodiment)
    env.reset(range(20))
    controller.reset(env.joints())
    for _ in range(env.task.max_steps // 2):
        env.step(controller.command(controller.pose()))
    assert env.progress().mean() < 0.2
    assert env.progress().max() < 0.8


@pytest.mark.parametrize("task", TASKS)
def test_expert_corrects_injected_noise(task):
    ever, *_ = run_expert(task, range(20), noise_m=0.005)
    assert int(ever.sum()) >= 18


def world(**changes):
    """One world in which the pick-and-place, push and reach conditions all hold."""
    fields = {
        "arms": [[0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 0.95]],
        "goals": [[0.5, 0.1, 0.0]],
        "goal_yaw": 0.0,
        "object_pos": [0.51, 0.1, 0.02],
        "object_rot": torch.eye(3).tolist(),
        "object_speed": 0.0,
        "object_peak": 0.12,
    }
    return WorldState(
        **{k: torch.tensor([changes.get(k, v)], dtype=torch.float64) for k, v in fields.items()}
    )


BROKEN = {
    "reach": [
        {"arms": [[0.5, 0.1, 0.031, 0.0, 0.0, 0.0, 1.0]]},
        {"arms": [[0.5, 0.131, 0.0, 0.0, 0.0, 0.0, 1.0]]},
    ],
    "push": [{"object_pos": [0.55, 0.1, 0.025]}, {"object_speed": 0.2}],
    "pick_place": [
        {"object_pos": [0.5, 0.145, 0.02]},
        {"object_pos": [0.5, 0.1, 0.06]},
        {"object_peak": 0.05},
        {"object_speed": 0.2},
        {"arms": [[0.5, 0.1, 0.02, 0.0, 0.0, 0.0, 0.55]]},
    ],
}


def test_every_task_has_broken_conditions():
    assert set(BROKEN) == set(ARM7)


@pytest.mark.parametrize("task", sorted(BROKEN))
def test_every_part_of_the_condition_matters(task):
    rules = task_entry(task).factory()
    assert bool(rules.holds(world()))
    for change in BROKEN[task]:
        assert not bool(rules.holds(world(**change))), change


def test_success_needs_its_duration():
    env, controller = SimEnv("reach", 1), EndEffectorController(1)
    env.reset([0])
    controller.reset(env.joints())
    target = controller.pose()
    target[:, :3] = env.state()["goal_pos"]
    held = 0
    while not env.success():
        env.step(controller.command(target))
        near = (env.proprio()[:, :3] - env.state()["goal_pos"]).norm() < 0.03
        held = held + 1 if near else 0
        assert held <= env.task.hold_steps
    assert held == env.task.hold_steps == 10


@pytest.mark.parametrize("task", TASKS)
def test_sampled_goals_lie_on_or_above_the_table_and_in_reach(task):
    env = SimEnv(task, 200)
    env.reset(range(200))
    state = env.state()
    assert all(value.shape[0] == 200 and value.ndim == 2 for value in state.values())
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())
    arms = [state[name] for name in state if name.split("_")[0] in ("hand", "left", "right")]
    assert sum(value.shape[1] for value in arms) in (10, 18, 20)  # position, two columns, opening
    torch.testing.assert_close(arms[0], env.world_state().arms[:, 0, :3].float())
    for name, pos in state.items():
        if name in ("object_pos", "goal_pos", "goal_2_pos"):
            assert (pos[:, 2] >= 0).all()
            assert pos[:, 0].min() > 0.3
            assert pos[:, :2].norm(dim=-1).max() < 0.75


def test_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'reach'"):
        task_spec("reeach")
    for typed in ("GYM:Hopper-v5", "Hopper-v5", "gymnasium:Hopper-v5"):
        with pytest.raises(UnknownNameError, match="Did you mean 'gym:Hopper-v5'"):
            task_spec(typed)
    with pytest.raises(UnknownNameError, match="Did you mean 'gym:gym_pusht:gym_pusht/PushT-v0'"):
        task_spec("gym_pusht:gym_pusht/PushT-v0")
    written = ("MetaWorld/Reach-v3", "metaworld:reach", "meta-world/reach-v2", "gym:Meta-World/reach-v3")
    for typed in (*written, "metaworld-reach-v3", "lary/MetaWorldReach-v0", "reach-v3"):
        with pytest.raises(UnknownNameError, match="Did you mean 'metaworld/reach-v3'"):
            task_spec(typed)
    for typed in ("metaworld", "Meta-World/MT1", "gym:metaworld:Meta-World/MT10"):
        with pytest.raises(UnknownNameError, match="Did you mean 'metaworld/<task>'"):
            task_spec(typed)
    with pytest.raises(
        UnknownNameError, match=r"Closest of \d+ names: reach, .*`lary rollout --help`"
    ) as short:
        task_spec("reeach")
    assert len(str(short.value)) < 300
    with pytest.raises(UnknownNameError, match=r"open_world\('metaworld/reach-v3'"):
        SimEnv("metaworld/reach-v3", 1)
    spec = dataclasses.replace(task_entry("reach").spec)
    with pytest.raises(SimulationError, match="twice"):
        register_task(spec, tuple)(lambda: None)
    assert Placement((0.0, 0.0, 0.0)).yaw_rad == 0.0
