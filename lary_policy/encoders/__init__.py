"""Frozen encoders: uint8 frames in, latent tokens out, one registry for all of them."""

import lazy_loader

from lary_policy.paths import import_modules

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Encoders register themselves when they are imported.
import_modules(f"{__name__}.auto")
import_modules(f"{__name__}.families", packages=True)
