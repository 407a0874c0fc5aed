"""LeRobot's own policies with an encoder of this package in place of their vision tower."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
