"""Where the files of a store are published: a folder that machines share, or an object store by its URL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lary_policy.errors import LaryPolicyError, StoreError, summary
from lary_policy.latents.shards import write_parts
from lary_policy.paths import foreign_file

# Those whose files appear whole or not at all; elsewhere a file gets its name when it is complete.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "ocilake", "oss"}


class Place:
    """A folder or a URL that fsspec knows, e.g. `s3://bucket/latents`; may be sent to other machines.

    Args:
        address: Folder, or URL; keys and endpoints come from the environment or fsspec's own configuration.

    Raises:
        StoreError: fsspec, or the package that it needs for the URL, does not know it.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = address
        if not isinstance(address, Path) and address.partition("://")[0] in ("file", "local", "memory"):
            raise StoreError(
                expected="a folder, or the URL of a store that every machine reaches",
                got=f"'{address}'",
                fix="Write a folder as its plain path.",
            )
        self._files()

    def __truediv__(self, name: str) -> Place:
        """Return the place `name` below this one."""
        if isinstance(self.address, Path):
            return Place(self.address / name)
        return Place(f"{self.address.rstrip('/')}/{name}")

    def put(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Publish a file: whoever looks sees all of it or nothing.

        Raises:
            StoreError: The disk is full or may not be written, or the store refuses.
        """
        if isinstance(self.address, Path):
            write_parts(self.address / name, parts)
            return
        files, root = self._files()
        try:
            if self.address.partition("://")[0] in OBJECT_STORES:
                files.pipe_file(f"{root}/{name}", b"".join(parts))
                return
            folder, _, last = f"{root}/{name}".rpartition("/")
            files.makedirs(folder, exist_ok=True)
            files.pipe_file(f"{folder}/.{last}.tmp", b"".join(parts))
            files.mv(f"{folder}/.{last}.tmp", f"{folder}/{last}")
        except Exception as error:  # each kind of store has its own
            raise self._refused(f"room and permission to write {name}", error) from error

    def get(self, name: str) -> bytes | None:
        """Return the content of a file; None where there is none.

        Raises:
            StoreError: It cannot be read.
        """
        if isinstance(self.address, Path):
            with (
                foreign_file("a readable file", self.address / name, "Make it readable.", error=StoreError),
                suppress(FileNotFoundError),
            ):
                return (self.address / name).read_bytes()
            return None
        files, root = self._files()
        try:
            content: bytes = files.cat_file(f"{root}/{name}")
            return content
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._refused(f"a readable {name}", error) from error

    def holds(self, name: str) -> bool:
        """Tell whether a file is there, complete.

        Raises:
            StoreError: The store does not say.
        """
        if isinstance(self.address, Path):
            return (self.address / name).is_file()
        files, root = self._files()
        try:
            return bool(files.isfile(f"{root}/{name}"))
        except Exception as error:
            raise self._refused(f"an answer whether {name} exists", error) from error

    def names(self, folder: str) -> set[str]:
        """Return the names of the complete files right below a folder; none where there is no such folder.

        Raises:
            StoreError: It cannot be read.
        """
        if isinstance(self.address, Path):
            found = [path.name for path in (self.address / folder).glob("*")]
        else:
            files, root = self._files()
            try:
                found = [str(one).rpartition("/")[2] for one in files.ls(f"{root}/{folder}", detail=False)]
            except FileNotFoundError:
                found = []
            except Exception as error:
                raise self._refused(f"a readable folder {folder}", error) from error
        return {name for name in found if name and not name.startswith(".")}

    def remove(self, name: str) -> None:
        """Remove a file that may be there; one that cannot be removed stays."""
        with suppress(Exception):
            if isinstance(self.address, Path):
                (self.address / name).unlink(missing_ok=True)
            else:
                files, root = self._files()
                files.rm_file(f"{root}/{name}")

    def _files(self) -> tuple[Any, str]:
        """Return fsspec's file system of a URL, which keeps one connection a process, and the root in it."""
        if isinstance(self.address, Path):
            return None, str(self.address)
        from fsspec.core import url_to_fs

        try:
            # Others write while we look: nothing that was listed is remembered.
            files, root = url_to_fs(self.address, use_listings_cache=False)
        except Exception as error:  # ImportError says which package is missing, ValueError no such protocol
            raise self._refused("a folder or a URL that fsspec opens", error) from error
        return files, root.rstrip("/")

    def _refused(self, expected: str, error: Exception) -> LaryPolicyError:
        return StoreError(
            expected=f"{expected} at {self.address}",
            got=summary(error),
            fix="Check address, keys and rights of the store (pip install s3fs for s3://); what is published "
            "is kept, so start the same command again.",
        )
