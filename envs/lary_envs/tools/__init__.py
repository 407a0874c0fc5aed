"""Tools for people who build scenes: gallery, reachability, tracking."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
