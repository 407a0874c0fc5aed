"""Gymnasium environments of all tasks, single and vectorised, and LeRobot's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
