"""LeRobot's parser looks for the comments of each field in its source, and finds the same in every test."""

from functools import cache

import draccus.wrappers.docstring as docstring
import pytest


@pytest.fixture(scope="session", autouse=True)
def _comments_read_once():
    found = docstring.get_attribute_docstring
    docstring.get_attribute_docstring = cache(found)
    yield
    docstring.get_attribute_docstring = found
