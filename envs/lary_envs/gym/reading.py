"""What environments that others made give back, read at one edge: whatever is wrong is a named error."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lary_envs.tasks import family_written
from lary_policy.console import console
from lary_policy.errors import (
    ConfigError,
    LaryPolicyError,
    SimulationError,
    UnknownNameError,
    summary,
)

PREFIX = "gym:"  # of the name of a task
RENDERED = "render"  # the camera that is `env.render()`
_MODULES = (
    f"{PREFIX}<module>:<id> imports the module that registers an id: {PREFIX}gym_pusht:gym_pusht/PushT-v0."
)
_NO_ARRAYS = (tuple, list, str)  # of Tuple, Text and other spaces: nothing of them is one array
_NUMBERS = (int, float, np.integer, np.floating)
_THEIRS = (Exception, SystemExit)  # some end the process where a licence, a display or a file is missing
CLOSING_S = 10.0  # simulators free windows and processes in less; waiting longer is waiting for good


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
    except _THEIRS as error:
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
    except _THEIRS as error:  # it is not installed, or whatever the package raises
        top = module.partition(".")[0]
        often = f" (often: pip install {top.replace('_', '-')})" if top.isidentifier() else ""
        install = f"Install its package{often}, or name its module: env={PREFIX}<module>:{own}."
        raise ConfigError(
            expected=f"a module '{module}', which registers {own}",
            got=summary(error),
            fix=_of_ours(own) or install,
        ) from error
    if own not in gymnasium.registry:
        names = [one for one in gymnasium.registry if module and one.startswith(f"{module}/")]
        near = get_close_matches(own, names or gymnasium.registry, 1, 0.8)
        raise UnknownNameError(
            "gymnasium environment", own, names or gymnasium.registry,
            meant=f"{PREFIX}{near[0]}" if near else "" if module else f"{PREFIX}<module>:{own}",
            listed=_MODULES,
        )  # fmt: skip
    drawn = {"render_mode": "rgb_array"} if RENDERED in cameras else {}
    try:
        return gymnasium.make_vec(own, num_envs=num_worlds, **{**drawn, **options})
    except _THEIRS as error:  # whatever its constructor raises
        raise ConfigError(
            expected=f"{own} made with env_options {dict(options)}",
            got=summary(error),
            fix=_of_ours(own) or "Pass env_options={<argument>: <value>} as its documentation says.",
        ) from error


def _of_ours(gym_id: str) -> str:
    """Return what to do about an id whose worlds we have ourselves, or ""."""
    family, _ = family_written(gym_id)
    return family and f"Pass env={family}/<task>, which needs no gymnasium id ({family}'s own may not run)."


def packages_of(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> tuple[str, ...]:
    """Return the distributions that an environment is made of, as far as its id tells: for their versions."""
    made_by = None if env.spec is None else (env.spec.entry_point or env.spec.vector_entry_point)
    module = made_by if isinstance(made_by, str) else getattr(made_by, "__module__", "")
    top = str(module).partition(":")[0].partition(".")[0]
    return tuple(dict.fromkeys(("gymnasium", *_distributions().get(top, ()))))


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the distributions of each module, for which the files of all of them are read: half a second."""
    return importlib.metadata.packages_distributions()


@cache
def say_once(note: str) -> None:
    """Print a line, unless this process has printed the same before."""
    console.print(f"    {note}", soft_wrap=True, markup=False)


def close_worlds(env: gymnasium.vector.VectorEnv[Any, Any, Any], name: str) -> None:
    """Close an environment; one that raises, or hangs in the main thread, is left as it is, which is said.

    Args:
        env: The environment; it must not be used afterwards.
        name: What it is called.
    """

    def give_up(*_: object) -> None:
        raise TimeoutError(f"it still does after {CLOSING_S:g} s")

    alarmed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, give_up) if alarmed else None
    left = signal.setitimer(signal.ITIMER_REAL, CLOSING_S) if alarmed else (0.0, 0.0)
    try:
        env.close()
    except _THEIRS as error:
        say_once(f"{name} does not close as it should: {summary(error)}")
        with contextlib.suppress(Exception):
            env.closed = True  # else it is tried once more when the process ends
    finally:
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, *left)
            signal.signal(signal.SIGALRM, before)


def stated(what: str, value: Any, name: str) -> float:
    """Return a number above 0 that the environment or the user states.

    Raises:
        ConfigError: Neither does, or it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 < value < math.inf:
        raise ConfigError(
            expected=f"{what} of {name} as a number above 0",
            got="an environment that does not state it" if value is None else _described(value),
            fix=f"Pass {what}={10 if what == 'control_hz' else 300}, for example.",
        )
    return float(value)


def array_at(seen: Any, place: str | None, what: str, worlds: int) -> NDArray[Any]:
    """Return the numbers `[w, ...]` that stand at a place of an observation.

    Raises:
        UnknownNameError: Nothing; the message lists what there is.
        ConfigError: No place was named, and there are several.
        SimulationError: Something else than one array of numbers with an entry a world.
    """
    every, rest = seen, place or ""
    while rest and not isinstance(seen, _NO_ARRAYS):
        here = [name for name in _names(seen) if f"{rest}.".startswith(f"{name}.")]
        if not here:
            raise UnknownNameError(f"place in the observation for {what}", str(place), _leaves(every))
        level = max(here, key=len)  # a name may have dots itself
        seen, rest = seen[level], rest[len(level) + 1 :]
    if isinstance(seen, Mapping) and place is None:
        raise ConfigError(
            expected=f"{what}=<place>, as the observation has several parts",
            got=f"no {what}",
            fix=f"Pass {what}=<one of {', '.join(_leaves(every))}>.",
        )
    if isinstance(seen, Mapping):
        raise UnknownNameError(f"place in the observation for {what}", str(place), _leaves(every))
    array = None if isinstance(seen, _NO_ARRAYS) else np.asarray(seen)
    if array is None or array.dtype.kind not in "biuf" or array.shape[:1] != (worlds,):
        raise SimulationError(
            expected=f"numbers [{worlds}, ...] at place {place or '(all of the observation)'} for {what}",
            got=_described(seen),
            fix=f"Choose another place for {what}, or wrap the environment so that this is a Box.",
        )
    return array


def _names(seen: Any) -> list[str]:
    return [name for name in seen if isinstance(name, str)] if isinstance(seen, Mapping) else []


def _leaves(seen: Any, place: str = "") -> list[str]:
    """Return all places of an observation that hold no further ones; `null` where it has no names."""
    if not isinstance(seen, Mapping):
        return [place or "null"]
    inside = [f"{place}.{name}" if place else name for name in _names(seen)]
    return [leaf for name, at in zip(_names(seen), inside, strict=True) for leaf in _leaves(seen[name], at)]


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
