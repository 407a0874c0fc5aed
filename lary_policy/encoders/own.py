"""Encoders of a user's own package, named on the command line as `package.module:Attribute`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
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
