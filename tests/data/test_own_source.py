"""A source is one registration: its settings at the command line, their help and errors are its arguments."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from lary_policy.cli.compose import compose
from lary_policy.cli.help import run_help
from lary_policy.data import registry
from lary_policy.data.registry import list_sources, open_source, register_source
from lary_policy.errors import ConfigError, UnknownNameError


@dataclass
class Plain:
    key: str
    given: tuple


@pytest.fixture(autouse=True)
def plain():
    @register_source("plain")
    def _open(key: str, *, data_dir: Path | None, chunk: int = 5, side: str, protocol: str = "native"):
        return Plain(key, (data_dir, chunk, side, protocol))

    yield
    del registry._FACTORIES["plain"]


def test_its_settings_are_the_arguments_of_its_factory(tmp_path):
    assert "plain" in list_sources()
    settings = compose("suite", ["source=plain", f"data_dir={tmp_path}", "chunk=3", "side=left"])
    assert settings["options"] == {"atomic": None, "chunk": 3, "side": "left"}
    source = open_source("plain", data_dir=tmp_path, protocol="lary", **settings["options"])
    assert source == Plain("plain", (tmp_path, 3, "left", "lary"))
    said = run_help("suite", ["source=plain"])
    assert "  chunk=5" in said
    assert "  side=null" in said


def test_slips_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="chunk"):
        compose("suite", ["source=plain", f"data_dir={tmp_path}", "chunks=3"])
    with pytest.raises(ConfigError, match="a whole number"):
        open_source("plain", data_dir=tmp_path, chunk=2.5, side="left")
    with pytest.raises(UnknownNameError, match="calvin"):
        compose("suite", ["source=calvinn", f"data_dir={tmp_path}"])
