"""Encoders of a user's own package, named on the command line as `package.module:Attribute`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lary_policy.errors import ConfigError, UnknownNameError

EXAMPLE = "encoder=my_pkg.my_vit:MyEncoder"


def import_attribute(name: str) -> Any:
    """Import `package.module` and return its `Attribute`; the working directory counts as installed.

    Raises:
        ConfigError: The name is not of that form, or the module cannot be imported.
        UnknownNameError: The module has no such attribute; the message lists the public ones.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            expected=f"an own encoder as package.module:Attribute, like {EXAMPLE}",
            got=f"'{name}'",
            fix="Write the dotted module, one colon and the name of the class, builder or spec in it.",
        )
    module = _import(module_name)
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownNameError(f"attribute of {module_name}", attribute, public)
    return getattr(module, attribute)


def check_installed(name: str) -> None:
    """Check that a module which a file names may be imported; nothing is imported to find out.

    A module is installed when it was imported already, or when it lies outside the working directory, where
    whoever wrote the file may have put it, and contains `register_encoder`: that no other module of an
    environment does anything useful here does not keep its import from doing harm.

    Raises:
        ConfigError: It is not.
    """
    module = name.partition(":")[0]
    if module in sys.modules:
        return
    source = _installed_source(module)
    if source is None or b"register_encoder" not in source.read_bytes():
        raise ConfigError(
            expected="an installed package with an own encoder, because the name stands in a file",
            got=f"'{name}', " + ("which is not installed" if source is None else "which registers none"),
            fix="If you trust it, install its package (pip install -e <folder>), or type the name yourself: "
            f"--policy.encoder.name={name}.",
        )


def _installed_source(module: str) -> Path | None:
    """Return the file of a module that lies outside the working directory, without importing anything."""
    places: Sequence[str] | None = None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        here = ".".join(parts[:length])
        specs = (finder.find_spec(here, places) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        if length == 1:
            folder = Path(spec.origin).resolve().parent
            if (folder.parent if spec.submodule_search_locations else folder) == Path.cwd().resolve():
                return None
        places = spec.submodule_search_locations
        if places is None and length < len(parts):
            return None
    return Path(spec.origin) if spec and spec.origin else None


def source_digest(name: str) -> str:
    """Return 8 hex digits over the source of an imported module, so that edited code is not taken for old."""
    source = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
    return hashlib.sha256(Path(source).read_bytes() if source else b"").hexdigest()[:8]


def _import(name: str) -> Any:
    """Import a module with the working directory as the last place to look."""
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            expected=f"an importable module '{name}'",
            got=f"{type(error).__name__}: {error}",
            fix=f"Install its package into this environment, or start where it lies (now in {folder}).",
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
