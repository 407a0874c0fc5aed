"""`lary_policy.__all__` is small and every name in it exists."""

import subprocess
import sys

import pytest

import lary_policy


def test_at_most_twenty_names():
    assert len(lary_policy.__all__) <= 20
    assert set(lary_policy.__all__) <= set(dir(lary_policy))


@pytest.mark.parametrize("name", lary_policy.__all__)
def test_name_resolves(name):
    assert getattr(lary_policy, name) is not None


def test_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match="load_encoder"):
        lary_policy.load_encodr  # noqa: B018


@pytest.mark.parametrize("module", ["lary_policy", "lary_policy.cli", "lary_policy.policy", "lary_envs"])
def test_light_imports_stay_light(module):
    heavy = ("torch", "transformers", "mujoco", "warp", "diffusers")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
