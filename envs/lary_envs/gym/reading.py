"""What environments that others made give back, read at one edge: whatever is wrong is a named error."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lary_policy.errors import (
    ConfigError,
    LaryPolicyError,
    SimulationError,
    UnknownNameError,
    summary,
)

PREFIX = "gym:"  # of the name of a task
RENDERED = "render"  # the camera that is `env.render()`
_NO_ARRAYS = (tuple, list, str)  # of Tuple, Text and other spaces: nothing of them is one array
_NUMBERS = (int, float, np.integer, np.floating)


@contextlib.contextmanager
def theirs(name: str, what: str) -> Iterator[None]:
    """The edge around code of others: whatever it raises, or breaks on the way, is a SimulationError.

    Args:
        name: Of the environment.
        what: What it is asked for, e.g. `step`.
    """
    try:
        yield
    except LaryPolicyError:
        raise
    except Exception as error:
        raise SimulationError(
            expected=f"{name} to {what} as gymnasium's vector environments do",
            got=summary(error),
            fix="Repair or wrap the environment (gymnasium.utils.env_checker.check_env says more), or pass "
            "other env_options.",
        ) from error


def make_worlds(
    gym_id: str, num_worlds: int, cameras: Sequence[str], options: Mapping[str, Any]
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make a vector environment.

    Raises:
        UnknownNameError: There is no such id; the closest one is named.
        ConfigError: Its module is not installed, or it does not take the options.
    """
    module, _, own = gym_id.rpartition(":")
    module = module or own.rpartition("/")[0]  # the usual name of what registers a namespace
    try:
        if own not in gymnasium.registry and module:
            importlib.import_module(module)
    except Exception as error:  # it is not installed, or whatever the package raises
        raise ConfigError(
            expected=f"a module '{module}', which registers {own}",
            got=summary(error),
            fix=f"Install its package (often: pip install {module.replace('_', '-')}), or name its module: "
            f"env={PREFIX}<module>:{own}.",
        ) from error
    if own not in gymnasium.registry:
        raise UnknownNameError("gymnasium environment", own, gymnasium.registry)
    drawn = {"render_mode": "rgb_array"} if RENDERED in cameras else {}
    try:
        return gymnasium.make_vec(own, num_envs=num_worlds, **{**drawn, **options})
    except Exception as error:  # whatever its constructor raises
        raise ConfigError(
            expected=f"{own} made with env_options {dict(options)}",
            got=summary(error),
            fix="Pass env_options={<argument>: <value>} as its documentation says.",
        ) from error


def stated(what: str, value: Any, name: str) -> float:
    """Return a number above 0 that the environment or the user states.

    Raises:
        ConfigError: Neither does, or it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 < value < math.inf:
        raise ConfigError(
            expected=f"{what} of {name} as a number above 0",
            got="an environment that does not state it" if value is None else _described(value),
            fix=f"Pass {what}=<number>.",
        )
    return float(value)


def array_at(seen: Any, place: str | None, what: str, worlds: int) -> NDArray[Any]:
    """Return the numbers `[w, ...]` that stand at a place of an observation.

    Raises:
        UnknownNameError: Nothing; the message lists what there is on that level.
        SimulationError: Something else than one array of numbers with an entry a world.
    """
    for level in place.split(".") if place else ():
        if isinstance(seen, _NO_ARRAYS):
            break
        if not isinstance(seen, Mapping) or level not in seen:
            there = list(seen) if isinstance(seen, Mapping) else ["null"]
            raise UnknownNameError(f"place in the observation for {what}", str(place), there)
        seen = seen[level]
    if isinstance(seen, Mapping):
        raise UnknownNameError(f"place in the observation for {what}", str(place), seen)
    array = None if isinstance(seen, _NO_ARRAYS) else np.asarray(seen)
    if array is None or array.dtype.kind not in "biuf" or array.shape[:1] != (worlds,):
        raise SimulationError(
            expected=f"numbers [{worlds}, ...] at place {place or '(all of the observation)'} for {what}",
            got=_described(seen),
            fix=f"Choose another place for {what}, or wrap the environment so that this is a Box.",
        )
    return array


def per_world(value: Any, said: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Return a number a world, 0 for those that did not say one; None where it is not that.

    Args:
        value: What a vector environment says: an array of numbers `[w]` or `[w, 1]`, or of objects.
        said: bool `[w]`, the worlds whose entries count.
    """
    told = np.asarray(value)
    if told.size != len(said) or told.shape[:1] != said.shape:
        return None
    numbers, found = told.reshape(-1)[said], np.zeros(len(said))
    if numbers.dtype.kind == "O" and all(isinstance(one, (*_NUMBERS, np.bool_)) for one in numbers):
        numbers = numbers.astype(float)
    if numbers.dtype.kind not in "biuf":
        return None
    found[said] = numbers
    return found


def _described(value: Any) -> str:
    """Return kind and size of something else than expected."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {' '.join(str(value).split())[:80]}"


def with_finals(seen: Any, info: Mapping[str, Any], ended: NDArray[np.bool_]) -> Any:
    """Return observations in which worlds that have been reset within the step show how they ended."""
    finals = info.get("final_obs")
    if finals is None or not ended.any():
        return seen
    for world in np.flatnonzero(ended):
        if finals[world] is not None:
            seen = _replaced(seen, finals[world], world)
    return seen


def _replaced(batch: Any, one: Any, world: int) -> Any:
    if isinstance(batch, Mapping):
        return {name: _replaced(values, one[name], world) for name, values in batch.items()}
    copied = np.array(batch)
    copied[world] = one
    return copied
