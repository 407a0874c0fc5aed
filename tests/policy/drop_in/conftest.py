"""A CLIP folder for the policy that reads task text."""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in_policies import tiny_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a toy CLIP text tower."""
    return tiny_clip(tmp_path_factory.mktemp("text"))
