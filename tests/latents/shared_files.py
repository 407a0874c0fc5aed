"""A file system with a URL of its own, as fsspec's that are no object stores."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem


class SharedFileSystem(LocalFileSystem):
    """A store by URL whose files others could see unfinished: files get their names when they are whole."""

    protocol = "shared"
    full = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("shared://"))

    def pipe_file(self, path, value, **_):
        name = Path(self._strip_protocol(path)).name
        assert name.startswith(".")
        assert name.endswith(".tmp")
        if self.full:
            raise OSError(28, "No space left on device")
        Path(self._strip_protocol(path)).write_bytes(value)


@pytest.fixture
def shared_url(tmp_path, monkeypatch) -> str:
    fsspec.register_implementation("shared", SharedFileSystem, clobber=True)
    monkeypatch.setattr(SharedFileSystem, "full", False)
    return f"shared://{tmp_path}/there"
