"""`lary_policy.__all__` is small and every name in it exists."""

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
