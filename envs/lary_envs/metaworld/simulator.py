"""MetaWorld's own environments, made to run on MuJoCo 4."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
from functools import cache, lru_cache
from typing import Any

import mujoco
import numpy as np

from lary_policy.errors import SimulationError, summary

VERSION = "3.0.0"  # 3.1 pins a MuJoCo of another major release
INSTALL = f"pip install metaworld=={VERSION}"


def make_simulator(task: str, seed: int) -> Any:
    """Return one of MetaWorld's environments in the initial state of a seed, and of nothing else.

    It is a new one each time: tasks leave marks of an episode in their model and their attributes, which
    `reset` does not undo.

    Args:
        task: MetaWorld's name, e.g. `reach-v3`.
        seed: Of the initial state.

    Raises:
        SimulationError: MetaWorld is not installed, or another version is.
    """
    env = simulator_class(task)()
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    env._set_task_called, env._partially_observable = True, False  # the experts read the goal
    env.__dict__.pop("sawyer_observation_space", None)  # it was that of hidden goals
    env.max_path_length = np.iinfo(np.int64).max  # whoever steps us counts
    env.seed(int(seed))
    env._last_stable_obs, _ = env.reset()
    return env


@cache
def simulator_class(task: str) -> type:
    """Return the class of a task with the one method corrected that MuJoCo since 3.17 needs.

    Raises:
        SimulationError: MetaWorld is not installed, or another version is.
    """
    own = _package().env_dict.ENV_CLS_MAP[task]
    return type(own.__name__, (own,), {"reset_mocap_welds": _reset_welds, "_initialize_simulation": _load})


def expert_of(task: str) -> Any:
    """Return MetaWorld's scripted policy of a task.

    Raises:
        SimulationError: MetaWorld is not installed, or another version is.
    """
    _package()
    return importlib.import_module("metaworld.policies").ENV_POLICY_MAP[task]()


@cache
def _package() -> Any:
    try:
        found = importlib.metadata.version("metaworld")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != VERSION:
        raise SimulationError(expected=f"metaworld {VERSION}", got=found, fix=f"Run: {INSTALL}")
    try:
        importlib.import_module("metaworld.env_dict")
        return importlib.import_module("metaworld")
    except Exception as error:  # whatever a broken or shadowed package raises
        raise SimulationError(
            expected=f"metaworld {VERSION} that can be imported", got=summary(error), fix=f"Run: {INSTALL}"
        ) from error


def _reset_welds(env: Any) -> None:
    """Let the hand follow the mocap body; `eq_data` has had a twelfth column since MuJoCo 3.17."""
    weld = np.zeros(env.model.eq_data.shape[1])
    weld[6], weld[10] = -1.0, 5.0
    env.model.eq_data[env.model.eq_type == mujoco.mjtEq.mjEQ_WELD] = weld


def _load(env: Any) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Return a copy of the compiled scene: reading its XML and meshes takes many times longer."""
    model = copy.copy(_compiled(env.fullpath))
    return model, mujoco.MjData(model)


@lru_cache(maxsize=2)
def _compiled(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)
