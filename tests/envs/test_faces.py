"""What `lary_envs` and its packages offer: names that exist, imported when they are first used."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import lary_envs
from lary_envs.tasks import list_tasks, task_entry, task_spec

PACKAGES = [
    "lary_envs",
    *(f"lary_envs.{m.name}" for m in pkgutil.iter_modules(lary_envs.__path__) if m.ispkg),
]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_of_a_face_exists(name):
    face = importlib.import_module(name)
    assert face.__all__
    assert {offered for offered in face.__all__ if not hasattr(face, offered)} == set()
    with pytest.raises(AttributeError, match="no_such_name"):
        face.no_such_name  # noqa: B018


def test_names_ids_and_specs_of_tasks_need_no_simulator():
    code = (
        "import sys, gymnasium, lary_envs; lary_envs.task_spec('push');"
        "assert 'lary/PandaPush-v0' in gymnasium.registry;"
        "print([m for m in ('torch', 'mujoco', 'warp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_tasks_source_states_is_what_it_registers():
    assert {name: task_spec(name) for name in list_tasks()} == {n: task_entry(n).spec for n in list_tasks()}
