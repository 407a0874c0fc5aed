"""Actions: embodiments, rotations, contracts, targets, their mean and deviation, and the one codec."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
